"""From what the user named to the list of files, in the stated order."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from teravec.arguments import PathArgument
from teravec.errors import InvalidArgument, InvalidSource
from teravec.sources.formats import EXTENSIONS, has_known_extension
from teravec.sources.vectorfile import source_errors
from teravec.storage.layout import absolute

__all__ = ["PathLike", "discover"]

PathLike = PathArgument


def discover(paths: PathLike | Sequence[PathLike]) -> list[Path]:
    """List the files that ``paths`` name.

    Parameters
    ----------
    paths : path, or sequence of paths
        Each a file; a directory, for the files directly in it that have a known extension,
        hidden ones and those that begin with ``_`` left out; or a glob pattern, where nothing
        bears the pattern's very name.

    Returns
    -------
    list of Path
        In the order of ``paths``; members of a directory or pattern sorted by name.

    Raises
    ------
    InvalidSource
        Nothing there, nothing that can be read there, or one file reached twice.
    """
    named = [paths] if isinstance(paths, str | os.PathLike) else _listed(paths)
    if not named:
        raise InvalidArgument("no source path found, expected one or more")
    found = [file for path in named for file in _expand(path)]
    _check_distinct(found)
    return found


def _listed(paths: Any) -> list[Any]:
    try:
        return list(paths)
    except TypeError:  # arrays of 0 dimensions have an iterator, which fails
        raise InvalidArgument(f"a path or several expected, {type(paths).__name__} found") from None


def _expand(path: PathLike) -> list[Path]:
    if not isinstance(path, str | os.PathLike):
        raise InvalidArgument(
            f"a path expected, {type(path).__name__} found; arrays are saved first, as .npy"
        )
    if path == "":  # Path takes it for the working directory; it is a variable that was not set
        raise InvalidSource("an empty path found, expected a file of vectors")
    path = os.fsdecode(path)
    here = absolute(path)
    try:
        with source_errors(here):
            mode = here.stat().st_mode
    except InvalidSource:
        if glob.has_magic(str(path)):
            return _matches(str(here))
        raise
    except ValueError as error:  # a null byte in the name
        raise InvalidSource(f"{str(path)!r}: not a file name: {error}") from error
    return _members(here) if stat.S_ISDIR(mode) else [here]


def _matches(pattern: str) -> list[Path]:
    # Path.glob takes no absolute pattern.
    found = sorted(path for path in map(Path, glob.glob(pattern)) if not path.is_dir())  # noqa: PTH207
    if not found:
        raise InvalidSource(f"{pattern}: no file matches, expected one or more")
    return found


def _members(directory: Path) -> list[Path]:
    with source_errors(directory, "list"):
        entries = sorted(path for path in directory.iterdir() if path.name[0] not in "._")
        known = [path for path in entries if has_known_extension(path) and not path.is_dir()]
    if not known:
        what = f"{len(entries)} other entries" if entries else "nothing"
        raise InvalidSource(
            f"{directory}: {what} found, expected files ending in {', '.join(EXTENSIONS)}"
        )
    return known


def _check_distinct(files: list[Path]) -> None:
    seen: dict[tuple[int, int], Path] = {}
    for path in files:
        with source_errors(path):
            status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InvalidSource(f"{path}: not a regular file, expected a file of vectors")
        key = (status.st_dev, status.st_ino)
        if key in seen:
            raise InvalidSource(
                f"{path}: reached twice (first as {seen[key]}), expected every file once"
            )
        seen[key] = path
