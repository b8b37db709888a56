"""Neighbour files: what a search found or what is true, written and read by extension.

==========  ===================================================================== ===== =====
extension   content                                                               write range
==========  ===================================================================== ===== =====
.ibin       uint32 n, uint32 k, n * k int32 ids                                   yes   no
.bin        uint32 n, uint32 k, n * k uint32 ids, n * k float32 distances         yes   no
.ivecs      n rows: int32 k, k int32 ids                                          yes   no
.npy        int64 ids of shape (n, k)                                             yes   no
.npz        arrays ids (n, k) int64, distances float32; for range search also     yes   yes
            lims (n + 1,), with ids and distances flat
.parquet    a row for every neighbour: query int64, rank int32 (from 0), id       yes   yes
            int64, distance float32
==========  ===================================================================== ===== =====

All little-endian. ``.bin`` is the ground truth of big-ann-benchmarks; as there are ``.ibin``
files with distances and ``.bin`` files without, both are read either way, by their size. A
missing neighbour is id -1; in the unsigned ids of ``.bin`` 0xFFFFFFFF.

References
----------
https://big-ann-benchmarks.com, "Datasets"; http://corpus-texmex.irisa.fr, "File formats".
"""

from __future__ import annotations

import errno
import io
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy_format

from teravec.errors import (
    InvalidArgument,
    InvalidSource,
    MissingFile,
    StorageError,
    TeravecError,
    storage_errors,
)
from teravec.sources.columnar import arrow_errors
from teravec.storage.files import publishing, write_all

__all__ = ["Neighbors", "check_output", "read_neighbors", "write_neighbors", "write_range"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_HEADER = struct.Struct("<II")
_NO_ID = 0xFFFFFFFF  # a missing neighbour among unsigned ids
_CHUNK = 1 << 20  # ids or rows converted at a time
_INFLATION = 1100  # deflate expands by at most 1032


@dataclass(frozen=True)
class Neighbors:
    """Nearest neighbours of queries.

    Parameters
    ----------
    ids : ndarray of shape (n, k), int64
        Best first; -1 for none.
    distances : ndarray of shape (n, k), float32, or None
        None where the file holds no distances.
    """

    ids: Int64
    distances: Float32 | None = None


def check_output(path: str | Path, *, within_radius: bool = False) -> None:
    """Refuse an output file that could not be written, before any work is done.

    Parameters
    ----------
    path : path-like
    within_radius : bool
        Whether it is to hold the results of a range search.

    Raises
    ------
    InvalidArgument
        An extension that is not written.
    StorageError
        The directory is missing, or may not be written to.
    """
    path = Path(path)
    _writer(path, within_radius)
    directory = path.parent
    if not directory.is_dir():
        raise StorageError(f"{path}: cannot write: no directory {directory}")
    if path.is_dir():
        raise StorageError(f"{path}: cannot write: it is a directory, a file name expected")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StorageError(f"{path}: cannot write: no permission to write in {directory}")


def write_neighbors(path: str | Path, distances: Float32, ids: Int64) -> None:
    """Write neighbours durably, in the format of the path's extension.

    Parameters
    ----------
    path : path-like
        ``.ibin``, ``.bin``, ``.ivecs``, ``.npy``, ``.npz`` or ``.parquet``; replaced if it
        exists, and untouched if writing fails.
    distances : ndarray of shape (n, k), float32
        Left out of formats that hold ids only.
    ids : ndarray of shape (n, k), int64

    Raises
    ------
    InvalidArgument
        An unknown extension, or ids that the format cannot hold.
    StorageError
        No space, no permission, or a failed write.
    """
    path, distances, ids = Path(path), np.asarray(distances), np.asarray(ids)
    write = _writer(path, range_search=False)
    if ids.ndim != 2 or ids.shape != distances.shape or ids.dtype.kind not in "iu":
        raise InvalidArgument(
            f"ids {ids.dtype} of shape {ids.shape} and distances of shape {distances.shape} found, "
            "integers and distances of one shape (n, k) expected"
        )
    write(path, np.ascontiguousarray(distances, np.float32), np.ascontiguousarray(ids, np.int64))


def write_range(path: str | Path, lims: Int64, distances: Float32, ids: Int64) -> None:
    """Write the results of a range search durably, as ``.npz`` or ``.parquet``.

    Parameters
    ----------
    path : path-like
    lims : ndarray of shape (n + 1,), int64
        Results of query i are at [lims[i], lims[i + 1]).
    distances, ids : ndarray of shape (lims[n],)

    Raises
    ------
    InvalidArgument, StorageError
    """
    path = Path(path)
    write = _writer(path, range_search=True)
    lims, distances, ids = np.asarray(lims), np.asarray(distances), np.asarray(ids)
    if (
        lims.ndim != 1 or not len(lims) or lims[0] != 0 or (np.diff(lims) < 0).any()
        or not ids.shape == distances.shape == (lims[-1],)
    ):  # fmt: skip
        raise InvalidArgument(
            f"lims of shape {lims.shape}, ids {ids.shape} and distances {distances.shape} found, "
            "lims ascending from 0 to the number of ids and distances expected"
        )
    write(path, lims.astype(np.int64), distances.astype(np.float32), ids.astype(np.int64))


def read_neighbors(path: str | Path) -> Neighbors:
    """Read neighbours, in the format of the path's extension.

    Raises
    ------
    InvalidSource
        No such file, an extension that is not read, or a file that is not what its extension
        says; found and expected are in the message.
    StorageError
        The file may not be read.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise InvalidSource(
            f"{path}: extension {path.suffix!r} found, neighbours are read from "
            f"{', '.join(_FORMATS)}"
        )
    try:
        with storage_errors(path, "read"):
            neighbors = _FORMATS[path.suffix.lower()].read(path)
    except MissingFile as error:
        raise InvalidSource(f"{path}: no such file, a file of neighbours expected") from error
    if not neighbors.ids.size:
        raise InvalidSource(
            f"{path}: ids of shape {neighbors.ids.shape} found, 1 query and 1 neighbour or more "
            "expected"
        )
    return neighbors


def _writer(path: Path, range_search: bool) -> Callable[..., None]:
    writers = {
        extension: write
        for extension, entry in _FORMATS.items()
        if (write := entry.write_range if range_search else entry.write) is not None
    }
    write = writers.get(path.suffix.lower())
    if write is None:
        what = "range search results" if range_search else "neighbours"
        raise InvalidArgument(
            f"{path}: extension {path.suffix!r} found, {what} are written as {', '.join(writers)}"
        )
    return write


class _Whole(io.RawIOBase):
    """A file being written, of which every write is whole or an error."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._position = 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = self._file.seek(offset, whence)
        return self._position

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        write_all(self._file, view, self._position)
        self._position += len(view)
        return len(view)


@contextmanager
def _publishing(path: Path) -> Iterator[_Whole]:
    with publishing(path) as file:
        yield _Whole(file)


@contextmanager
def _reading(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """The open file, and its size in bytes."""
    with path.open("rb") as file:
        yield file, os.fstat(file.fileno()).st_size


def _read_array(file: BinaryIO, path: Path, dtype: str, shape: tuple[int, ...]) -> Any:
    array = np.fromfile(file, dtype, int(np.prod(shape)))
    if array.size != np.prod(shape):
        raise InvalidSource(f"{path}: {array.size} values read, {np.prod(shape)} expected")
    return array.reshape(shape)


def _narrow(path: Path, ids: Int64, dtype: str) -> Iterator[npt.NDArray[Any]]:
    """Ids as 32-bit integers, some at a time, after all are known to fit."""
    kind = np.dtype(dtype)
    largest = int(np.iinfo(np.int32).max)  # of .bin too: many readers take its ids as signed
    if ids.size and not -1 <= ids.min() <= ids.max() <= largest:
        worst = int(ids.max() if ids.max() > largest else ids.min())
        raise InvalidArgument(
            f"{path}: id {worst} found, -1 to {largest} is what {path.suffix} files hold; "
            ".npz, .npy and .parquet hold 64 bits"
        )
    rows = max(1, _CHUNK // max(1, ids.shape[1]))
    return (ids[i : i + rows].astype(kind) for i in range(0, len(ids), rows))


def _check_counts(path: Path, ids: Int64) -> None:
    if max(ids.shape) > np.iinfo(np.int32).max:
        raise InvalidArgument(f"{path}: shape {ids.shape} found, less than 2^31 x 2^31 expected")


def _write_ibin(path: Path, distances: Float32, ids: Int64) -> None:
    _check_counts(path, ids)
    parts = _narrow(path, ids, "<i4")
    with _publishing(path) as file:
        file.write(_HEADER.pack(*ids.shape))
        for part in parts:
            file.write(part)


def _write_bin(path: Path, distances: Float32, ids: Int64) -> None:
    _check_counts(path, ids)
    parts = _narrow(path, ids, "<u4")  # -1 wraps to 0xFFFFFFFF
    with _publishing(path) as file:
        file.write(_HEADER.pack(*ids.shape))
        for part in parts:
            file.write(part)
        if distances.size:
            file.write(distances)


def _read_bin(path: Path, dtype: str) -> Neighbors:
    with _reading(path) as (file, size):
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size:
            raise InvalidSource(f"{path}: {size} bytes found, a header of 8 (n and k) expected")
        n, k = _HEADER.unpack(head)
        alone = _HEADER.size + 4 * n * k
        both = alone + 4 * n * k
        if size not in (alone, both):
            raise InvalidSource(
                f"{path}: {size} bytes found, {alone} (ids) or {both} (ids and distances) expected "
                f"for its header's n={n}, k={k}"
            )
        raw = _read_array(file, path, dtype, (n, k))
        distances = _read_array(file, path, "<f4", (n, k)) if size == both else None
    ids = raw.astype(np.int64)
    if raw.dtype.kind == "u":
        ids[raw == _NO_ID] = -1
    return Neighbors(ids, distances)


def _write_ivecs(path: Path, distances: Float32, ids: Int64) -> None:
    _check_counts(path, ids)
    parts = _narrow(path, ids, "<i4")
    with _publishing(path) as file:
        for part in parts:
            prefix = np.full((len(part), 1), ids.shape[1], "<i4")
            file.write(np.hstack([prefix, part]))


def _read_ivecs(path: Path) -> Neighbors:
    with _reading(path) as (file, size):
        head = file.read(4)
        k = int.from_bytes(head, "little", signed=True)
        if len(head) < 4 or k < 1 or size % (4 + 4 * k):
            raise InvalidSource(
                f"{path}: {size} bytes and first count {k if head else 'none'} found, "
                "a whole number of rows of one count and so many int32 ids expected"
            )
        file.seek(0)
        rows = _read_array(file, path, "<i4", (size // (4 + 4 * k), k + 1))
    other = np.flatnonzero(rows[:, 0] != k)
    if other.size:
        raise InvalidSource(
            f"{path}: row {other[0]} has count {rows[other[0], 0]}, {k} expected as in row 0"
        )
    return Neighbors(rows[:, 1:].astype(np.int64))


def _write_npy(path: Path, distances: Float32, ids: Int64) -> None:
    with _publishing(path) as file:
        npy_format.write_array(file, ids, allow_pickle=False)


def _read_npy(path: Path) -> Neighbors:
    with _reading(path) as (file, size):
        ids = _read_npy_array(file, size, str(path))
    return Neighbors(_as_ids(ids, str(path), dimensions=2))


def _read_npy_array(file: IO[bytes], size: int, name: str) -> npt.NDArray[Any]:
    """Read a ``.npy`` array of ``size`` bytes, its header included; nothing is unpickled."""
    start = file.tell()
    try:
        version = npy_format.read_magic(file)
        read_header = {
            (1, 0): npy_format.read_array_header_1_0,
            (2, 0): npy_format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(file)
        header = file.tell() - start
    except Exception as error:  # the header is Python text, and every stage of parsing has its own
        why = " ".join(str(error).split())
        raise InvalidSource(f"{name}: no sound .npy header: {why}") from error
    if dtype.hasobject or dtype.names or dtype.kind not in "iuf":
        raise InvalidSource(f"{name}: dtype {dtype} found, numbers expected")
    expected = header
    values = dtype.itemsize
    for side in shape:
        values *= side  # Python's integers: a header cannot make them overflow
    expected += values
    if expected != size or min(shape, default=0) < 0:
        raise InvalidSource(
            f"{name}: {size} bytes found, {expected} expected for its header's shape {shape} "
            f"of {dtype}"
        )
    file.seek(start)
    try:
        array: npt.NDArray[Any] = npy_format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InvalidSource(f"{name}: not a sound .npy array: {error}") from error
    return array


def _as_ids(array: npt.NDArray[Any], name: str, dimensions: int) -> Int64:
    if array.ndim != dimensions or array.dtype.kind not in "iu":
        raise InvalidSource(
            f"{name}: {array.dtype} array of shape {array.shape} found, "
            "integer ids of shape (n, k) expected"
        )
    if array.dtype == np.uint64 and array.size and array.max() > np.uint64(2**63 - 1):
        raise InvalidSource(f"{name}: id {array.max()} found, less than 2^63 expected")
    return np.ascontiguousarray(array, np.int64)


def _write_npz(path: Path, distances: Float32, ids: Int64) -> None:
    with _publishing(path) as file:
        np.savez(file, ids=ids, distances=distances)


def _write_npz_range(path: Path, lims: Int64, distances: Float32, ids: Int64) -> None:
    with _publishing(path) as file:
        np.savez(file, lims=lims, distances=distances, ids=ids)


def _read_npz(path: Path) -> Neighbors:
    with _reading(path) as (file, size):
        try:
            with zipfile.ZipFile(file) as archive:
                members = {Path(info.filename).stem: info for info in archive.infolist()}
                _check_members(path, members)
                arrays = {
                    name: _read_member(path, archive, members[name], size)
                    for name in ("ids", "distances")
                    if name in members
                }
        # What zipfile raises for damaged archives depends on where the damage is.
        except (zipfile.BadZipFile, zipfile.LargeZipFile, ValueError, EOFError, NotImplementedError,
                RuntimeError, struct.error, IndexError, OSError) as error:  # fmt: skip
            # A damaged offset is a seek before the file's start, which is EINVAL.
            real = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
            if isinstance(error, TeravecError) or real:
                raise
            raise InvalidSource(f"{path}: not a sound .npz file: {error}") from error
    ids = _as_ids(arrays["ids"], f"{path} (ids)", dimensions=2)
    distances = arrays.get("distances")
    if distances is not None and distances.shape != ids.shape:
        raise InvalidSource(
            f"{path}: distances of shape {distances.shape} found, {ids.shape} expected as of ids"
        )
    return Neighbors(ids, None if distances is None else distances.astype(np.float32))


def _check_members(path: Path, members: dict[str, zipfile.ZipInfo]) -> None:
    if "lims" in members:
        raise InvalidSource(f"{path}: results of a range search found, k neighbours expected")
    if "ids" not in members:
        found = ", ".join(sorted(members)) or "none"
        raise InvalidSource(f"{path}: arrays {found} found, ids expected (and distances)")


def _read_member(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int
) -> npt.NDArray[Any]:
    if info.compress_size > size or info.file_size > _INFLATION * max(1, info.compress_size):
        raise InvalidSource(
            f"{path}: {info.filename} of {info.file_size} bytes, {info.compress_size} compressed, "
            f"found in a file of {size} bytes"
        )
    with archive.open(info) as member:
        array = _read_npy_array(member, info.file_size, f"{path} ({info.filename})")
        member.read()  # to the end, where zipfile compares the checksum
    return array


_SCHEMA = pa.schema(
    [
        pa.field("query", pa.int64(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("id", pa.int64(), nullable=False),
        pa.field("distance", pa.float32(), nullable=False),
    ]
)


def _write_parquet(path: Path, distances: Float32, ids: Int64) -> None:
    n, k = ids.shape
    _write_parquet_range(path, np.arange(n + 1) * k, distances.ravel(), ids.ravel())


def _write_parquet_range(path: Path, lims: Int64, distances: Float32, ids: Int64) -> None:
    with _publishing(path) as file, pq.ParquetWriter(file, _SCHEMA, compression="zstd") as writer:
        for start in range(0, len(ids), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(ids)))
            query = np.searchsorted(lims, rows, "right") - 1
            columns = (query, rows - lims[query], ids[rows], distances[rows])
            arrays = [
                pa.array(column, field.type, safe=True)
                for column, field in zip(columns, _SCHEMA, strict=True)
            ]
            writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))


def _read_parquet(path: Path) -> Neighbors:
    with _reading(path) as (file, _), arrow_errors(path):
        with pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            lacking = [name for name in ("query", "rank", "id") if name not in names]
            if lacking:
                raise InvalidSource(
                    f"{path}: columns {', '.join(names)} found, query, rank and id expected "
                    "(and distance)"
                )
            wanted = [name for name in _SCHEMA.names if name in names]
            table = parquet.read(columns=wanted, use_threads=False)
        columns = {
            name: _column(path, table.column(name), _SCHEMA.field(name).type) for name in wanted
        }
    return _from_columns(path, columns)


def _column(path: Path, column: Any, kind: Any) -> npt.NDArray[Any]:
    if column.null_count:
        raise InvalidSource(f"{path}: {column.null_count} nulls found in a column, none expected")
    # Float32 may round wider distances; integers must fit.
    array = column.cast(kind, safe=not pa.types.is_floating(kind))
    return np.asarray(array.to_numpy())


def _from_columns(path: Path, columns: dict[str, npt.NDArray[Any]]) -> Neighbors:
    """Rows in any order, one for every query and rank, as arrays."""
    query, rank = columns["query"], columns["rank"].astype(np.int64)
    rows = len(query)
    n, k = (int(column.max()) + 1 if rows else 0 for column in (query, rank))
    order = np.lexsort((rank, query))
    places = np.arange(rows)
    if n * k != rows or not (
        np.array_equal(query[order], places // max(1, k))
        and np.array_equal(rank[order], places % max(1, k))
    ):
        raise InvalidSource(
            f"{path}: {rows} rows found, expected one for each query of {n} and rank of {k}"
        )
    arrays = {name: columns[name][order].reshape(n, k) for name in columns}
    return Neighbors(arrays["id"], arrays.get("distance"))


@dataclass(frozen=True)
class _Format:
    read: Callable[[Path], Neighbors]
    write: Callable[[Path, Float32, Int64], None]
    write_range: Callable[[Path, Int64, Float32, Int64], None] | None = None


_FORMATS = {
    ".npz": _Format(_read_npz, _write_npz, _write_npz_range),
    ".ibin": _Format(lambda path: _read_bin(path, "<i4"), _write_ibin),
    ".bin": _Format(lambda path: _read_bin(path, "<u4"), _write_bin),
    ".ivecs": _Format(_read_ivecs, _write_ivecs),
    ".npy": _Format(_read_npy, _write_npy),
    ".parquet": _Format(_read_parquet, _write_parquet, _write_parquet_range),
}
