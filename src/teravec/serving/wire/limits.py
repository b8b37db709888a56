"""The bounds of a server: a request above one is refused before it takes memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from teravec.errors import InvalidArgument, LimitExceeded

__all__ = ["Limits", "check_seconds", "check_setting"]

_RESULT_BYTES = 12  # a float32 distance and an int64 id
_LONGEST_S = 24 * 3600.0

# For each bound: its option, and the smallest and largest sensible values.
_RANGES: dict[str, tuple[str, int, int]] = {
    "request_bytes": ("--max-request", 1 << 10, 1 << 30),
    "json_bytes": ("json_bytes", 1 << 10, 1 << 30),
    "queries": ("--max-queries", 1, 1 << 24),
    "k": ("--max-k", 1, 1 << 31),
    "nprobe": ("--max-nprobe", 1, 1 << 31),
    "pairs": ("pairs", 1, 1 << 31),
    "answer_bytes": ("--max-answer", _RESULT_BYTES, 1 << 30),
    "queue": ("--queue", 1, 1 << 16),
    "queue_bytes": ("--max-waiting", 1 << 10, 1 << 50),
}
_HEADER_BYTES = 1 << 10  # of a request, in addition to its queries


@dataclass(frozen=True)
class Limits:
    """Bounds of one server; a request above one gets an error that names the bound.

    Parameters
    ----------
    request_bytes : int
        Size of one request over Flight.
    json_bytes : int
        Size of one request over HTTP; parsed, it takes about ten times as much.
    queries, k, nprobe : int
        Most of each in one request.
    pairs : int
        Queries x lists of one request. Each pair takes 12 bytes while the request waits, and 12
        more during the search.
    answer_bytes : int
        Size of one answer, 12 bytes a result.
    queue : int
        Requests waiting or being answered; one more gets 'busy'.
    queue_bytes : int
        Total size of those requests.
    timeout_s : float
        The longest deadline that a request may ask for.
    """

    request_bytes: int = 64 << 20
    json_bytes: int = 4 << 20
    queries: int = 16384
    k: int = 10_000
    nprobe: int = 65_536
    pairs: int = 16 << 20
    answer_bytes: int = 256 << 20
    queue: int = 512
    queue_bytes: int = 256 << 20
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        usual = {field.name: field.default for field in fields(self)}
        for name, (option, least, most) in _RANGES.items():
            check_setting(option, getattr(self, name), least, most, usual[name])
        check_seconds("timeout_s", self.timeout_s, usual["timeout_s"], least=0.001)

    def check_dimension(self, d: int) -> None:
        """Raise InvalidArgument if not even one query of ``d`` dimensions fits."""
        needed = 4 * d + _HEADER_BYTES
        for name in ("request_bytes", "queue_bytes"):
            if getattr(self, name) < needed:
                raise InvalidArgument(
                    f"{_RANGES[name][0]} is {getattr(self, name):,} bytes; one query of {d:,} "
                    f"dimensions takes {needed:,}, {vars(Limits)[name]:,} is usual"
                )

    def check_bytes(self, size: int) -> None:
        """Raise LimitExceeded if a request of ``size`` bytes is too large."""
        _check("request bytes", size, self.request_bytes)

    def check_queries(self, queries: int, k: int | None) -> None:
        """Raise LimitExceeded if there are too many queries or results."""
        _check("queries", queries, self.queries)
        if k is not None:
            _check("k", k, self.k)
            self.check_results(queries * k)

    def check_nprobe(self, queries: int, nprobe: int) -> None:
        """Raise LimitExceeded if queries may not visit ``nprobe`` lists each."""
        _check("nprobe", nprobe, self.nprobe)
        _check("queries x nprobe", queries * nprobe, self.pairs)

    def check_results(self, results: int) -> None:
        """Raise LimitExceeded if an answer may not hold ``results`` results."""
        _check("answer bytes", self.result_bytes(results), self.answer_bytes)

    @property
    def results(self) -> int:
        """Most results of an answer."""
        return self.answer_bytes // _RESULT_BYTES

    @staticmethod
    def result_bytes(results: int) -> int:
        """Return the bytes that ``results`` results take."""
        return results * _RESULT_BYTES

    def check_timeout(self, timeout_s: float) -> None:
        """Raise LimitExceeded if a request may not take ``timeout_s`` seconds."""
        _check("timeout_s", timeout_s, self.timeout_s)


def _check(what: str, found: float, most: float) -> None:
    if found > most:
        raise LimitExceeded(f"{what}: {found:,} asked for, this server takes at most {most:,}")


def check_setting(option: str, value: object, least: int, most: int, usual: object) -> None:
    """Raise InvalidArgument unless a setting is a whole number in its range."""
    if type(value) is not int or not least <= value <= most:
        found = f"{value:,}" if isinstance(value, int) else repr(value)
        raise InvalidArgument(
            f"{option} is {found}; {least:,} to {most:,} expected, {usual:,} is usual"
        )


def check_seconds(option: str, value: float, usual: object, least: float = 0.0) -> None:
    """Raise InvalidArgument unless a time is a number of seconds, at most a day."""
    if not (
        isinstance(value, int | float) and math.isfinite(value) and least <= value <= _LONGEST_S
    ):
        raise InvalidArgument(
            f"{option} is {value!r}; {least:g} to {_LONGEST_S:,.0f} seconds expected, "
            f"{usual:g} is usual"
        )
