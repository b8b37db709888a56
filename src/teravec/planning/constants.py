"""The speeds that a prediction rests on, and the file that keeps them.

The file is plain JSON without a checksum: users are meant to edit it, for the disks and the
network of machines other than the one that was measured.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from teravec.errors import CorruptFile, ForeignFile, InvalidArgument, storage_errors
from teravec.storage.files import make_directory, publishing, write_all

__all__ = ["Constants", "default_path", "read_constants", "write_constants"]

_FORMAT = "teravec-constants"


@dataclass(frozen=True)
class Constants:
    """Speeds of one machine, per second and, where it says so, per thread.

    Parameters
    ----------
    flops : float
        Of the exact assignment kernel, a thread; a product and a sum are two.
    grouped_scale, grouped_exponent : float
        Finding a vector's list takes the time of ``grouped_scale * nlist ** grouped_exponent``
        comparisons with a centroid at ``flops``. Data of low intrinsic dimension takes fewer.
    iteration_share : float
        Of that time, what an iteration of k-means takes: it may be wrong more often.
    sum_dims : float
        Dimensions added to the sums of k-means, a thread.
    encode_scalar, encode_pq, encode_rabitq : float
        Dimensions encoded, a thread; for pq, dimensions times entries of a codebook.
    scan_dims : float
        Dimensions of codes that a search compares with a query, a thread.
    truth_flops : float
        Of comparing queries with vectors exactly, a thread: product and selection together.
    graph_dims : float
        Dimensions compared while a graph over the centroids is built, on its one thread,
        supposing log2(nlist) comparisons a centroid.
    move_bytes : float
        Bytes that one thread gathers and checks.
    read_bytes, write_bytes : float
        Of the disk, in sequence, past the page cache; until synced.
    read_latency_s : float
        Of one read of a few KiB at random.
    network_bytes : float
        Sent from one process to another. Calibration measures loopback: an upper bound.
    sync_s : float
        To publish a small file durably.
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
    """Where calibration keeps its constants: in the user's cache directory."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    try:
        root = Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        raise InvalidArgument(
            "there is no home directory to keep the constants in: name a file by --constants"
        ) from None
    return root / "teravec" / "constants.json"


def write_constants(path: Path, constants: Constants) -> None:
    """Keep constants at ``path``, in place of those that were there."""
    make_directory(path.absolute().parent)
    text = json.dumps({"format": _FORMAT, "version": 1, **asdict(constants)}, indent=1)
    with publishing(path) as file:
        write_all(file, (text + "\n").encode(), 0)


def read_constants(path: Path) -> Constants:
    """Read constants.

    Raises
    ------
    MissingFile
        Nothing was calibrated yet.
    ForeignFile, CorruptFile
        The file holds something else, or a value that is no positive number.
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
