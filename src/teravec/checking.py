"""The package's functions that look at an index, an installation and a disk."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from teravec.arguments import PathArgument, one_of, path_of
from teravec.errors import InvalidArgument, OutputExists, StorageError
from teravec.index.calibration import read_calibration
from teravec.index.info import describe_index
from teravec.index.manifest import read_manifest
from teravec.index.opened import OpenedIndex
from teravec.index.verify import verify as _verify
from teravec.memory import parse_bytes
from teravec.processors import check_threads, check_workers
from teravec.progress import Progress, as_progress
from teravec.search.effort import shortfall
from teravec.selftest.comparison import SelfTest, compare
from teravec.selftest.routes import routes
from teravec.selftest.vectors import draw_vectors, make_vectors
from teravec.storage.device import DeviceProfile, measure_device
from teravec.storage.device_cache import keep_profile
from teravec.storage.layout import IndexPaths
from teravec.storage.output_lock import hold_directory
from teravec.storage.places import PlaceLike, place_of

__all__ = ["bench_disk", "info", "measure_disk", "selftest", "verify"]

_SEED = 1234
_LARGE_ENOUGH = 256 << 20  # a slice too large for most caches between kernel and disk


def info(index: PlaceLike) -> dict[str, Any]:
    """Describe an index: sizes in bytes, settings, training, and the sizes of its lists.

    Returns
    -------
    dict
        As ``teravec info --json`` prints it.
    """
    with OpenedIndex(place_of(index, "the index")) as there:
        calibration = read_calibration(there.paths, there.manifest)
        why = None if calibration is None else shortfall(calibration, there.manifest.nlist)
        return {**describe_index(there), "shortfall": why}


def verify(path: PlaceLike, *, progress: Progress | bool | None = None) -> None:
    """Compare every byte of an index with its checksums.

    Raises
    ------
    CorruptFile, MissingFile, ForeignFile
        The first damage found; the message names the file.
    """
    damages = _verify(place_of(path, "the index"), as_progress(progress))
    if damages:
        raise damages[0]


def selftest(
    data: Any = None,
    *,
    engine: str = "local",
    workers: int = 2,
    address: str | None = None,
    threads: int | None = None,
    format: str | None = None,
) -> SelfTest:
    """Build one small index by every route of this installation, and compare with plain Faiss.

    Parameters
    ----------
    data : optional
        Vectors to test with, in any form that ``build`` takes. Not given: synthetic ones.
    engine : {"local", "ray"}
        With "ray", a missing Ray is an error instead of a line of the result.
    workers : int
        Workers of the Ray route.
    address : str, optional
        Address of a Ray cluster. Not given: start Ray here.
    threads : int, optional
        Not given: all processors.
    format : str, optional
        Format of the files, as for ``build``.

    Returns
    -------
    SelfTest
        A sequence of results, one for each route; ``.sound`` is whether none failed.

    Raises
    ------
    InvalidArgument
    """
    check_threads(threads)
    check_workers(workers)
    one_of(engine, ("local", "ray"), "engine")
    vectors = make_vectors(_SEED)
    if data is not None:
        vectors = draw_vectors(data, _SEED, format)
    results = []
    for result in compare(vectors, routes(engine, workers, address), threads):
        results.append(result)
        if engine == "ray" and result.route.startswith("ray") and result.note:
            raise InvalidArgument(result.note)
    return SelfTest(results)


def bench_disk(
    path: PathArgument,
    *,
    seconds: float = 10.0,
    size: str | int = "1GiB",
    progress: Progress | bool | None = None,
) -> DeviceProfile:
    """Measure how fast a disk reads, cold: in order, and at random by size and depth.

    The result is kept in the user's cache directory, and searches use it for every index on the
    same file system. If it cannot be kept there, it is only returned.

    Parameters
    ----------
    path : path-like
        An index, whose largest slice is read; or a file to read; or a directory, for a scratch
        file.
    seconds : float
        Time to read for, in all.
    size : str or int
        Bytes of a scratch file.
    progress : Progress or bool, optional

    Returns
    -------
    DeviceProfile

    Raises
    ------
    InvalidArgument, MissingFile, StorageError
    """
    return measure_disk(path_of(path, "path"), seconds, parse_bytes(size), as_progress(progress))[0]


def measure_disk(
    path: Path, seconds: float, scratch_bytes: int, progress: Progress
) -> tuple[DeviceProfile, Path | None, str]:
    """Measure as ``bench_disk`` does; return also the file that keeps it, or why there is none."""
    paths = IndexPaths(path)
    is_index = paths.manifest.exists()
    target, read_only = path, False
    if is_index:
        largest = max(read_manifest(paths).slices, key=lambda entry: entry.size)
        read_only = not os.access(path, os.W_OK | os.X_OK)
        target = path / largest.file if largest.size >= _LARGE_ENOUGH or read_only else path
    with hold_directory(path) if is_index and not read_only else nullcontext():
        profile = measure_device(
            target, seconds=seconds, scratch_bytes=scratch_bytes, progress=progress
        )
    try:
        kept = keep_profile(profile, paths.root / paths.slices.name if is_index else path)
    except (StorageError, OutputExists) as error:
        return profile, None, str(error)
    return profile, kept, ""
