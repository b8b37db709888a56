"""Vectors by id, so that a query can name an indexed vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument, InvalidSource
from teravec.index.manifest import Manifest, read_manifest
from teravec.memory import default_memory, require
from teravec.sources import Source, open_source
from teravec.storage.layout import IndexPaths
from teravec.storage.places import Place

__all__ = ["VectorLookup"]

Int64 = npt.NDArray[np.int64]

_BLOCK = 1 << 20  # ids read at a time
_ROW_BYTES = 24  # while ids are sorted: the ids, their order, and the sorted ids


class VectorLookup:
    """Vectors of the files that an index was built from, by the index's ids.

    The vectors come from the source files: an index holds codes, and finding an id among them would
    read every list. Ids are those of the index's id column, or row numbers if it has none. If
    several rows have the same id, the first row is used.

    Parameters
    ----------
    path : str
        File, directory or glob.
    index : Place
        Index directory.
    memory_bytes : int, optional
        Limit for the table of ids, which takes 24 bytes a row while it is made. Row numbers, and
        ids that ascend by 1, need no table.
    vector_column : str, optional
        Not given: that of the build.

    Raises
    ------
    InvalidArgument
        The index was not built from these files, or they lack its id column.
    MemoryLimitTooSmall
    """

    def __init__(
        self,
        path: str,
        index: Place,
        memory_bytes: int | None = None,
        vector_column: str | None = None,
    ) -> None:
        manifest = read_manifest(IndexPaths(index))
        self._made_of = manifest.source
        column = manifest.source.get("id_column")
        vectors = {file.get("vector_column") for file in manifest.source.get("files", [])}
        if vector_column is None and len(vectors) == 1:
            vector_column = vectors.pop()
        try:
            source = open_source(path, id_column=column, vector_column=vector_column)
        except InvalidSource as error:
            if column is None:
                raise
            raise InvalidSource(
                f"{error}; ids of {index} are those of column {column!r}"
            ) from error
        if source.describe() != manifest.source:
            raise InvalidArgument(
                f"{path}: {source.ntotal:,} x {source.d} vectors found that {index} was not built "
                f"from; its {manifest.ntotal:,} x {manifest.d} expected: the same files in the "
                "same order"
            )
        self._source = source
        self._first, self._ids, self._rows = _table(source, memory_bytes or default_memory())

    def check(self, manifest: Manifest) -> None:
        """Raise InvalidArgument if the server has switched to an index of other vectors."""
        if manifest.source is not self._made_of and manifest.source != self._made_of:
            raise InvalidArgument(
                "the index served now was built from other vectors than --vectors; start the "
                "server with the vectors of this index"
            )

    def vectors(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return vectors of shape (n, d); raises InvalidArgument for an unknown id."""
        if (largest := max(ids, default=0)) > np.iinfo(np.int64).max:
            raise InvalidArgument(f"id {largest} asked for; less than 2^63 expected")
        rows = [self._source.read(row, row + 1) for row in self._rows_of(ids)]
        return np.concatenate(rows) if rows else np.empty((0, self._source.d), np.float32)

    def _rows_of(self, ids: Sequence[int]) -> list[int]:
        if self._ids is None or self._rows is None:
            last = self._first + self._source.ntotal - 1
            if strange := [i for i in ids if not self._first <= i <= last]:
                raise InvalidArgument(
                    f"id {strange[0]} asked for; {self._first:,} to {last:,} expected"
                )
            return [i - self._first for i in ids]
        places = np.searchsorted(self._ids, np.array(ids, np.int64))
        found = self._ids[np.minimum(places, len(self._ids) - 1)] == ids
        if not found.all():
            strange = [i for i, there in zip(ids, found.tolist(), strict=True) if not there]
            raise InvalidArgument(
                f"id {strange[0]} asked for; it is none of the {self._source.ntotal:,} in column "
                f"{self._source.id_column!r}"
            )
        return [int(row) for row in self._rows[places]]


def _table(source: Source, memory_bytes: int) -> tuple[int, Int64 | None, Int64 | None]:
    """Return the first id, and sorted ids with their rows unless ids ascend by 1."""
    if not source.has_ids:
        return 0, None, None
    first = int(source.read_ids(0, 1)[0])
    if _ascends_by_one(source, first):
        return first, None, None
    require(_ROW_BYTES * source.ntotal, memory_bytes, f"looking up {source.ntotal:,} ids")
    ids = np.empty(source.ntotal, np.int64)
    for start in range(0, source.ntotal, _BLOCK):
        stop = min(start + _BLOCK, source.ntotal)
        ids[start:stop] = source.read_ids(start, stop)
    rows = np.argsort(ids, kind="stable")  # equal ids stay in the order of their rows
    return first, ids[rows], rows


def _ascends_by_one(source: Source, first: int) -> bool:
    for start in range(0, source.ntotal, _BLOCK):
        ids = source.read_ids(start, min(start + _BLOCK, source.ntotal))
        if not np.array_equal(ids, first + start + np.arange(len(ids))):
            return False
    return True
