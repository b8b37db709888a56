"""Measurements of disks, kept for the user by file system.

An index may be moved or mounted elsewhere, so what one machine's disk can do is not part of it.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

from teravec.errors import CorruptFile, MissingFile, StorageError
from teravec.storage.device import DeviceProfile, measured_gap_bytes
from teravec.storage.file_system import FileSystem, find_file_system
from teravec.storage.files import make_directory
from teravec.storage.local_store import AnyPath, local_path
from teravec.storage.user_cache import user_cache

__all__ = ["find_gap_bytes", "keep_profile"]

log = logging.getLogger(__name__)


def keep_profile(profile: DeviceProfile, path: Path) -> Path:
    """Keep a measurement of the disk under ``path``, instead of an earlier one.

    Returns
    -------
    Path
        The file that holds it.

    Raises
    ------
    OutputExists
        Another process is writing the same file now.
    StorageError
        The user's cache directory cannot be written.
    """
    file_system = find_file_system(path)
    kept = _place(file_system)
    make_directory(kept.parent)
    profile.write(kept, asdict(file_system))
    return kept


def find_gap_bytes(path: AnyPath, older: AnyPath) -> int | None:
    """Find how far apart two ranges of a file may lie for one read of both to be cheaper.

    Parameters
    ----------
    path : StorePath or Path
        A path on the disk in question.
    older : StorePath or Path
        A measurement in the index itself, where older releases kept it. It counts if the user's
        cache has none.

    Returns
    -------
    int or None
        4 KiB to 1 MiB; None if no disk was measured, or if the store is not a local one. A cached
        measurement that cannot be read is a warning only: it can be made again.

    Raises
    ------
    CorruptFile, IncompatibleVersion, StorageError
        The older file is damaged, or cannot be read.
    """
    local = local_path(path)
    if local is None:
        return None
    found = _find_cached(local)
    return measured_gap_bytes(older) if found is None else found


def _find_cached(path: Path) -> int | None:
    try:
        kept = _place(find_file_system(path))
    except (MissingFile, StorageError) as error:  # a user without a home has no measurements
        log.debug("no measurement of the disk: %s", error)
        return None
    try:
        return measured_gap_bytes(kept)
    except (CorruptFile, StorageError) as error:
        log.warning("measure the disk again by teravec bench-disk: %s", error)
        return None


def _place(file_system: FileSystem) -> Path:
    return user_cache() / f"device-{file_system.key}.json"
