"""The speeds on which a prediction rests, and the file that stores them.

The file is plain JSON without a checksum, because users are meant to edit it for the disks and
networks of other machines.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from teravec.errors import CorruptFile, ForeignFile, InvalidArgument, StorageError, storage_errors
from teravec.storage.files import make_directory, publishing, write_all
from teravec.storage.user_cache import user_cache

__all__ = ["Constants", "default_path", "read_constants", "write_constants"]

_FORMAT = "teravec-constants"


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
        Dimensions of codes that a search compares with a query, per thread.
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
    truth_flops: float
    graph_dims: float
    move_bytes: float
    read_bytes: float
    write_bytes: float
    read_latency_s: float
    network_bytes: float
    sync_s: float


def default_path() -> Path:
    """Return the file of the measured constants, in the user's cache directory."""
    try:
        return user_cache() / "constants.json"
    except StorageError as error:
        raise InvalidArgument(f"{error}, or name a file by --constants") from error


def write_constants(path: Path, constants: Constants) -> None:
    """Write constants to ``path``, replacing an earlier file."""
    make_directory(path.absolute().parent)
    text = json.dumps({"format": _FORMAT, "version": 1, **asdict(constants)}, indent=1)
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
    if (content.pop("format", None), content.pop("version", None)) != (_FORMAT, 1):
        raise ForeignFile(f"{path}: not a file of {_FORMAT}, version 1")
    names = {field.name for field in fields(Constants)}
    if set(content) != names:
        odd = ", ".join(sorted(names ^ set(content)))
        raise CorruptFile(f"{path}: missing or unknown: {odd}; run plan --calibrate again")
    for name, value in content.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and math.isfinite(value) and value > 0):
            raise CorruptFile(f"{path}: {name} is {value!r}; a positive number expected")
    return Constants(**content)
