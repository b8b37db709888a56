"""What advise found: an option for each choice tried, the best one, and its command."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.table import Table

from teravec.arguments import real_number
from teravec.report import Report

__all__ = ["Advice", "Bounds", "Option", "choose"]


@dataclass(frozen=True)
class Bounds:
    """What an option has to meet.

    Parameters
    ----------
    recall : float
        Recall of the k nearest that searches will ask for.
    k : int
    memory_bytes : int, optional
        Memory of the machine that searches: half of it keeps lists.
    bytes_per_vector : float, optional
        Most bytes of the index for each vector.
    latency_s : float, optional
        Most seconds of a query alone.
    """

    recall: float = 0.95
    k: int = 10
    memory_bytes: int | None = None
    bytes_per_vector: float | None = None
    latency_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("bytes_per_vector", "latency_s"):
            if (value := getattr(self, name)) is not None:
                real_number(value, name.removesuffix("_s"), 1e-9, 1e12, "a number above 0")


@dataclass(frozen=True)
class Option:
    """One choice, and what an index of all vectors is expected to show.

    Parameters
    ----------
    codec : str
    transform : str
        ``usual``: what ``build`` takes if it is told none.
    nlist : int
    bytes_per_vector : float
        The index's files, over the vectors.
    highest_recall : float
        Highest recall that any effort reaches.
    lists, bytes_per_query : float or None
        Lists visited and bytes read by a query alone at the recall asked for, no list in memory;
        None where that is out of reach.
    cpu_s : float or None
        Seconds of one thread for a query, its lists in memory, on the machine that measured.
    cached : float
        Share of the index that the memory given keeps.
    latency_s : float or None
        Seconds of a query alone, at that share.
    queries_per_s : float or None
        Rate of many queries, at that share.
    build_s : float
    memory_bytes : int
        Most memory of the build.
    misses : str
        The bound that it does not meet; empty if it meets all.
    best : bool
    """

    codec: str
    transform: str
    nlist: int
    bytes_per_vector: float
    highest_recall: float
    lists: float | None
    bytes_per_query: float | None
    cpu_s: float | None
    cached: float
    latency_s: float | None
    queries_per_s: float | None
    build_s: float
    memory_bytes: int
    misses: str = ""
    best: bool = False

    @property
    def name(self) -> str:
        """Codec, and transform if it is not the usual one."""
        return self.codec if self.transform == "usual" else f"{self.codec}, {self.transform}"


class Advice(Report[Option]):
    """The options in order of preference, and what they rest on.

    Parameters
    ----------
    rows : iterable of Option
    bounds : Bounds
    basis : dict
        What was drawn and compared, and for how long.
    command : sequence of str
        The command that builds the best, without codec, transform and nlist.
    untried : sequence of str
        Names of choices for which there was no time.
    """

    def __init__(
        self,
        rows: Iterable[Option] = (),
        bounds: Bounds | None = None,
        basis: dict[str, Any] | None = None,
        command: Iterable[str] = (),
        untried: Iterable[str] = (),
    ) -> None:
        super().__init__(rows)
        self.bounds, self.basis = bounds or Bounds(), basis or {}
        self.untried = tuple(untried)
        self._command = tuple(command)

    @property
    def best(self) -> Option | None:
        """The option to take; None if none meets the bounds."""
        return next((row for row in self if row.best), None)

    @property
    def command(self) -> str | None:
        """The command that builds the best option."""
        if (best := self.best) is None:
            return None
        transform = () if best.transform == "usual" else ("--transform", best.transform)
        named = ("--codec", best.codec, *transform, "--nlist", str(best.nlist))
        return shlex.join((*self._command, *named))

    def table(self) -> Table:
        """Return the options as a table for a terminal."""
        asked = f"at {self.bounds.recall:g}"
        table = Table("", "codec", pad_edge=False)
        for heading in (
            "lists",
            "bytes/vector",
            "highest recall",
            f"bytes/query {asked}",
            "cpu/query",
            "latency",
            "build",
            "memory",
        ):
            table.add_column(heading, justify="right")
        table.add_column("misses")
        for row in self:
            table.add_row(
                "*" if row.best else "",
                row.name,
                f"{row.nlist:,}",
                f"{row.bytes_per_vector:,.1f}",
                f"{row.highest_recall:.3f}",
                "" if row.bytes_per_query is None else f"{row.bytes_per_query:,.0f}",
                "" if row.cpu_s is None else f"{1e3 * row.cpu_s:.2f} ms",
                "" if row.latency_s is None else f"{1e3 * row.latency_s:.1f} ms",
                _time(row.build_s),
                f"{row.memory_bytes / 2**20:,.0f} MiB",
                row.misses,
            )
        return table

    def content(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return {
            "bounds": asdict(self.bounds),
            "basis": self.basis,
            "best": None if self.best is None else asdict(self.best),
            "command": self.command,
            "options": [asdict(row) for row in self],
            "untried": list(self.untried),
        }


def choose(options: Iterable[Option], bounds: Bounds) -> list[Option]:
    """Order options by preference, note which bound each misses, and mark the best.

    Those that meet all bounds come first. Among them the query decides: the bytes it reads beyond
    what memory keeps, then its time. With a latency as a bound, the smallest index that meets it is
    preferred, as a quicker one was not asked for.
    """
    judged = [replace(option, misses=_miss(option, bounds)) for option in options]
    judged.sort(key=lambda option: (bool(option.misses), *_cost(option, bounds)))
    if judged and not judged[0].misses:
        judged[0] = replace(judged[0], best=True)
    return judged


def _cost(option: Option, bounds: Bounds) -> tuple[float, float]:
    if option.bytes_per_query is None or option.cpu_s is None:
        return float("inf"), -option.highest_recall
    if bounds.latency_s is not None and not option.misses:
        return option.bytes_per_vector, option.bytes_per_query
    read = option.bytes_per_query * (1 - option.cached)
    return (read, option.cpu_s) if read else (0.0, option.cpu_s)


def _miss(option: Option, bounds: Bounds) -> str:
    """Return the first bound that an option does not meet."""
    if option.bytes_per_query is None or option.latency_s is None:
        return f"recall {bounds.recall:g}"
    if bounds.bytes_per_vector is not None and option.bytes_per_vector > bounds.bytes_per_vector:
        return f"{bounds.bytes_per_vector:g} bytes a vector"
    if bounds.latency_s is not None and option.latency_s > bounds.latency_s:
        return f"{1e3 * bounds.latency_s:g} ms"
    return ""


def _time(seconds: float) -> str:
    for unit, name in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= unit:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds:,.1f} s"
