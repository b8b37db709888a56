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
from teravec.sources.conversion import read_range, read_rows, spans
from teravec.sources.fingerprint import content_fingerprint, fingerprint
from teravec.sources.formats import open_vector_file
from teravec.sources.paths import Member, PathLike, discover
from teravec.sources.skipped import NONE, Skipped
from teravec.sources.vectorfile import VectorFile

__all__ = [
    "Block",
    "Source",
    "SourceFile",
    "SourceFiles",
    "open_files",
    "open_rows",
    "open_source",
    "same_vectors",
]

_IN_MEMORY = "data in memory"

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
    member: Member

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

    @property
    def outline(self) -> tuple[str, int, int]:
        """Name, rows and bytes: what tells files apart at no cost."""
        return self.path.name, self.n, self.file.size_bytes

    def describe(self) -> dict[str, Any]:
        """Name, rows, bytes, fingerprint and vector column; of the directory, what was entered."""
        folder = {"folder": self.member.folder} if self.member.folder else {}
        return {
            "name": self.path.name,
            "n": self.n,
            "size_bytes": self.file.size_bytes,
            "fingerprint": fingerprint(self.path),
            "vector_column": self.file.vector_column,
            **folder,
        }


@dataclass(frozen=True)
class SourceFiles:
    """What another process opens the same source by.

    Parameters
    ----------
    paths : tuple of str
        As the user's directory sees them; with their format where the user said it.
    id_column, vector_column : str, optional
    skipped : Skipped, optional
        Rows that were found to be no vectors; None where such rows are errors.
    held : Source, optional
        The source itself, where it is in this process's memory; it cannot be sent.
    """

    paths: tuple[str, ...]
    id_column: str | None
    vector_column: str | None
    skipped: Skipped | None = None
    held: Source | None = None

    def open(self) -> Source:
        """Open it; as `open_source`."""
        if self.held is not None:
            return self.held
        source = open_source(
            self.paths,
            id_column=self.id_column,
            vector_column=self.vector_column,
            skip_bad=self.skipped is not None,
        )
        return source if self.skipped is None else source.drop_rows(self.skipped)


class Source:
    """The rows of some files, one after another, as one matrix that is never held whole.

    Threads may read at once. Made by `open_source`. Where bad rows are skipped, the others are
    numbered anew without gaps, for every stage alike; their ids stay what they were.

    Attributes
    ----------
    files : tuple of SourceFile
        In row order; files without rows included. Their rows count the skipped ones.
    id_column : str or None
        Column that ids come from; None where an id is a row number.
    vector_column : str or None
        Column asked for.
    skipped : Skipped or None
        Bad rows, which are passed over; None where they are errors.
    """

    def __init__(
        self,
        files: Sequence[VectorFile],
        id_column: str | None = None,
        vector_column: str | None = None,
        members: Sequence[Member] | None = None,
        skipped: Skipped | None = None,
    ) -> None:
        starts = np.cumsum([0, *(file.n for file in files)]).tolist()
        members = members or [Member(file.path) for file in files]
        self.files = tuple(map(SourceFile, starts[:-1], files, members))
        names = (file.id_name for file in files)
        self.id_column = id_column or next(filter(None, names), None)
        self.vector_column, self.skipped = vector_column, skipped
        self._starts = np.array(starts[:-1], np.int64)
        self._gaps = skipped or NONE

    def drop_rows(self, skipped: Skipped) -> Source:
        """The same files, less these rows."""
        return self._replace(self.files, skipped)

    def match_order(self, described: dict[str, Any]) -> Source:
        """The source in the order of a description, where an earlier release made that.

        Before, members of a folder or pattern were sorted by name, chunk-10 before chunk-2. An
        index that was begun then keeps that order.
        """
        recorded = [(file["name"], file["n"], file["size_bytes"]) for file in described["files"]]
        if recorded == [part.outline for part in self.files]:
            return self
        by_name = sorted(self.files, key=lambda part: (part.member.argument, part.path))
        if recorded != [part.outline for part in by_name]:
            return self
        older = self._replace(by_name, self.skipped)
        return older if older.is_described_by(described) else self

    def _replace(self, parts: Sequence[SourceFile], skipped: Skipped | None) -> Source:
        return Source(
            [part.file for part in parts],
            self.id_column,
            self.vector_column,
            [part.member for part in parts],
            skipped,
        )

    @cached_property
    def ntotal(self) -> int:
        """Rows in all, less those skipped."""
        return self.nrows - self._gaps.rows

    @property
    def nrows(self) -> int:
        """Rows of the files."""
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
        """What another process opens it by; or only this one, where `is_held`."""
        if self.is_held:
            return SourceFiles((), self.id_column, self.vector_column, held=self)
        paths = tuple(part.member.spelled for part in self.files)
        return SourceFiles(paths, self.id_column, self.vector_column, self.skipped)

    @property
    def is_held(self) -> bool:
        """Whether it is in this process's memory, where no other process can open it."""
        return any(part.file.is_held for part in self.files)

    def check_not(self, out: Path) -> None:
        """Raise InvalidArgument where writing ``out`` would replace a file of this source."""
        for part in () if self.is_held else self.files:
            if out.exists() and out.samefile(part.path):
                raise InvalidArgument(f"{out} is one of the input files; another output expected")

    @property
    def has_ids(self) -> bool:
        """Whether ids are other than row numbers: a column's, or with gaps."""
        return self.id_column is not None or self._gaps.rows > 0

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
        if self._gaps.lie_within(start, stop):
            return self._take(self._gaps.places(np.arange(start, stop)), dtype)
        shift = self._gaps.before(start)
        start, stop = start + shift, stop + shift
        out = np.empty((stop - start, self.d), dtype)
        for part, begin, end in self._find_parts(start, stop):
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
        rows = self._gaps.places(np.arange(start, stop, dtype=np.int64))
        if self.id_column is None or start == stop:
            return rows
        out = rows.copy()
        for part, begin, end in self._find_parts(int(rows[0]), int(rows[-1]) + 1):
            first, last = np.searchsorted(rows, [begin, end]).tolist()
            for low, high in spans(rows[first:last], out.itemsize) if first < last else ():
                near = rows[first + low : first + high]
                at, until = int(near[0]), int(near[-1]) + 1
                ids = part.file.read_ids(at - part.start, until - part.start)
                if ids is not None:
                    _check_ids(ids[near - at], part, near)
                    out[first + low : first + high] = ids[near - at]
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
        return self._take(self._gaps.places(rows.astype(np.int64)), dtype)

    def _take(self, rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """As `take`, by rows of the files."""
        out = np.empty((len(rows), self.d), dtype)
        if len(rows) == 0:
            return out
        for part, _, _ in self._find_parts(int(rows[0]), int(rows[-1]) + 1):
            begin, end = np.searchsorted(rows, [part.start, part.stop]).tolist()
            if begin < end:
                wanted = rows[begin:end] - part.start
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
        row = int(self._gaps.places(np.array([row]))[0])
        part, _, _ = next(self._find_parts(row, row + 1))
        return f"{part.path}: row {row - part.start} (row {row} of the source)"

    def describe(self) -> dict[str, Any]:
        """Describe what is read, so that a later process can tell whether its source is the same.

        Returns
        -------
        dict
            Fit for JSON. Equal for files of equal names and contents in the same order,
            whatever directory they lie in; and for data in memory of equal numbers and type,
            whatever holds them.
        """
        by_content = any(part.file.by_content for part in self.files)
        return {
            "d": self.d,
            "ntotal": self.ntotal,
            "dtype": self.dtype.name,
            "id_column": self.id_column,
            "files": [self._content] if by_content else [part.describe() for part in self.files],
            **({"skipped": self._gaps.describe()} if self._gaps.rows else {}),
        }

    def is_described_by(self, description: dict[str, Any]) -> bool:
        """Whether this is the source that `describe` described, by whatever folders reached.

        Data that were in memory are known by their numbers. So a file of the same vectors and
        ids is the same source, too.
        """
        files = description["files"]
        if [file["name"] for file in files] != [_IN_MEMORY]:
            return same_vectors(self.describe(), description)
        shape = (description["ntotal"], description["d"])
        same = (self.ntotal, self.d) == shape
        return same and self._content["fingerprint"] == files[0]["fingerprint"]

    @cached_property
    def _content(self) -> dict[str, Any]:
        def read(start: int, stop: int) -> tuple[np.ndarray, ...]:
            vectors = self.read(start, stop, self.exact_dtype).astype(np.float64, copy=False)
            return (vectors, self.read_ids(start, stop)) if self.has_ids else (vectors,)

        return {
            "name": _IN_MEMORY,
            "n": self.ntotal,
            "size_bytes": self.ntotal * self.d * self.dtype.itemsize,
            "fingerprint": content_fingerprint(self.ntotal, self.d, read),
            "vector_column": None,
        }

    @cached_property
    def _filled(self) -> list[VectorFile]:
        return [part.file for part in self.files if part.n > 0]

    def _find_parts(self, start: int, stop: int) -> Iterator[tuple[SourceFile, int, int]]:
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
    format: str | None = None,
    skip_bad: bool = False,
) -> Source:
    """Open files of vectors as one source; their headers are read, and no vectors.

    Parameters
    ----------
    paths : path, or sequence of paths
        Files, folders and glob patterns, read in the order given; members of a folder or
        pattern in natural order (chunk-2 before chunk-10), as `paths.discover` has it. Formats
        go by extension: .fvecs .bvecs .ivecs .fbin .f16bin .u8bin .i8bin .npy .parquet .arrow
        .feather.
    id_column : str, optional
        Integer column to take ids from; row numbers when not given.
    vector_column : str, optional
        List column to read; the only one when not given. A field of a struct is named with its
        column, as "embedding.values".
    format : str, optional
        What all files are, whatever their names say: an extension without its dot.
    skip_bad : bool
        Rows that are no vectors are read as NaN, so that they can be found: see `find_bad`.

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
    source = open_rows(
        paths, id_column=id_column, vector_column=vector_column, format=format, skip_bad=skip_bad
    )
    _check_any_rows(source.files)
    return source


def open_files(
    files: Sequence[VectorFile],
    id_column: str | None = None,
    vector_column: str | None = None,
    *,
    skip_bad: bool = False,
) -> Source:
    """Make one source of open files that are not all empty and have one dimension."""
    _check_dimensions(files)
    source = Source(files, id_column, vector_column, None, NONE if skip_bad else None)
    _check_any_rows(source.files)
    return source


def _check_any_rows(files: Sequence[SourceFile]) -> None:
    if not any(file.n for file in files):
        names = ", ".join(str(file.path) for file in files[:3])
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        raise InvalidSource(f"{names}{more}: empty source: 0 rows found, expected 1 or more")


def open_rows(
    paths: PathLike | Sequence[PathLike],
    *,
    id_column: str | None = None,
    vector_column: str | None = None,
    format: str | None = None,
    skip_bad: bool = False,
) -> Source:
    """Do as `open_source`, also for files without any row."""
    columns = Columns(
        None if id_column is None else text(id_column, "id_column"),
        None if vector_column is None else text(vector_column, "vector_column"),
        lenient=skip_bad,
    )
    members = discover(paths, None if format is None else text(format, "format"))
    files = [open_vector_file(member.path, columns, member.format) for member in members]
    _check_dimensions(files)
    return Source(files, id_column, vector_column, members, NONE if skip_bad else None)


def _check_dimensions(files: Sequence[VectorFile]) -> None:
    filled = [file for file in files if file.n > 0]
    for file in filled:
        if file.d != filled[0].d:
            raise InvalidSource(
                f"{file.path}: dimension {file.d} found, "
                f"expected {filled[0].d} as in {filled[0].path}"
            )


def same_vectors(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two descriptions are of the same vectors, by whatever folders they were reached."""

    def plain(described: dict[str, Any]) -> dict[str, Any]:
        files = [{k: v for k, v in file.items() if k != "folder"} for file in described["files"]]
        return {**described, "files": files}

    return plain(one) == plain(other)


def _check_ids(ids: np.ndarray, part: SourceFile, rows: np.ndarray) -> None:
    """Raise at the first negative id; ``rows`` are their rows in the files of the source."""
    if len(wrong := np.flatnonzero(ids < 0)):
        row = int(rows[wrong[0]])
        raise InvalidSource(
            f"{part.path}: row {row - part.start} (row {row} of the source) has id "
            f"{ids[wrong[0]]}, expected 0 or more"
        )
