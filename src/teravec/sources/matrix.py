"""Many files as one matrix, whose rows are read by range or picked by number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from teravec.engines.threads import ahead
from teravec.errors import InvalidArgument, InvalidSource
from teravec.kernels.metric import LARGEST_SQUARE
from teravec.sources.attributes import Attributes
from teravec.sources.conversion import read_range, read_rows, spans
from teravec.sources.fingerprint import IN_MEMORY, content_fingerprint, same_vectors
from teravec.sources.paths import Member, pure_path
from teravec.sources.skipped import NONE, Skipped
from teravec.sources.source_file import Block, SourceFile
from teravec.sources.vectorfile import VectorFile

__all__ = ["Source", "SourceFiles"]

_FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True)
class SourceFiles:
    """Everything that another process needs to open the same source: see `opening.reopen`.

    Parameters
    ----------
    paths : tuple of str
        Relative to the user's directory, with the format if the user stated one.
    id_column, vector_column : str, optional
    skipped : Skipped, optional
        The known bad rows; None if bad rows are errors.
    held : Source, optional
        The source itself, if it is in this process's memory; it cannot be sent.
    columns : tuple of str
        Columns that the index keeps.
    beside : str, optional
        The file of the columns, if they are not the source's own.
    schema : pyarrow.Schema, optional
        Of the columns.
    attributes : Attributes, optional
        The columns themselves, if they lie in this process's memory beside files of vectors.
    """

    paths: tuple[str, ...]
    id_column: str | None
    vector_column: str | None
    skipped: Skipped | None = None
    held: Source | None = None
    columns: tuple[str, ...] = ()
    beside: str | None = None
    schema: Any = None
    attributes: Attributes | None = None


class Source:
    """The rows of several files as one matrix that is never held as a whole.

    Made by `opening.open_source`. Several threads may read at the same time. If bad rows are
    skipped, the good rows are numbered without gaps, in every stage alike. Their ids do not change.

    Attributes
    ----------
    files : tuple of SourceFile
        In row order, empty files included. Their row numbers count bad rows too.
    id_column : str or None
        Column of the ids; None if an id is a row number.
    vector_column : str or None
        The vector column that the user named.
    skipped : Skipped or None
        Bad rows that are skipped; None if bad rows are errors.
    watermarks : dict
        The largest values of a database's columns, from which a later ``add`` goes on; see
        `databases.watermark`.
    attributes : Attributes or None
        The columns that the index keeps, of all rows of the files.
    """

    def __init__(
        self,
        files: Sequence[VectorFile],
        id_column: str | None = None,
        vector_column: str | None = None,
        members: Sequence[Member] | None = None,
        skipped: Skipped | None = None,
        attributes: Attributes | None = None,
    ) -> None:
        starts = np.cumsum([0, *(file.n for file in files)]).tolist()
        members = members or [Member(file.path) for file in files]
        self.files = tuple(map(SourceFile, starts[:-1], files, members))
        names = (file.id_name for file in files)
        self.id_column = id_column or next(filter(None, names), None)
        self.vector_column, self.skipped = vector_column, skipped
        self.watermarks: dict[str, dict[str, Any]] = {}
        self._starts = np.array(starts[:-1], np.int64)
        self._gaps = skipped or NONE
        self.attributes = attributes

    def drop_rows(self, skipped: Skipped) -> Source:
        """Return the same source without these bad rows."""
        return self._replace(self.files, skipped)

    def match_order(self, described: dict[str, Any]) -> Source:
        """Return the source in the file order of a description, which may be an older release's.

        Older releases sorted the members of a folder or pattern by name, chunk-10 before chunk-2.
        An index that was begun by such a release keeps that order.
        """
        recorded = [(file["name"], file["n"], file["size_bytes"]) for file in described["files"]]
        if recorded == [part.outline for part in self.files]:
            return self
        by_name = sorted(self.files, key=lambda part: (part.member.argument, pure_path(part.path)))
        if recorded != [part.outline for part in by_name]:
            return self
        older = self._replace(by_name, self.skipped)
        return older if older.is_described_by(described) else self

    def declare_columns(self, schema: Any) -> Source:
        """Return the same source with the index's schema for its columns."""
        attributes = self.attributes
        assert attributes is not None
        source = self._replace(self.files, self.skipped)
        source.attributes = replace(attributes, declared=schema)
        return source

    def _replace(self, parts: Sequence[SourceFile], skipped: Skipped | None) -> Source:
        attributes = self.attributes
        if attributes is not None:
            numbers = {id(part): number for number, part in enumerate(self.files)}
            attributes = attributes.reorder([numbers[id(part)] for part in parts])
        source = Source(
            [part.file for part in parts],
            self.id_column,
            self.vector_column,
            [part.member for part in parts],
            skipped,
            attributes,
        )
        source.watermarks = self.watermarks
        return source

    @cached_property
    def ntotal(self) -> int:
        """Number of good rows."""
        return self.nrows - self._gaps.rows

    @property
    def nrows(self) -> int:
        """Number of rows of the files, bad rows included."""
        return self.files[-1].stop

    @cached_property
    def d(self) -> int:
        """Dimension of every vector."""
        return next(iter(self._filled), self.files[0].file).d

    @cached_property
    def dtype(self) -> np.dtype:
        """Element type of the files; float32 if they differ."""
        kinds = {file.dtype for file in self._filled}
        return kinds.pop() if len(kinds) == 1 else np.dtype(np.float32)

    @cached_property
    def exact_dtype(self) -> np.dtype:
        """Type that holds all values without rounding: float32 if possible, else float64."""
        exact = all(np.can_cast(file.dtype, np.float32) for file in self._filled)
        return np.dtype(np.float32 if exact else np.float64)

    @property
    def is_decoded(self) -> bool:
        """Whether rows of some file can only be decoded in order."""
        return any(file.is_decoded for file in self._filled)

    @property
    def opened_by(self) -> SourceFiles:
        """What another process needs to open this source; only for this process if `is_held`."""
        if self.is_held:
            return SourceFiles((), self.id_column, self.vector_column, held=self)
        paths = tuple(part.member.spelled for part in self.files)
        files = SourceFiles(paths, self.id_column, self.vector_column, self.skipped)
        if self.attributes is None:
            return files
        schema = self.attributes.schema
        if self.attributes.beside is not None and self.attributes.path is None:
            return replace(files, attributes=self.attributes)
        return replace(
            files, columns=tuple(schema.names), beside=self.attributes.path, schema=schema
        )

    @property
    def is_held(self) -> bool:
        """Whether the vectors are in this process's memory, closed to other processes."""
        return any(part.file.is_held for part in self.files)

    def check_not(self, out: Path) -> None:
        """Raise InvalidArgument if writing ``out`` would replace a file of this source."""
        for part in () if self.is_held else self.files:
            if isinstance(part.path, Path) and out.exists() and out.samefile(part.path):
                raise InvalidArgument(f"{out} is one of the input files; another output expected")

    @property
    def has_ids(self) -> bool:
        """Whether ids differ from row numbers: by an id column, or by skipped bad rows."""
        return self.id_column is not None or self._gaps.rows > 0

    def read(self, start: int, stop: int, dtype: np.dtype = _FLOAT32) -> np.ndarray:
        """Read consecutive rows, which may lie in several files.

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
            A row holds NaN or infinity, or a file has changed since it was opened.
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
            An id is negative. Searches return -1 for "no result".
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
                    part.check_ids(ids[near - at], near)
                    out[first + low : first + high] = ids[near - at]
        return out

    def column_batches(self, start: int, stop: int) -> Iterator[Any]:
        """Yield the columns of rows [start, stop) as RecordBatches of a few MiB.

        Raises
        ------
        InvalidSource
            A column cannot be decoded; the message names the file.
        """
        self._check_range(start, stop)
        assert self.attributes is not None
        if start == stop:
            return
        row, after = self._gaps.places(np.array([start, stop - 1])).tolist()
        for batch in self.attributes.batches(row, after + 1):
            bad = self._gaps.between(row, row + len(batch))
            row += len(batch)
            if len(bad):
                good = np.ones(len(batch), np.bool_)
                for low, high in (bad - row + len(batch)).tolist():
                    good[low:high] = False
                batch = batch.filter(pa.array(good))
            if len(batch):
                yield batch

    def blocks(self, start: int, stop: int, rows: int) -> Iterator[Block]:
        """Read rows [start, stop) block by block, and read ahead by one block.

        Parameters
        ----------
        start, stop : int
        rows : int
            Rows of a block; the last block may have fewer. At most three blocks are in memory:
            one in use, one ready, one being read.

        Yields
        ------
        Block
        """
        self._check_range(start, stop)
        if rows < 1:
            raise InvalidArgument(f"blocks of {rows} rows found, expected 1 or more")
        return ahead(self._read_blocks(start, stop, rows))

    def take(self, rows: np.ndarray, dtype: np.dtype = _FLOAT32) -> np.ndarray:
        """Read single rows; near rows share one read.

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
            Row numbers do not ascend, or lie outside the source.
        InvalidSource
            As `read`.
        """
        self._check_rows(rows)
        return self._take(self._gaps.places(rows.astype(np.int64)), dtype)

    def _take(self, rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Do as `take`, with rows of the files."""
        out = np.empty((len(rows), self.d), dtype)
        if len(rows) == 0:
            return out
        for part, _, _ in self._find_parts(int(rows[0]), int(rows[-1]) + 1):
            begin, end = np.searchsorted(rows, [part.start, part.stop]).tolist()
            if begin < end:
                inside = rows[begin:end] - part.start
                read_rows(part.file, inside, out[begin:end], part.start)
            if part.stop <= rows[-1]:
                part.file.release()
        return out

    def check_lengths(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Raise if vectors are so long that a squared distance may exceed float32.

        Parameters
        ----------
        rows : ndarray of shape (n,), integers
            Row numbers of the vectors.
        vectors : ndarray of shape (n, d), float32

        Raises
        ------
        InvalidSource
            The message names the file and the row.
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
        """Return a row's file and number, for messages."""
        row = int(self._gaps.places(np.array([row]))[0])
        part, _, _ = next(self._find_parts(row, row + 1))
        return f"{part.path}: row {row - part.start} (row {row} of the source)"

    def describe(self) -> dict[str, Any]:
        """Describe the source, so that a later process can check that it has the same one.

        Returns
        -------
        dict
            Ready for JSON. Files of equal names and contents in the same order have equal
            descriptions, in any directory. Data in memory of equal values and type have equal
            descriptions, in any kind of object.
        """
        by_content = any(part.file.by_content for part in self.files)
        return {
            "d": self.d,
            "ntotal": self.ntotal,
            "dtype": self.dtype.name,
            "id_column": self.id_column,
            "files": [self._content] if by_content else [part.describe() for part in self.files],
            **({"skipped": self._gaps.describe()} if self._gaps.rows else {}),
            **({"watermarks": self.watermarks} if self.watermarks else {}),
            **({} if self.attributes is None else {"columns": self.describe_columns()}),
        }

    def describe_columns(self) -> dict[str, Any] | None:
        """Describe the columns that the index keeps, as `describe` does; None without any."""
        if self.attributes is None:
            return None
        by_content = any(part.file.by_content for part in self.files)
        return self.attributes.describe(by_content=by_content)

    def is_described_by(self, description: dict[str, Any]) -> bool:
        """Whether `describe` described these vectors, whichever folders lead to their files.

        Data in memory are recognised by their values. A file of the same vectors and ids is
        therefore the same source.
        """
        files = description["files"]
        if [file["name"] for file in files] != [IN_MEMORY]:
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
            "name": IN_MEMORY,
            "n": self.ntotal,
            "size_bytes": self.ntotal * self.d * self.dtype.itemsize,
            "fingerprint": content_fingerprint(self.ntotal, self.d, read),
            "vector_column": None,
        }

    @cached_property
    def _filled(self) -> list[VectorFile]:
        return [part.file for part in self.files if part.n > 0]

    def _find_parts(self, start: int, stop: int) -> Iterator[tuple[SourceFile, int, int]]:
        """Yield the files that hold rows [start, stop), each with its share [begin, end)."""
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
