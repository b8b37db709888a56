"""The speeds on which a prediction rests, and the file that stores them.

The file is plain JSON without a checksum, because users are meant to edit it for the disks and
networks of other machines.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from teravec.arguments import real_number
from teravec.errors import (
    CorruptFile,
    ForeignFile,
    InvalidArgument,
    StorageError,
    shown,
    storage_errors,
)
from teravec.storage.files import make_directory, publishing, write_all
from teravec.storage.user_cache import user_cache

__all__ = ["WORDS", "Constants", "default_path", "read_constants", "with_rates", "write_constants"]

_FORMAT, _VERSION = "teravec-constants", 2

WORDS = {
    "flops": ("operations/s", "comparing vectors with centroids exactly, a thread"),
    "grouped_scale": ("comparisons", "assigning a vector: this, times nlist to the next power"),
    "grouped_exponent": ("", "that power"),
    "iteration_share": ("of it", "the same in an iteration of k-means"),
    "sum_dims": ("dimensions/s", "adding vectors to the sums of k-means, a thread"),
    "encode_scalar": ("dimensions/s", "encoding flat, fp16 and sq codes, a thread"),
    "encode_pq": ("dimensions x entries/s", "encoding pq codes, a thread"),
    "encode_rabitq": ("dimensions/s", "encoding rabitq codes in one stage, a thread"),
    "scan_dims": ("dimensions/s", "scanning sq8 codes, a thread"),
    "scan_wide": ("dimensions/s", "scanning flat and fp16 codes, a thread"),
    "scan_narrow": ("dimensions/s", "scanning sq6 and sq4 codes, a thread"),
    "scan_tables": ("sub-quantizers/s", "scanning pq codes, a thread"),
    "scan_rabitq": ("dimensions/s", "scanning rabitq codes in one stage, a thread"),
    "scan_sketch": ("dimensions/s", "scanning sketches of two stages, a thread"),
    "encode_sketch": ("dimensions/s", "encoding sketches of two stages, a thread"),
    "truth_flops": ("operations/s", "comparing queries with all vectors, a thread"),
    "graph_dims": ("dimensions/s", "building the graph over centroids, its one thread"),
    "move_bytes": ("bytes/s", "gathering codes and checking them, a thread"),
    "read_bytes": ("bytes/s", "reading the disk in order, past the page cache"),
    "write_bytes": ("bytes/s", "writing the disk in order, sync included"),
    "read_latency_s": ("s", "one random read of the disk"),
    "network_bytes": ("bytes/s", "sending from one process to another"),
    "sync_s": ("s", "publishing a small file durably"),
}
"""Unit and words for each constant."""


@dataclass(frozen=True)
class Constants:
    """Speeds of one machine, per second; some are per thread.

    Parameters
    ----------
    flops : float
        Operations of the exact assignment kernel, per thread; a product and a sum are two.
    grouped_scale, grouped_exponent : float
        Assigning a vector takes the time of ``grouped_scale * nlist ** grouped_exponent``
        comparisons with a centroid at ``flops``. Data of low intrinsic dimension take fewer.
    iteration_share : float
        The share of that time in an iteration of k-means, which may err more often.
    sum_dims : float
        Dimensions added to the sums of k-means, per thread.
    encode_scalar, encode_pq, encode_rabitq : float
        Dimensions encoded, per thread; for pq, dimensions times entries of a codebook.
    scan_dims : float
        Dimensions of codes of sq8 that a search compares with a query, per thread.
    scan_wide, scan_narrow : float
        The same of flat and fp16; of sq6 and sq4.
    scan_tables : float
        Sub-quantizers of codes of pq that a search looks up, per thread.
    scan_rabitq : float
        Dimensions of codes of rabitq in one stage, scanned by Faiss, per thread.
    scan_sketch : float
        Dimensions of sketches of 2 bits, in front of a finer code, per thread.
    encode_sketch : float
        Dimensions of such sketches encoded, per thread.
    truth_flops : float
        Operations of comparing queries with vectors exactly, per thread, selection included.
    graph_dims : float
        Dimensions compared while building the graph over the centroids on its one thread,
        assuming log2(nlist) comparisons per centroid.
    move_bytes : float
        Bytes that one thread gathers and checks.
    read_bytes, write_bytes : float
        Sequential bytes of the disk, past the page cache; writing includes the sync.
    read_latency_s : float
        Seconds of one random read of a few KiB.
    network_bytes : float
        Bytes sent from one process to another. Calibration measures loopback, an upper bound.
    sync_s : float
        Seconds to publish a small file durably.
    """

    flops: float
    grouped_scale: float
    grouped_exponent: float
    iteration_share: float
    sum_dims: float
    encode_scalar: float
    encode_pq: float
    encode_rabitq: float
    scan_dims: float
    scan_wide: float
    scan_narrow: float
    scan_tables: float
    scan_rabitq: float
    scan_sketch: float
    encode_sketch: float
    truth_flops: float
    graph_dims: float
    move_bytes: float
    read_bytes: float
    write_bytes: float
    read_latency_s: float
    network_bytes: float
    sync_s: float


def with_rates(constants: Constants, rates: Mapping[str, float]) -> Constants:
    """Return the constants with some other values; InvalidArgument for unknown or odd ones."""
    names = {field.name for field in fields(Constants)}
    for name, value in rates.items():
        if name not in names:
            raise InvalidArgument(f"rate {shown(name)} found; one of {', '.join(sorted(names))}")
        real_number(value, name, 1e-300, expected="a number above 0")
    return replace(constants, **rates)


def default_path() -> Path:
    """Return the file of the measured constants, in the user's cache directory."""
    try:
        return user_cache() / "constants.json"
    except StorageError as error:
        raise InvalidArgument(f"{error}, or name a file by --constants") from error


def write_constants(path: Path, constants: Constants) -> None:
    """Write constants to ``path``, replacing an earlier file."""
    make_directory(path.absolute().parent)
    text = json.dumps({"format": _FORMAT, "version": _VERSION, **asdict(constants)}, indent=1)
    with publishing(path) as file:
        write_all(file, (text + "\n").encode(), 0)


def read_constants(path: Path) -> Constants:
    """Read constants.

    Raises
    ------
    MissingFile
        No calibration was done yet.
    ForeignFile, CorruptFile
        The file holds something else, or a value that is not a positive number.
    """
    with storage_errors(path, "read"):
        data = path.read_bytes()
    try:
        content = dict(json.loads(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise CorruptFile(f"{path}: not a JSON object") from error
    if content.pop("format", None) != _FORMAT or (version := content.pop("version", None)) not in (
        1,
        _VERSION,
    ):
        raise ForeignFile(f"{path}: not a file of {_FORMAT}, version {_VERSION}")
    if version == 1:
        raise ForeignFile(
            f"{path}: constants of an earlier release, without those of every codec; run plan "
            "--calibrate again"
        )
    names = {field.name for field in fields(Constants)}
    if set(content) != names:
        odd = ", ".join(sorted(names ^ set(content)))
        raise CorruptFile(f"{path}: missing or unknown: {odd}; run plan --calibrate again")
    for name, value in content.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and math.isfinite(value) and value > 0):
            raise CorruptFile(f"{path}: {name} is {value!r}; a positive number expected")
    return Constants(**content)
