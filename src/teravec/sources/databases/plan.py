"""The record of a read: what is read in which ranges, and which of them are sealed.

It lies in the folder of the sealed ranges, ``OUT.spool/plan``. A range NNNNN is done when
``NNNNN.done`` is there; its rows are in ``NNNNN.spool``, if it has any.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from teravec.errors import CorruptFile, InvalidSource, MissingFile
from teravec.sources.databases.partitions import Partition
from teravec.sources.databases.watermark import Watermark
from teravec.sources.spool import SPOOL
from teravec.storage.files import remove
from teravec.storage.jsonfile import read_json, write_json

__all__ = ["Done", "ReadPlan", "Spill", "list_spools"]

_FORMAT, _VERSION = "teravec-partitions", 1
_DONE_FORMAT = "teravec-partition"


@dataclass(frozen=True)
class ReadPlan:
    """What is read.

    Parameters
    ----------
    query : dict
        What decides the rows: another query cannot go on with the ranges.
    state : str
        The state of the database that the snapshot shows; empty if it has no name.
    began : str
        When the snapshot was taken, in UTC.
    oldest : tuple of str
        When the oldest change began that the snapshot does not show, in each form of time.
    ids : str, optional
        The column with the ids; None if rows are numbered.
    d : int
        Dimension of the vectors.
    partitions : tuple of Partition
    """

    query: dict[str, Any]
    state: str
    began: str
    oldest: tuple[str, ...]
    ids: str | None
    d: int
    partitions: tuple[Partition, ...]


@dataclass(frozen=True)
class Done:
    """A range that is sealed.

    Parameters
    ----------
    rows : int
    bad : int
        Rows that have no vector.
    keys : tuple of str
        Some of them.
    watermark : Watermark
        Of the since column.
    """

    rows: int
    bad: int = 0
    keys: tuple[str, ...] = ()
    watermark: Watermark = field(default_factory=Watermark)


class Spill:
    """The folder of one read.

    Parameters
    ----------
    root : Path
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def rows(self, number: int) -> Path:
        """Return the spool of a range."""
        return self.root / f"{number:05d}{SPOOL}"

    def _done(self, number: int) -> Path:
        return self.root / f"{number:05d}.done"

    def read_plan(self) -> ReadPlan | None:
        """Read the plan; None if there is none, or it is damaged."""
        try:
            content = read_json(self.root / "plan", _FORMAT, _VERSION)
            partitions = tuple(Partition(**each) for each in content["partitions"])
            fields = {key: content[key] for key in ("query", "state", "began", "ids", "d")}
            return ReadPlan(**fields, oldest=tuple(content["oldest"]), partitions=partitions)
        except (MissingFile, CorruptFile, KeyError, TypeError):
            return None

    def write_plan(self, plan: ReadPlan) -> None:
        """Seal the plan."""
        write_json(self.root / "plan", {"format": _FORMAT, "version": _VERSION, **asdict(plan)})

    def read_done(self, number: int) -> Done | None:
        """Return what a sealed range has; None if it is not sealed."""
        try:
            content = read_json(self._done(number), _DONE_FORMAT, _VERSION)
            return Done(
                int(content["rows"]),
                int(content["bad"]),
                tuple(content["keys"]),
                Watermark(**content["watermark"]),
            )
        except (MissingFile, CorruptFile, KeyError, TypeError):
            return None

    def write_done(self, number: int, done: Done) -> None:
        """Seal a range, whose rows are sealed already."""
        content = {"format": _DONE_FORMAT, "version": _VERSION, **asdict(done)}
        write_json(self._done(number), content)

    def all_done(self, plan: ReadPlan) -> dict[int, Done]:
        """Return the ranges that are sealed, in order."""
        numbers = range(len(plan.partitions))
        found = {number: self.read_done(number) for number in numbers}
        return {number: done for number, done in found.items() if done is not None}

    def clear(self) -> None:
        """Remove everything, the plan first."""
        remove(self.root / "plan")
        for path in sorted(self.root.iterdir()):
            if path.suffix in (SPOOL, ".done", ".tmp"):
                remove(path)

    def forget(self, number: int) -> None:
        """Remove a range, if it is there."""
        remove(self._done(number))
        remove(self.rows(number))


def list_spools(root: Path) -> list[Path]:
    """List the files of a folder of spools; empty if it is no such folder.

    Raises
    ------
    InvalidSource
        Some ranges are missing.
    """
    spill = Spill(root)
    plan = spill.read_plan()
    if plan is None:
        return []
    done = spill.all_done(plan)
    if len(done) < len(plan.partitions):
        raise InvalidSource(
            f"{root}: {len(done)} of {len(plan.partitions)} ranges of a query found, all expected; "
            "read the database again to go on"
        )
    return [spill.rows(number) for number, each in done.items() if each.rows]
