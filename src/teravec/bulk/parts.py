"""Results of a search that is under way: parts sealed beside its output, for a rerun to go on.

::

    OUT.partial/
      search.json              what is asked: of which index, by which queries
      START-STOP.json          written last of a part; describes its arrays
      START-STOP.distances.npy   float32, the results of queries [START, STOP)
      START-STOP.ids.npy         int64
      START-STOP.counts.npy      int64, results of each query; not where all have k
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.bulk.formats.found import FoundArrays
from teravec.errors import ForeignFile, OutputExists
from teravec.sources import Source
from teravec.storage.arrays import check_file, read_values, write_array
from teravec.storage.jsonfile import json_checksum, read_json, write_json
from teravec.storage.local_store import stored
from teravec.storage.store import StorePath

__all__ = ["FoundInParts", "SealedParts"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

log = logging.getLogger(__name__)

_FORMAT, _PART_FORMAT, _VERSION = "teravec-search", "teravec-search-part", 1
_OF_PART = re.compile(r".*-.*\.(json|npy)")
_DTYPES: dict[str, np.dtype[Any]] = {
    "distances": np.dtype("<f4"),
    "ids": np.dtype("<i8"),
    "counts": np.dtype("<i8"),
}


@dataclass(frozen=True)
class _Part:
    """Results of queries [start, stop)."""

    directory: StorePath
    start: int
    stop: int
    total: int

    def path(self, what: str) -> StorePath:
        return self.directory / f"{self.start:013d}-{self.stop:013d}.{what}"

    def read(self, what: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Elements [start, stop) of an array, which was checked."""
        path, dtype = self.path(f"{what}.npy"), _DTYPES[what]
        length = self.stop - self.start if what == "counts" else self.total
        with path.open(in_order=True) as file:
            return read_values(file, length, dtype, start, stop)


class SealedParts:
    """The parts that are there.

    Parameters
    ----------
    directory : Path
        Where the parts lie, all below its name.
    search : dict
        What is asked, fit for JSON; parts of another search are refused.

    Raises
    ------
    OutputExists
        The directory holds the parts of another search, or something else.
    CorruptFile
        Names what is damaged; removing the directory begins anew.
    """

    def __init__(self, directory: Path, search: dict[str, Any]) -> None:
        self._directory, self._search = stored(directory), search
        self._checksum = json_checksum(search)
        self._parts: list[_Part] = []
        if self._is_begun():
            self._parts = self._disjoint(self._found())
        if self._parts:
            log.info("%s: %d queries are answered already", directory, self.rows)

    @property
    def rows(self) -> int:
        """Queries whose results are there."""
        return sum(part.stop - part.start for part in self._parts)

    def missing(self, n: int) -> list[tuple[int, int]]:
        """Ranges of queries, of n in all, whose results are not there."""
        starts = [*(part.start for part in self._parts), n]
        stops = [0, *(part.stop for part in self._parts)]
        return [(stop, start) for stop, start in zip(stops, starts, strict=True) if start > stop]

    def add(self, start: int, found: FoundArrays) -> None:
        """Seal results of the queries from ``start`` on."""
        state = self._directory / "search.json"
        if not state.exists():
            write_json(state, {"format": _FORMAT, "version": _VERSION, **self._search})
        part = _Part(self._directory, start, start + found.n, found.total)
        arrays: dict[str, npt.NDArray[Any]] = {"distances": found.distances, "ids": found.ids}
        if found.k is None:
            arrays["counts"] = found.counts(0, found.n)
        described = {
            what: write_array(part.path(f"{what}.npy"), array.astype(_DTYPES[what], copy=False))
            for what, array in arrays.items()
        }
        content = {"search": self._checksum, "total": found.total, "arrays": described}
        write_json(part.path("json"), {"format": _PART_FORMAT, "version": _VERSION, **content})
        self._parts = sorted([*self._parts, part], key=lambda part: part.start)

    def found(self, k: int | None, source: Source) -> FoundInParts:
        """All results, when none are missing; ``source`` has the queries."""
        return FoundInParts(self._parts, k, source)

    def remove(self) -> None:
        """Remove all parts, and the directory if nothing else is in it."""
        own = [path for path in self._directory.children() if _OF_PART.fullmatch(path.last_name)]
        # Descriptions first: a kill between must leave none without its arrays.
        for path in sorted(own, key=lambda path: not path.last_name.endswith(".json")):
            path.remove()
        (self._directory / "search.json").remove()
        self._directory.remove_unfinished()

    def _is_begun(self) -> bool:
        """Whether parts of this search may be there; OutputExists for anything else."""
        state = self._directory / "search.json"
        if not state.exists():
            if self._directory.exists() or self._directory.children():
                raise OutputExists(
                    f"{self._directory}: something else found, nothing or the parts of this "
                    "search expected"
                )
            return False
        found = read_json(state, _FORMAT, _VERSION)
        for key, expected in self._search.items():
            if found.get(key) != expected:
                raise OutputExists(
                    f"{self._directory}: the parts of another search: {key} differ; search as "
                    "before to continue it, or remove the directory to begin anew"
                )
        return True

    def _found(self) -> Iterator[_Part]:
        for path in self._directory.children():
            if not path.last_name.endswith(".json") or not _OF_PART.fullmatch(path.last_name):
                continue
            content = read_json(path, _PART_FORMAT, _VERSION)
            if content["search"] != self._checksum:
                raise ForeignFile(
                    f"{path}: a part of search {content['search']} found, {self._checksum} expected"
                )
            start, stop = map(int, path.last_name.removesuffix(".json").split("-"))
            part = _Part(self._directory, start, stop, content["total"])
            for what, described in content["arrays"].items():
                check_file(part.path(f"{what}.npy"), described)
            yield part

    @staticmethod
    def _disjoint(parts: Iterator[_Part]) -> list[_Part]:
        """Parts in order; of two that overlap, as by two processes at once, the first."""
        kept: list[_Part] = []
        for part in sorted(parts, key=lambda part: (part.start, -part.stop)):
            if not kept or part.start >= kept[-1].stop:
                kept.append(part)
        return kept


class FoundInParts:
    """Results read from parts, as the formats take them.

    Parameters
    ----------
    parts : list of _Part
        In order of queries, none missing.
    k : int or None
        Results of each query; None where they differ.
    source : Source
        The queries.
    """

    def __init__(self, parts: list[_Part], k: int | None, source: Source) -> None:
        self._parts, self.k, self._source = parts, k, source
        self._stops = np.cumsum([part.total for part in parts])

    @property
    def n(self) -> int:
        """Queries."""
        return self._parts[-1].stop

    @property
    def total(self) -> int:
        """Results."""
        return int(self._stops[-1])

    def queries(self, start: int, stop: int) -> Int64 | None:
        """Ids of queries [start, stop), if they are those of a column."""
        return self._source.read_ids(start, stop) if self._source.has_ids else None

    def counts(self, start: int, stop: int) -> Int64:
        """Results of each of queries [start, stop)."""
        if self.k is not None:
            return np.full(stop - start, self.k, np.int64)
        values = [np.empty(0, np.int64)]
        for part in self._parts:
            first, last = max(start, part.start), min(stop, part.stop)
            if first < last:
                values.append(part.read("counts", first - part.start, last - part.start))
        return np.concatenate(values)

    def read(self, start: int, stop: int) -> tuple[Float32, Int64]:
        """Distances and ids of results [start, stop)."""
        distances, ids = [np.empty(0, np.float32)], [np.empty(0, np.int64)]
        number = int(np.searchsorted(self._stops, start, side="right"))
        while start < stop:
            part, before = self._parts[number], int(self._stops[number]) - self._parts[number].total
            last = min(stop, int(self._stops[number]))
            distances.append(part.read("distances", start - before, last - before))
            ids.append(part.read("ids", start - before, last - before))
            start, number = last, number + 1
        return np.concatenate(distances), np.concatenate(ids)
