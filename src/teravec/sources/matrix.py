"""Many files as one matrix: rows in a stated order, read by range or picked by number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from teravec.arguments import text
from teravec.engines.threads import ahead
from teravec.errors import InvalidArgument, InvalidSource
from teravec.kernels.metric import LARGEST_SQUARE
from teravec.sources.columnar import Columns
from teravec.sources.conversion import read_range, read_rows
from teravec.sources.fingerprint import fingerprint
from teravec.sources.formats import open_vector_file
from teravec.sources.paths import PathLike, discover
from teravec.sources.vectorfile import VectorFile

__all__ = ["Block", "Source", "SourceFile", "SourceFiles", "open_rows", "open_source"]

_FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a source.

    Attributes
    ----------
    start : int
        Number of the first row.
    ids : ndarray of shape (n,), int64
    vectors : ndarray of shape (n, d), float32
    """

    start: int
    ids: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True)
class SourceFile:
    """One file's place in a source: its row 0 is row ``start`` of the source."""

    start: int
    file: VectorFile

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self.file.path

    @property
    def n(self) -> int:
        """Rows in the file."""
        return self.file.n

    @property
    def stop(self) -> int:
        """Number of the row after the file's last."""
        return self.start + self.file.n

    def describe(self) -> dict[str, Any]:
        """Name, rows, bytes, fingerprint and vector column; not the directory."""
        return {
            "name": self.path.name,
            "n": self.n,
            "size_bytes": self.file.size_bytes,
            "fingerprint": fingerprint(self.path),
            "vector_column": self.file.vector_column,
        }


@dataclass(frozen=True)
class SourceFiles:
    """What another process opens the same source by.

    Parameters
    ----------
    paths : tuple of str
        As the user's directory sees them.
    id_column, vector_column : str, optional
    """

    paths: tuple[str, ...]
    id_column: str | None
    vector_column: str | None

    def open(self) -> Source:
        """Open it; as `open_source`."""
        return open_source(self.paths, id_column=self.id_column, vector_column=self.vector_column)


class Source:
    """The rows of some files, one after another, as one matrix that is never held whole.

    Threads may read at once. Made by `open_source`.

    Attributes
    ----------
    files : tuple of SourceFile
        In row order; files without rows included.
    id_column : str or None
        Column that ids come from; None where an id is a row number.
    vector_column : str or None
        Column asked for.
    """

    def __init__(
        self, files: Sequence[VectorFile], id_column: str | None = None,
        vector_column: str | None = None,
    ) -> None:  # fmt: skip
        starts = np.cumsum([0, *(file.n for file in files)]).tolist()
        self.files = tuple(map(SourceFile, starts[:-1], files))
        self.id_column, self.vector_column = id_column, vector_column
        self._starts = np.array(starts[:-1], np.int64)

    @cached_property
    def ntotal(self) -> int:
        """Rows in all."""
        return self.files[-1].stop

    @cached_property
    def d(self) -> int:
        """Dimension of every vector."""
        return next(iter(self._filled), self.files[0].file).d

    @cached_property
    def dtype(self) -> np.dtype:
        """Element type of the files; float32 where they differ."""
        kinds = {file.dtype for file in self._filled}
        return kinds.pop() if len(kinds) == 1 else np.dtype(np.float32)

    @cached_property
    def exact_dtype(self) -> np.dtype:
        """What vectors are read as, so that none is rounded: float32 where that has all values."""
        exact = all(np.can_cast(file.dtype, np.float32) for file in self._filled)
        return np.dtype(np.float32 if exact else np.float64)

    @property
    def is_decoded(self) -> bool:
        """Whether rows of some file have to be decoded one after another."""
        return any(file.is_decoded for file in self._filled)

    @property
    def opened_by(self) -> SourceFiles:
        """What another process opens it by."""
        paths = tuple(str(part.path) for part in self.files)
        return SourceFiles(paths, self.id_column, self.vector_column)

    def check_not(self, out: Path) -> None:
        """Raise InvalidArgument where writing ``out`` would replace a file of this source."""
        for part in self.files:
            if out.exists() and out.samefile(part.path):
                raise InvalidArgument(f"{out} is one of the input files; another output expected")

    @property
    def has_ids(self) -> bool:
        """Whether ids come from a column, not from row numbers."""
        return self.id_column is not None

    def read(self, start: int, stop: int, dtype: np.dtype = _FLOAT32) -> np.ndarray:
        """Read consecutive rows, across file borders.

        Parameters
        ----------
        start, stop : int
            Rows [start, stop) of the source.
        dtype : numpy.dtype
            float32, or ``exact_dtype``.

        Returns
        -------
        ndarray of shape (stop - start, d), C-contiguous

        Raises
        ------
        InvalidArgument
            A range outside of the source.
        InvalidSource
            A row that holds NaN or infinity, or a file that is no longer what it was.
        """
        self._check_range(start, stop)
        out = np.empty((stop - start, self.d), dtype)
        for part, begin, end in self._parts(start, stop):
            rows = out[begin - start : end - start]
            read_range(part.file, begin - part.start, rows, part.start)
        return out

    def read_ids(self, start: int, stop: int) -> np.ndarray:
        """Read the ids of rows [start, stop): the id column, or else the row numbers.

        Returns
        -------
        ndarray of shape (stop - start,), int64

        Raises
        ------
        InvalidSource
            A negative id: searches give -1 where there is no result.
        """
        self._check_range(start, stop)
        out = np.arange(start, stop, dtype=np.int64)
        if self.has_ids:
            for part, begin, end in self._parts(start, stop):
                ids = part.file.read_ids(begin - part.start, end - part.start)
                if ids is not None:
                    _check_ids(ids, part, begin)
                    out[begin - start : end - start] = ids
        return out

    def blocks(self, start: int, stop: int, rows: int) -> Iterator[Block]:
        """Read rows [start, stop) block by block, the next one while this one is in use.

        Parameters
        ----------
        start, stop : int
        rows : int
            Rows of every block but the last, which may have fewer. Up to three blocks are
            held at once: one in use, one ready, one being read.

        Yields
        ------
        Block
        """
        self._check_range(start, stop)
        if rows < 1:
            raise InvalidArgument(f"blocks of {rows} rows found, expected 1 or more")
        return ahead(self._read_blocks(start, stop, rows))

    def take(self, rows: np.ndarray, dtype: np.dtype = _FLOAT32) -> np.ndarray:
        """Read some rows, near ones together.

        Parameters
        ----------
        rows : ndarray of shape (n,), integer
            Row numbers, ascending, each once.
        dtype : numpy.dtype
            As `read`.

        Returns
        -------
        ndarray of shape (n, d)

        Raises
        ------
        InvalidArgument
            Row numbers that do not ascend or are not in the source.
        InvalidSource
            As `read`.
        """
        self._check_rows(rows)
        out = np.empty((len(rows), self.d), dtype)
        if len(rows) == 0:
            return out
        for part, _, _ in self._parts(int(rows[0]), int(rows[-1]) + 1):
            begin, end = np.searchsorted(rows, [part.start, part.stop]).tolist()
            if begin < end:
                wanted = rows[begin:end].astype(np.int64) - part.start
                read_rows(part.file, wanted, out[begin:end], part.start)
            if part.stop <= rows[-1]:
                part.file.release()
        return out

    def check_lengths(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Refuse vectors whose squared distances may be beyond float32.

        Parameters
        ----------
        rows : ndarray of shape (n,), integers
            Row numbers of the vectors.
        vectors : ndarray of shape (n, d), float32

        Raises
        ------
        InvalidSource
            Names the file and the row.
        """
        with np.errstate(over="ignore"):
            squares = np.einsum("ij,ij->i", vectors, vectors)
        long = np.flatnonzero(squares > LARGEST_SQUARE)
        if not len(long):
            return
        length = np.linalg.norm(vectors[long[0]].astype(np.float64))
        raise InvalidSource(
            f"{self.place_of(int(rows[long[0]]))} is {length:.3g} long, "
            f"at most {LARGEST_SQUARE**0.5:.3g} expected: squared distances are in float32; "
            "scale all vectors"
        )

    def place_of(self, row: int) -> str:
        """A row's file and number, for messages."""
        part, _, _ = next(self._parts(row, row + 1))
        return f"{part.path}: row {row - part.start} (row {row} of the source)"

    def describe(self) -> dict[str, Any]:
        """Describe what is read, so that a later process can tell whether its source is the same.

        Returns
        -------
        dict
            Fit for JSON. Equal for files of equal names and contents in the same order,
            whatever directory they lie in.
        """
        return {
            "d": self.d,
            "ntotal": self.ntotal,
            "dtype": self.dtype.name,
            "id_column": self.id_column,
            "files": [part.describe() for part in self.files],
        }

    @cached_property
    def _filled(self) -> list[VectorFile]:
        return [part.file for part in self.files if part.n > 0]

    def _parts(self, start: int, stop: int) -> Iterator[tuple[SourceFile, int, int]]:
        """Files that hold rows of [start, stop), each with its rows among them."""
        number = int(np.searchsorted(self._starts, start, "right")) - 1
        while start < stop:
            part = self.files[number]
            end = min(stop, part.stop)
            if start < end:
                yield part, start, end
            start, number = end, number + 1

    def _read_blocks(self, start: int, stop: int, rows: int) -> Iterator[Block]:
        for begin in range(start, stop, rows):
            end = min(begin + rows, stop)
            yield Block(begin, self.read_ids(begin, end), self.read(begin, end))

    def _check_range(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.ntotal:
            raise InvalidArgument(
                f"rows [{start}, {stop}) found, expected a range within [0, {self.ntotal})"
            )

    def _check_rows(self, rows: np.ndarray) -> None:
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise InvalidArgument(
                f"row numbers of shape {rows.shape} and type {rows.dtype} found, "
                "expected integers of shape (n,)"
            )
        if not np.all(rows[:-1] < rows[1:]):
            raise InvalidArgument("row numbers out of order or repeated, expected them ascending")
        if len(rows) and not 0 <= rows[0] <= rows[-1] < self.ntotal:
            raise InvalidArgument(
                f"row numbers {rows[0]} to {rows[-1]} found, expected 0 to {self.ntotal - 1}"
            )


def open_source(
    paths: PathLike | Sequence[PathLike],
    *,
    id_column: str | None = None,
    vector_column: str | None = None,
) -> Source:
    """Open files of vectors as one source; their headers are read, and no vectors.

    Parameters
    ----------
    paths : path, or sequence of paths
        Files, directories and glob patterns, read in the order given; members of a directory
        or pattern by name. Formats go by extension: .fvecs .bvecs .ivecs .fbin .u8bin .i8bin
        .npy .parquet .arrow .feather.
    id_column : str, optional
        Integer column to take ids from; row numbers when not given.
    vector_column : str, optional
        List column to read; the only one when not given.

    Returns
    -------
    Source

    Raises
    ------
    InvalidSource
        A file that is missing, or is not what its extension says; files of different
        dimensions; no rows in any.
    StorageError
        A file that may not be read.
    """
    source = open_rows(paths, id_column=id_column, vector_column=vector_column)
    if not source.ntotal:
        files = source.files
        names = ", ".join(str(file.path) for file in files[:3])
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        raise InvalidSource(f"{names}{more}: empty source: 0 rows found, expected 1 or more")
    return source


def open_rows(
    paths: PathLike | Sequence[PathLike],
    *,
    id_column: str | None = None,
    vector_column: str | None = None,
) -> Source:
    """Do as `open_source`, also for files without any row."""
    columns = Columns(
        None if id_column is None else text(id_column, "id_column"),
        None if vector_column is None else text(vector_column, "vector_column"),
    )
    files = [open_vector_file(path, columns) for path in discover(paths)]
    filled = [file for file in files if file.n > 0]
    for file in filled:
        if file.d != filled[0].d:
            raise InvalidSource(
                f"{file.path}: dimension {file.d} found, "
                f"expected {filled[0].d} as in {filled[0].path}"
            )
    return Source(files, id_column, vector_column)


def _check_ids(ids: np.ndarray, part: SourceFile, begin: int) -> None:
    """Raise at the first negative id; ``begin`` is the first one's row in the source."""
    if len(wrong := np.flatnonzero(ids < 0)):
        row = begin + int(wrong[0])
        raise InvalidSource(
            f"{part.path}: row {row - part.start} (row {row} of the source) has id "
            f"{ids[wrong[0]]}, expected 0 or more"
        )
