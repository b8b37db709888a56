"""The files of known queries and of their neighbours, as versions and calibrations name them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

__all__ = ["KeptQueries", "NeighboursEntry", "QueriesEntry", "parse_kept"]


@dataclass(frozen=True)
class QueriesEntry:
    """The file of the known queries.

    Parameters
    ----------
    file : str
        Path below the index directory.
    size : int
        Bytes of the file.
    checksum : str
        XXH3-64 of the file.
    count : int
        Number of queries.
    depth : int
        Neighbours that are kept for a query of each group of rows, at most.
    origin : str
        Where the queries come from, as ``Calibration.origin``.
    """

    file: str
    size: int
    checksum: str
    count: int
    depth: int
    origin: str

    def is_same(self, other: QueriesEntry) -> bool:
        """Whether another file, perhaps of another change, holds the same queries."""
        return replace(other, file=self.file) == self


@dataclass(frozen=True)
class NeighboursEntry:
    """A file of the known queries' neighbours among some rows.

    Parameters
    ----------
    file : str
        Path below the index directory.
    size, count : int
        Bytes of the file, and its records.
    checksum : str
        XXH3-64 of the file.
    sequences : tuple of int
        First and last version that added these rows.
    id_base : int
        What is added to the ids in the file, as in ``Segment``.
    deletes_through : int
        Delete sets up to this version are applied.
    """

    file: str
    size: int
    checksum: str
    count: int
    sequences: tuple[int, int] = (0, 0)
    id_base: int = 0
    deletes_through: int = 0


@dataclass(frozen=True)
class KeptQueries:
    """What an index keeps.

    Parameters
    ----------
    queries : QueriesEntry
    neighbours : tuple of NeighboursEntry
        The oldest rows' first.
    erased : tuple of int
        Numbers of the queries whose own rows were deleted by sets that no version names any more.
    """

    queries: QueriesEntry
    neighbours: tuple[NeighboursEntry, ...]
    erased: tuple[int, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files."""
        return (self.queries.file, *(entry.file for entry in self.neighbours))

    def content(self) -> dict[str, Any]:
        """Return the entries as JSON."""
        return asdict(self)


def parse_kept(content: dict[str, Any]) -> KeptQueries:
    """Read what ``KeptQueries.content`` returned; raises TypeError, KeyError or ValueError."""
    entries = []
    for entry in content["neighbours"]:
        first, last = entry["sequences"]
        entries.append(NeighboursEntry(**{**entry, "sequences": (int(first), int(last))}))
    queries = QueriesEntry(**content["queries"])
    return KeptQueries(queries, tuple(entries), tuple(map(int, content["erased"])))
