"""Neighbour files: what a search found or what is true, written and read by extension.

==========  ===================================================================== ===== =====
extension   content                                                               write range
==========  ===================================================================== ===== =====
.ibin       uint32 n, uint32 k, n * k int32 ids                                   yes   no
.bin        uint32 n, uint32 k, n * k uint32 ids, n * k float32 distances         yes   no
.ivecs      n rows: int32 k, k int32 ids                                          yes   no
.npy        int64 ids of shape (n, k)                                             yes   no
.npz        arrays ids (n, k) int64, distances float32; for range search also     yes   yes
            lims (n + 1,), with ids and distances flat; queries (n,) int64 where
            queries have ids of a column
.parquet    a row for every neighbour: query int64, rank int32 (from 0), id       yes   yes
            int64, distance float32; where queries have ids of a column, query is
            that id, and row int64 the query's row
.csv        the same as text, with a line of the names                            yes   yes
.jsonl      a line for every query: {"query": 0, "ids": [...], "distances":       yes   yes
            [...]}, and row; null is the distance of a missing neighbour
==========  ===================================================================== ===== =====

``-``, ``-.jsonl`` and ``-.csv`` are standard output instead of a file, as text.

All little-endian. ``.bin`` is the ground truth of big-ann-benchmarks and DiskANN; as there are
``.ibin`` files with distances and ``.bin`` files without, both are read either way, by their size.
A missing neighbour is id -1; in unsigned ids the largest number, as 0xFFFFFFFF.

Files of other names are read by what is in them. Of ``.npz`` the arrays may be called I and D, or
neighbors and distances, too.

References
----------
https://big-ann-benchmarks.com, "Datasets"; http://corpus-texmex.irisa.fr, "File formats".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from teravec.arguments import PathArgument, path_of, text
from teravec.bulk.formats.bigann import read_bin, read_ibin, write_bin, write_ibin
from teravec.bulk.formats.found import Found, FoundArrays, Neighbors
from teravec.bulk.formats.ivecs import read_ivecs, write_ivecs
from teravec.bulk.formats.npy import read_npy, write_npy
from teravec.bulk.formats.npz import read_npz, write_npz
from teravec.bulk.formats.parquet import read_parquet, write_parquet
from teravec.bulk.formats.sniffing import sniffed
from teravec.bulk.formats.text import (
    csv_header,
    csv_texts,
    jsonl_texts,
    read_csv,
    read_jsonl,
    write_csv,
    write_jsonl,
)
from teravec.errors import InvalidArgument, InvalidSource, MissingFile, StorageError, storage_errors

__all__ = [
    "Neighbors",
    "check_ids",
    "check_output",
    "check_place",
    "is_stdout",
    "read_neighbors",
    "stdout_texts",
    "write_found",
    "write_neighbors",
]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Format:
    read: Callable[[Path], Neighbors]
    write: Callable[[Path, Found], None]
    ranges: bool = False  # holds the results of a range search
    wide_ids: bool = True  # 64 bits


_FORMATS = {
    ".npz": _Format(read_npz, write_npz, ranges=True),
    ".ibin": _Format(read_ibin, write_ibin, wide_ids=False),
    ".bin": _Format(read_bin, write_bin, wide_ids=False),
    ".ivecs": _Format(read_ivecs, write_ivecs, wide_ids=False),
    ".npy": _Format(read_npy, write_npy),
    ".parquet": _Format(read_parquet, write_parquet, ranges=True),
    ".csv": _Format(read_csv, write_csv, ranges=True),
    ".jsonl": _Format(read_jsonl, write_jsonl, ranges=True),
}


def check_output(path: PathArgument, *, within_radius: bool = False) -> None:
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
    path = path_of(path, "the file of neighbours")
    if is_stdout(path):
        return
    _format(path, within_radius)
    check_place(path)


_STDOUT = {"-": ".jsonl", "-.jsonl": ".jsonl", "-.csv": ".csv"}


def is_stdout(path: Path) -> bool:
    """Whether results go to standard output; InvalidArgument for a format that is not text."""
    name = str(path)
    if name in _STDOUT:
        return True
    if name.startswith("-.") and "/" not in name:
        raise InvalidArgument(
            f"{name}: standard output takes text: one of {', '.join(_STDOUT)} expected"
        )
    return False


def stdout_texts(path: Path, first: int, found: Found) -> Iterator[str]:
    """What goes to standard output for some queries, counted from ``first``."""
    if _STDOUT[str(path)] == ".jsonl":
        yield from jsonl_texts(found, first)
        return
    if not first:
        yield csv_header(found)
    yield from csv_texts(found, first)


def check_place(path: Path) -> None:
    """Raise StorageError where no file of this name could be written."""
    directory = path.parent
    if not directory.is_dir():
        raise StorageError(f"{path}: cannot write: no directory {directory}")
    if path.is_dir():
        raise StorageError(f"{path}: cannot write: it is a directory, a file name expected")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StorageError(f"{path}: cannot write: no permission to write in {directory}")


def check_ids(path: PathArgument, ids: Int64) -> None:
    """Refuse ids that the format of the path's extension cannot hold.

    Raises
    ------
    InvalidArgument
        Names the id, and the formats that can.
    """
    path = path_of(path, "the file of neighbours")
    if is_stdout(path) or _format(path, range_search=False).wide_ids or not ids.size:
        return
    largest = int(np.iinfo(np.int32).max)  # of .bin too: many readers take its ids as signed
    if not -1 <= ids.min() <= ids.max() <= largest:
        worst = int(ids.max() if ids.max() > largest else ids.min())
        raise InvalidArgument(
            f"{path}: id {worst} found, -1 to {largest} is what {path.suffix} files hold; "
            ".npz, .npy and .parquet hold 64 bits"
        )


def write_neighbors(path: PathArgument, distances: Float32, ids: Int64) -> None:
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
    path, distances, ids = path_of(path, "out"), np.asarray(distances), np.asarray(ids)
    if ids.ndim != 2 or ids.shape != distances.shape or ids.dtype.kind not in "iu":
        raise InvalidArgument(
            f"ids {ids.dtype} of shape {ids.shape} and distances of shape {distances.shape} found, "
            "integers and distances of one shape (n, k) expected"
        )
    distances, ids = distances.astype(np.float32, copy=False), ids.astype(np.int64, copy=False)
    check_ids(path, ids)
    write_found(path, FoundArrays.of_rows(distances, ids))


def write_found(path: PathArgument, found: Found) -> None:
    """Write results durably, a part at a time, in the format of the path's extension.

    The bytes depend on the results alone, not on how they are stored. Ids were checked by
    ``check_ids``.

    Parameters
    ----------
    path : path-like
        Replaced if it exists, and untouched if writing fails.
    found : Found

    Raises
    ------
    InvalidArgument
        An extension that is not written.
    StorageError
    """
    path = path_of(path, "the file of neighbours")
    _format(path, range_search=found.k is None).write(path, found)


def read_neighbors(path: PathArgument, format: str | None = None) -> Neighbors:
    """Read neighbours, in the format of the path's extension, or of what is in the file.

    Parameters
    ----------
    path : path-like
    format : str, optional
        As "ibin": whatever the file is called.

    Raises
    ------
    InvalidArgument
        An unknown format.
    InvalidSource
        No such file, a file that is none of the formats, or not what its extension says; found
        and expected are in the message.
    StorageError
        The file may not be read.
    """
    path = path_of(path, "the file of neighbours")
    format = None if format is None else text(format, "truth format")
    if format is not None and f".{format.lower().lstrip('.')}" not in _FORMATS:
        known = ", ".join(name.lstrip(".") for name in _FORMATS)
        raise InvalidArgument(f"truth format {format!r} found, one of {known} expected")
    try:
        with storage_errors(path, "read"):
            if format is not None:
                kind = f".{format.lower().lstrip('.')}"
            elif (kind := path.suffix.lower()) not in _FORMATS:
                kind = sniffed(path)
            neighbors = _FORMATS[kind].read(path)
    except MissingFile as error:
        raise InvalidSource(f"{path}: no such file, a file of neighbours expected") from error
    if not neighbors.ids.size:
        raise InvalidSource(
            f"{path}: ids of shape {neighbors.ids.shape} found, 1 query and 1 neighbour or more "
            "expected"
        )
    return neighbors


def _format(path: Path, range_search: bool) -> _Format:
    usable = {
        extension: entry
        for extension, entry in _FORMATS.items()
        if entry.ranges or not range_search
    }
    if path.suffix.lower() not in usable:
        what = "range search results" if range_search else "neighbours"
        raise InvalidArgument(
            f"{path}: extension {path.suffix!r} found, {what} are written as {', '.join(usable)}"
        )
    return usable[path.suffix.lower()]
