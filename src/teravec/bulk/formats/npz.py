"""``.npz``: ids and distances, and for range search the limits of each query's."""

from __future__ import annotations

import errno
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.bulk.formats.found import Found, Neighbors, count_blocks, flat_blocks
from teravec.bulk.formats.npy import as_ids, read_npy_array, write_npy_header
from teravec.bulk.formats.whole import publishing_result, reading
from teravec.errors import InvalidSource, TeravecError

__all__ = ["read_npz", "write_npz"]

_IDS = ("ids", "I", "neighbors", "neighbours", "indices", "labels")
_DISTANCES = ("distances", "D", "dists", "scores")
_QUERIES = 1 << 20  # whose ids are in memory at a time
_INFLATION = 1100  # deflate expands by at most 1032


def write_npz(path: Path, found: Found) -> None:
    """Write ids (n, k) and distances; or lims (n + 1,), distances and ids where k varies.

    Where queries have ids of a column, also queries (n,).
    """
    shape = (found.total,) if found.k is None else (found.n, found.k)
    with publishing_result(path) as file, zipfile.ZipFile(file, "w") as archive:
        if found.k is None:
            _write_lims(archive, found)
        # Members are stored, as numpy.savez does, so they can be written piece by piece.
        with archive.open("ids.npy", "w", force_zip64=True) as member:
            write_npy_header(member, "<i8", shape)
            for _, ids in flat_blocks(found):
                member.write(np.ascontiguousarray(ids, "<i8").data)
        with archive.open("distances.npy", "w", force_zip64=True) as member:
            write_npy_header(member, "<f4", shape)
            for distances, _ in flat_blocks(found):
                member.write(np.ascontiguousarray(distances, "<f4").data)
        if found.queries(0, 0) is not None:
            with archive.open("queries.npy", "w", force_zip64=True) as member:
                write_npy_header(member, "<i8", (found.n,))
                for start in range(0, found.n, _QUERIES):
                    names = found.queries(start, min(start + _QUERIES, found.n))
                    member.write(np.ascontiguousarray(names, "<i8").data)


def _write_lims(archive: zipfile.ZipFile, found: Found) -> None:
    with archive.open("lims.npy", "w", force_zip64=True) as member:
        write_npy_header(member, "<i8", (found.n + 1,))
        member.write(bytes(8))
        last = 0
        for counts in count_blocks(found):
            lims = last + np.cumsum(counts)
            member.write(lims.astype("<i8").data)
            last = int(lims[-1])


def read_npz(path: Path) -> Neighbors:
    """Read the results of a search for k neighbours."""
    with reading(path) as (file, size):
        try:
            with zipfile.ZipFile(file) as archive:
                members = {Path(info.filename).stem: info for info in archive.infolist()}
                names = _chosen(path, members)
                arrays = [_read_member(path, archive, members[name], size) for name in names]
        # What zipfile raises for damaged archives depends on where the damage is.
        except (
            zipfile.BadZipFile,
            zipfile.LargeZipFile,
            ValueError,
            EOFError,
            NotImplementedError,
            RuntimeError,
            struct.error,
            IndexError,
            OSError,
        ) as error:
            # A damaged offset is a seek before the file's start, which is EINVAL.
            real = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
            if isinstance(error, TeravecError) or real:
                raise
            raise InvalidSource(f"{path}: not a sound .npz file: {error}") from error
    if names[0] not in _IDS and len(arrays) == 2 and arrays[0].dtype.kind == "f":
        arrays.reverse()  # of unnamed arrays, the integers are the ids
    ids = as_ids(arrays[0], f"{path} ({names[0]})", dimensions=2)
    if len(arrays) == 1:
        return Neighbors(ids)
    distances = arrays[1]
    if distances.shape != ids.shape:
        raise InvalidSource(
            f"{path}: distances of shape {distances.shape} found, {ids.shape} expected as of ids"
        )
    return Neighbors(ids, distances.astype(np.float32))


def _chosen(path: Path, members: dict[str, zipfile.ZipInfo]) -> list[str]:
    """Names of the ids, and of the distances if there are any."""
    if "lims" in members:
        raise InvalidSource(f"{path}: results of a range search found, k neighbours expected")
    ids = [name for name in _IDS if name in members]
    distances = [name for name in _DISTANCES if name in members]
    if set(members) in ({"arr_0"}, {"arr_0", "arr_1"}):  # numpy.savez(path, I, D)
        return sorted(members)
    if len(ids) != 1 or len(distances) > 1:
        found = ", ".join(sorted(members)) or "none"
        raise InvalidSource(
            f"{path}: arrays {found} found, ids expected (and distances); or I and D, or neighbors "
            "and distances"
        )
    return ids + distances


def _read_member(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int
) -> npt.NDArray[Any]:
    if info.compress_size > size or info.file_size > _INFLATION * max(1, info.compress_size):
        raise InvalidSource(
            f"{path}: {info.filename} of {info.file_size} bytes, {info.compress_size} compressed, "
            f"found in a file of {size} bytes"
        )
    with archive.open(info) as member:
        array = read_npy_array(member, info.file_size, f"{path} ({info.filename})")
        member.read()  # to the end, where zipfile compares the checksum
    return array
