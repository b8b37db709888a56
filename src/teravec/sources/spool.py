"""Spools: sealed files with the vectors of a stream or of this process's memory.

A stream can be read once only, but a build reads its vectors several times, and again after a
crash. A stream is therefore first written to a file beside the output, one batch in memory at a
time::

    header: "TVSPOOL1" | u32 version | u32 type | u64 n | u64 d | u64 has ids | u64 XXH3 of the
            rows | u64 XXH3 of the header                                        (little-endian)
    row:    [int64 id] | d values of the type

``type`` is an index into ``_DTYPES``. The file gets its name once it is complete, synced and read
back; a rerun finds it and continues with it.
"""

from __future__ import annotations

import logging
import shutil
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash

from teravec.errors import CorruptFile, InvalidSource, OutputExists, storage_errors
from teravec.progress import Progress
from teravec.sources.conversion import read_range
from teravec.sources.packed import PackedFile, check_size, read_head
from teravec.sources.vectorfile import VectorFile, check_dimension
from teravec.storage.files import byte_view, make_directory, publishing, remove, write_all
from teravec.storage.sealed_file import pack_header, unpack_header

__all__ = ["SPOOL", "SpoolFile", "discard_spool", "is_spooled", "open_spool", "spool"]

log = logging.getLogger(__name__)

SPOOL = ".spool"
"""Extension of a spool."""

_MAGIC, _VERSION = b"TVSPOOL1", 1
_HEADER = struct.Struct("<8sIIQQQQQ")
_ID = np.dtype("<i8")
_DTYPES = tuple(
    np.dtype(name)
    for name in ("<f4", "<f8", "<f2", "u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8")
)
_PIECE_BYTES = 2 << 20
_BUFFER_BYTES = 4 << 20
_LARGE_BYTES = 1 << 20  # pieces that are not copied into the buffer


class SpoolFile(PackedFile):
    """A spool as an input file; each row begins with its id if there are ids."""

    by_content = True
    path: Path

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int],
        dtype: np.dtype,
        size: int,
        *,
        has_ids: bool,
        checksum: int,
    ) -> None:
        prefix = _ID.itemsize if has_ids else 0
        super().__init__(path, shape, dtype, size, offset=_HEADER.size, prefix_bytes=prefix)
        self.has_ids, self._checksum = has_ids, checksum
        self.id_name = "ids" if has_ids else None

    def _decode(self, rows: np.ndarray, start: int) -> np.ndarray:
        return rows[:, self._row_bytes - self.d * self.dtype.itemsize :].view(self.dtype)

    def read_ids(self, start: int, stop: int) -> np.ndarray | None:
        """Read the ids of rows [start, stop); None if ids are row numbers."""
        if not self.has_ids:
            return None
        pieces = [rows[:, : _ID.itemsize].copy() for rows in self._read_raw(start, stop)]
        return np.concatenate(pieces).view(_ID)[:, 0]

    def verify(self) -> None:
        """Raise CorruptFile if the rows do not match their checksum."""
        digest = xxhash.xxh3_64()
        for rows in self._read_raw(0, self.n):
            digest.update(rows.data)
        if digest.intdigest() != self._checksum:
            raise CorruptFile(
                f"{self.path}: rows have checksum {digest.hexdigest()}, {self._checksum:016x} "
                "expected; remove the file and give the data again"
            )

    def _read_raw(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yield rows as bytes, piece by piece; the next piece overwrites the one before."""
        step = max(1, _PIECE_BYTES // self._row_bytes)
        bytes_ = PackedFile(
            self.path,
            (self.n, self._row_bytes),
            np.dtype("u1"),
            self.size_bytes,
            offset=_HEADER.size,
        )
        with bytes_.reading() as read:
            for row in range(start, stop, step):
                yield read(row, min(stop, row + step))


def open_spool(path: Path) -> SpoolFile:
    """Open a spool. Header and size are checked here, rows by `SpoolFile.verify`."""
    head, size = read_head(path, _HEADER.size)
    if len(head) < _HEADER.size:
        raise InvalidSource(f"{path}: {size} bytes found, too few for a spool")
    kind, n, d, has_ids, checksum = unpack_header(
        _HEADER, head, path, magic=_MAGIC, version=_VERSION, kind="spool"
    )
    if kind >= len(_DTYPES):
        raise CorruptFile(f"{path}: values of type {kind} found, below {len(_DTYPES)} expected")
    check_dimension(path, d)
    dtype = _DTYPES[kind]
    check_size(path, size - n * _ID.itemsize * has_ids, _HEADER.size, (n, d), dtype.itemsize)
    return SpoolFile(path, (n, d), dtype, size, has_ids=bool(has_ids), checksum=checksum)


def discard_spool(path: Path) -> None:
    """Remove a spool, or the folder of a database's spools, if it is there."""
    if not path.is_dir():
        remove(path)
        return
    remove(path / "plan")  # first, so that nobody goes on with a half of the rest
    with storage_errors(path, "remove"):
        shutil.rmtree(path)


def is_spooled(file: VectorFile, path: Path) -> bool:
    """Whether a file is this spool, or lies in this folder of spools."""
    return path in (file.path, file.path.parent)


def spool(
    blocks: Iterable[VectorFile],
    path: Path,
    progress: Progress,
    total: int = 0,
    *,
    skip_bad: bool = False,
) -> SpoolFile:
    """Write vectors to a spool, block by block, or open the spool of an earlier run.

    Parameters
    ----------
    blocks : iterable of VectorFile
        Held one at a time. If a complete spool exists, only the first block is read, and the
        spool must begin with it.
    path : Path
        Ends in ``SPOOL``.
    progress : Progress
    total : int
        Number of vectors, for progress; 0 if unknown.
    skip_bad : bool
        Accept rows with NaN or infinity, which are skipped later.

    Raises
    ------
    InvalidSource
        A row cannot be indexed, or blocks differ in dimension, type or ids.
    OutputExists
        The existing spool holds other vectors, or another process is writing it.
    StorageError
        No space or no permission; run again with the same data.
    """
    if path.exists():
        return _resume(blocks, path)
    make_directory(path.parent)
    with publishing(path, verify=lambda temporary: open_spool(temporary).verify()) as file:
        writer = _Writer(file, skip_bad=skip_bad)
        with progress.stage("spool", total, "vectors") as bar:
            for block in blocks:
                for rows in writer.add(block):
                    bar.advance(rows)
        writer.seal(path)
    log.info("%s: %d vectors spooled", path, writer.n)
    return open_spool(path)


def _resume(blocks: Iterable[VectorFile], path: Path) -> SpoolFile:
    """Open a complete spool, if it begins with the given data."""
    found = open_spool(path)
    found.verify()
    first = next((block for block in blocks if block.n), None)
    if first is None or not _begins_with(found, first):
        raise OutputExists(
            f"{path}: holds {found.n:,} x {found.d} vectors of an earlier run, not those given "
            "now; remove it, or choose another output"
        )
    log.warning(
        "%s: going on with the %s vectors that an earlier run took from the stream; remove the "
        "file to read the stream again",
        path,
        f"{found.n:,}",
    )
    return found


def _begins_with(found: SpoolFile, block: VectorFile) -> bool:
    if block.n > found.n or (block.d, _stored_dtype(block.dtype)) != (found.d, found.dtype):
        return False
    step = max(1, _PIECE_BYTES // (found.d * found.dtype.itemsize))
    ids = block.read_ids(0, block.n)
    if (ids is not None) != found.has_ids:
        return False
    if ids is not None and not np.array_equal(ids, _read_ids(found, block.n)):
        return False
    with found.reading() as ours, block.reading() as theirs:
        spans = ((row, min(block.n, row + step)) for row in range(0, block.n, step))
        return all(_are_equal(ours(*span), theirs(*span)) for span in spans)


def _are_equal(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether values are equal, NaN included, which bad rows hold."""
    return np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f")


def _read_ids(found: SpoolFile, n: int) -> np.ndarray:
    ids = found.read_ids(0, n)
    assert ids is not None
    return ids


def _stored_dtype(dtype: np.dtype) -> np.dtype:
    """Return the type that values are stored as: little-endian, at most float64."""
    little = dtype.newbyteorder("<")
    return little if little in _DTYPES else np.dtype("<f8")


class _Writer:
    """Appends blocks to a new spool.

    The first block with rows fixes the dimension, the type, and whether there are ids.
    """

    def __init__(self, file: BinaryIO, *, skip_bad: bool) -> None:
        self.n = self._d = 0
        self._skip_bad = skip_bad
        self._file, self._dtype, self._has_ids = file, _DTYPES[0], False
        self._digest, self._offset = xxhash.xxh3_64(), _HEADER.size
        self._buffer = bytearray()

    def add(self, block: VectorFile) -> Iterator[int]:
        """Append a block piece by piece; yield the number of rows of each piece."""
        if not block.n:
            return
        ids = block.read_ids(0, 1)
        if not self.n:
            self._d, self._dtype, self._has_ids = (
                block.d,
                _stored_dtype(block.dtype),
                ids is not None,
            )
        self._check_fits(block, ids is not None)
        row_bytes = self._d * self._dtype.itemsize + _ID.itemsize * self._has_ids
        step = max(1, _PIECE_BYTES // max(4 * self._d, row_bytes))
        checked = np.empty((min(step, block.n), self._d), np.float32)
        with block.reading() as read:
            for start in range(0, block.n, step):
                stop = min(block.n, start + step)
                if not self._skip_bad:
                    # Only for its check: it raises at the first value that is not finite.
                    read_range(block, start, checked[: stop - start], self.n - start)
                self._append(self._pack(block, read(start, stop), start, stop))
                self.n += stop - start
                yield stop - start

    def seal(self, path: Path) -> None:
        """Write the buffered rows and the header."""
        if not self.n:
            raise InvalidSource(f"{path.name}: the stream gave no vectors, expected 1 or more")
        self._flush()
        fields = (self.n, self._d, int(self._has_ids), self._digest.intdigest())
        kind = _DTYPES.index(self._dtype)
        write_all(self._file, pack_header(_HEADER, _MAGIC, _VERSION, kind, *fields), 0)

    def _check_fits(self, block: VectorFile, has_ids: bool) -> None:
        if block.d != self._d:
            raise InvalidSource(f"{block.path}: dimension {block.d} found, expected {self._d}")
        if not np.can_cast(
            block.dtype, self._dtype, "same_kind" if self._is_wide(block) else "safe"
        ):
            raise InvalidSource(
                f"{block.path}: {block.dtype} found, expected {self._dtype} as in the first batch"
            )
        if has_ids != self._has_ids:
            found, expected = ("ids", "none") if has_ids else ("no ids", "ids")
            raise InvalidSource(f"{block.path}: {found} found, {expected} expected as at first")

    def _is_wide(self, block: VectorFile) -> bool:
        return block.dtype.kind == "f" and block.dtype.itemsize > 8

    def _pack(self, block: VectorFile, rows: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Lay rows out as in the file, uint8."""
        kind = [("id", _ID)] if self._has_ids else []
        packed = np.empty(stop - start, [*kind, ("values", self._dtype, (self._d,))])
        packed["values"] = rows
        if self._has_ids:
            ids = block.read_ids(start, stop)
            assert ids is not None
            if len(wrong := np.flatnonzero(ids < 0)):
                raise InvalidSource(
                    f"{block.path}: row {start + wrong[0]} has id {ids[wrong[0]]}, expected 0 or "
                    "more"
                )
            packed["id"] = ids
        return packed.view(np.uint8)

    def _append(self, rows: np.ndarray) -> None:
        data = byte_view(rows)
        if len(data) >= _LARGE_BYTES:
            self._flush()
            self._write(data)
            return
        self._buffer += data
        if len(self._buffer) >= _BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._write(memoryview(self._buffer))
        self._buffer.clear()

    def _write(self, data: memoryview) -> None:
        self._digest.update(data)
        write_all(self._file, data, self._offset)
        self._offset += len(data)
