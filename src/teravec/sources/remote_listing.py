"""Which files a URL names: one file, all files below a folder, or those of a pattern."""

from __future__ import annotations

import glob
import re
from pathlib import PurePosixPath

from teravec.errors import InvalidSource, MissingFile
from teravec.sources.remote import RemoteFolder, RemotePath, parse_folder

__all__ = ["find_files", "translate"]

_BUILD = "build.json"  # of an index, whose arrays are no input


def find_files(url: str) -> tuple[RemotePath | None, list[tuple[RemotePath, str]], list[str]]:
    """Find what a URL names.

    Returns
    -------
    RemotePath or None
        The file, if it is one.
    list of (RemotePath, str)
        Else the files, each with its folder relative to the user's.
    list of str
        Names that were left out: hidden files, and what belongs to an index.

    Raises
    ------
    InvalidSource
        Nothing is there.
    StorageError
    """
    folder, below = parse_folder(url)
    if below and not glob.has_magic(below):
        path = folder / below
        try:
            return _opened(path), [], []
        except MissingFile:
            pass
    root = _plain_part(below)
    names = _names_below(folder, root, url)
    indexes = {PurePosixPath(name).parent for name in names if PurePosixPath(name).name == _BUILD}
    if glob.has_magic(below):
        pattern = translate(below.removeprefix(root).lstrip("/"))
        names = [name for name in names if pattern.fullmatch(name)]
    if not names:
        raise InvalidSource(f"{url}: no such file or folder, expected files of vectors")
    found, left_out = [], []
    for name in names:
        pure = PurePosixPath(name)
        hidden = any(part[0] in "._" for part in pure.parts)
        if hidden or indexes & set(pure.parents):
            left_out.append(name)
            continue
        above = "" if str(pure.parent) == "." else str(pure.parent)
        found.append((folder / "/".join(part for part in (root, name) if part), above))
    return None, found, left_out


def _opened(path: RemotePath) -> RemotePath:
    """Return the path, once it is known that the file is there."""
    path.file  # noqa: B018
    return path


def _plain_part(below: str) -> str:
    """Return the folders before the first part with a wildcard."""
    parts = below.split("/") if below else []
    plain = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return "/".join(parts[:plain])


def _names_below(folder: RemoteFolder, root: str, url: str) -> list[str]:
    """List the names below a folder, relative to it."""
    try:
        names = folder.names(root)
    except MissingFile:
        raise InvalidSource(f"{url}: no such data set, expected files of vectors") from None
    return sorted(names)


def translate(pattern: str) -> re.Pattern[str]:
    """Translate a pattern: ``**`` is folders at any depth, ``*`` and ``?`` stay in one."""
    parts = pattern.split("/")
    found = ""
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == "**":
            found += ".*" if last else "(?:.*/)?"
            continue
        found += _translate_part(part) + ("" if last else "/")
    return re.compile(found, re.DOTALL)


def _translate_part(part: str) -> str:
    found, at = "", 0
    while at < len(part):
        mark = part[at]
        end = part.find("]", at + 2) if mark == "[" else -1
        if end > 0:
            inside = part[at + 1 : end].replace("\\", r"\\")
            found += "[" + ("^" + inside[1:] if inside[0] == "!" else inside) + "]"
            at = end + 1
            continue
        found += {"*": "[^/]*", "?": "[^/]"}.get(mark, re.escape(mark))
        at += 1
    return found
