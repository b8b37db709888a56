"""Neighbour files: results and ground truth, read and written by extension.

=========== ================================================================== ===========
extension   content                                                            ids
=========== ================================================================== ===========
.ibin       uint32 n, uint32 k, then n k int32 ids                             32 bits
.bin        uint32 n, uint32 k, n k uint32 ids, n k float32 distances          32 bits
.ivecs      n rows of int32 k and k int32 ids                                  32 bits
.npy        int64 array of shape (n, k)                                        64 bits
.npz        arrays ids and distances; of a range search lims too               64 bits
.parquet    a row for each result: query, rank, id, distance                   64 bits
=========== ================================================================== ===========

``.ibin`` and ``.bin`` are those of big-ann-benchmarks.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from teravec.errors import InvalidArgument, InvalidSource, StorageError, storage_errors
from teravec.storage.files import publishing, write_all

__all__ = ["Neighbors", "check_output", "read_neighbors", "write_neighbors", "write_range"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_WIDE = (".npz", ".parquet", ".npy")  # formats of 64-bit ids
_RANGE = (".npz", ".parquet")
_EXTENSIONS = (".ibin", ".bin", ".ivecs", ".npy", ".npz", ".parquet")


@dataclass(frozen=True)
class Neighbors:
    """Neighbours of n queries.

    Parameters
    ----------
    ids : ndarray of shape (n, k), int64
        Best first; -1 where there is none.
    distances : ndarray of shape (n, k), float32, or None where the file has none
    """

    ids: Int64
    distances: Float32 | None


def check_output(path: Path, *, within_radius: bool = False) -> None:
    """Check that results can be written at ``path``, before the work that makes them.

    Raises
    ------
    InvalidArgument
        An extension that is not written.
    StorageError
        The directory is missing or not writable.
    """
    known = _RANGE if within_radius else _EXTENSIONS
    if path.suffix not in known:
        raise InvalidArgument(
            f"{path}: extension {path.suffix!r} found; {', '.join(known)} expected"
        )
    if not path.parent.is_dir():
        raise StorageError(f"{path}: cannot write: no directory {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise StorageError(f"{path}: cannot write: no permission")


def write_neighbors(path: Path, distances: Float32, ids: Int64) -> None:
    """Publish the k nearest neighbours of n queries.

    Parameters
    ----------
    path : Path
        Its extension names the format.
    distances : ndarray of shape (n, k), float32
    ids : ndarray of shape (n, k), int64

    Raises
    ------
    InvalidArgument
        An id needs more bits than the format has.
    """
    check_output(path)
    if path.suffix not in _WIDE and ids.size and not (ids.min() >= -1 and ids.max() < 1 << 31):
        raise InvalidArgument(
            f"{path}: ids from {ids.min()} to {ids.max()} found; {path.suffix} holds 32 bits, "
            f"{', '.join(_WIDE)} hold 64"
        )
    head = np.array(ids.shape, np.uint32).tobytes()
    if path.suffix == ".ibin":
        data = head + ids.astype(np.int32).tobytes()
    elif path.suffix == ".bin":
        data = head + ids.astype(np.uint32).tobytes() + distances.astype(np.float32).tobytes()
    elif path.suffix == ".ivecs":
        width = np.full((len(ids), 1), ids.shape[1], np.int32)
        data = np.hstack([width, ids.astype(np.int32)]).tobytes()
    elif path.suffix == ".npy":
        data = _bytes_of(lambda file: np.save(file, ids, allow_pickle=False))
    elif path.suffix == ".npz":
        data = _bytes_of(lambda file: np.savez(file, ids=ids, distances=distances))
    else:
        held = ids != -1
        query, rank = np.nonzero(held)
        data = _parquet(query, rank, ids[held], distances[held])
    _publish(path, data)


def write_range(path: Path, lims: Int64, distances: Float32, ids: Int64) -> None:
    """Publish the results of a range search: .npz or .parquet.

    Parameters
    ----------
    lims : ndarray of shape (n + 1,), int64
    distances, ids : ndarray of shape (lims[n],)
    """
    check_output(path, within_radius=True)
    if path.suffix == ".npz":
        data = _bytes_of(lambda f: np.savez(f, lims=lims, distances=distances, ids=ids))
    else:
        counts = np.diff(lims)
        query = np.repeat(np.arange(len(counts)), counts)
        rank = np.arange(len(ids)) - np.repeat(lims[:-1], counts)
        data = _parquet(query, rank, ids, distances)
    _publish(path, data)


def _bytes_of(write: Callable[[io.BytesIO], None]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _parquet(query: Int64, rank: Int64, ids: Int64, distances: Float32) -> bytes:
    table = pa.table(
        {"query": query, "rank": rank.astype(np.int32), "id": ids, "distance": distances}
    )
    return _bytes_of(lambda file: pq.write_table(table, file))


def _publish(path: Path, data: bytes) -> None:
    with publishing(path) as file:
        write_all(file, data, 0)


def read_neighbors(path: Path) -> Neighbors:
    """Read ids, and distances where the file has them.

    Raises
    ------
    InvalidSource
        The file is not what its extension says; names found and expected.
    """
    if path.suffix not in _EXTENSIONS:
        raise InvalidSource(
            f"{path}: extension {path.suffix!r} found; {', '.join(_EXTENSIONS)} expected"
        )
    if not path.is_file():
        raise InvalidSource(f"{path}: no such file")
    with storage_errors(path, "read"):
        if path.suffix in (".ibin", ".bin"):
            return _read_bin(path)
        if path.suffix == ".ivecs":
            return _read_ivecs(path)
        if path.suffix == ".parquet":
            return _read_parquet(path)
        return _read_numpy(path)


def _read_bin(path: Path) -> Neighbors:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        n, k = struct.unpack("<II", head) if len(head) == 8 else (0, 0)
        width = 8 if path.suffix == ".bin" else 4
        expected = 8 + n * k * width
        if size != expected or k == 0:
            raise InvalidSource(
                f"{path}: header says {n:,} x {k:,}, so {expected:,} bytes expected; {size:,} found"
            )
        if path.suffix == ".ibin":
            ids = np.fromfile(file, "<i4", n * k)
            return Neighbors(ids.reshape(n, k).astype(np.int64), None)
        ids = np.fromfile(file, "<u4", n * k).astype(np.int64)
        ids[ids == 0xFFFFFFFF] = -1
        distances = np.fromfile(file, "<f4", n * k).reshape(n, k)
        return Neighbors(ids.reshape(n, k), distances)


def _read_ivecs(path: Path) -> Neighbors:
    size = path.stat().st_size
    with path.open("rb") as file:
        k = int(np.fromfile(file, "<i4", 1)[0]) if size >= 4 else 0
    if k < 1 or size % (4 * (k + 1)):
        raise InvalidSource(f"{path}: {size:,} bytes are no rows of {k:,} ids")
    rows = np.fromfile(path, "<i4").reshape(-1, k + 1)
    if len(wrong := np.flatnonzero(rows[:, 0] != k)):
        row = int(wrong[0])
        raise InvalidSource(f"{path}: row {row} has {rows[row, 0]:,} ids, {k:,} expected")
    return Neighbors(rows[:, 1:].astype(np.int64), None)


def _read_numpy(path: Path) -> Neighbors:
    try:
        with path.open("rb") as file:  # np.load leaves a damaged file open
            content = np.load(file, allow_pickle=False)
            arrays: dict[str, Any] = {"ids": content} if path.suffix == ".npy" else dict(content)
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InvalidSource(f"{path}: not readable as {path.suffix}: {error}") from error
    ids, distances = arrays.get("ids"), arrays.get("distances")
    if ids is None or ids.ndim != 2 or ids.dtype.kind not in "iu" or not ids.shape[1]:
        found = "none" if ids is None else f"{ids.dtype} of shape {ids.shape}"
        raise InvalidSource(f"{path}: ids: {found} found, whole numbers of shape (n, k) expected")
    if distances is not None and (distances.shape != ids.shape or distances.dtype.kind != "f"):
        raise InvalidSource(
            f"{path}: distances: {distances.dtype} of shape {distances.shape} found, "
            f"numbers of shape {ids.shape} expected"
        )
    distances = None if distances is None else distances.astype(np.float32)
    return Neighbors(ids.astype(np.int64), distances)


def _read_parquet(path: Path) -> Neighbors:
    try:
        table = pq.read_table(path, columns=["query", "rank", "id", "distance"])
        columns = [table.column(i).to_numpy() for i in range(4)]
        query, rank, ids = (column.astype(np.int64) for column in columns[:3])
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise InvalidSource(f"{path}: not a result file: {error}") from error
    if not len(query) or query.min() < 0 or rank.min() < 0:
        raise InvalidSource(f"{path}: {len(query):,} results found; some of them expected")
    shape = (int(query.max()) + 1, int(rank.max()) + 1)
    if shape[0] * shape[1] > 64 * len(query) + (1 << 20):
        raise InvalidSource(f"{path}: {len(query):,} results for {shape[0]:,} x {shape[1]:,}")
    out, distances = np.full(shape, -1, np.int64), np.full(shape, np.nan, np.float32)
    out[query, rank], distances[query, rank] = ids, columns[3]
    return Neighbors(out, distances)
