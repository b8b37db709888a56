"""Expanding the user's paths, folders and patterns to a list of files.

Members of a folder or pattern come in natural order of their paths. Subfolders are entered.
Files that hold no vectors (hidden files, README.md, _SUCCESS and the like) are skipped and named
in one warning. A file that the user named explicitly is never skipped.
"""

from __future__ import annotations

import glob
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, cast

from teravec.arguments import PathArgument, path_of
from teravec.errors import InvalidArgument, InvalidSource, TeravecError
from teravec.sources.conversions import conversion
from teravec.sources.databases.address import is_database, parse_address
from teravec.sources.databases.plan import list_spools
from teravec.sources.formats import EXTENSIONS, by_magic, known_format, parse_format
from teravec.sources.natural import natural_key
from teravec.sources.remote import RemotePath, RemoteURL, SourcePath, is_remote, local_name
from teravec.sources.remote_listing import find_files
from teravec.sources.spool import SPOOL
from teravec.sources.vectorfile import source_errors
from teravec.storage.layout import IndexPaths, absolute

__all__ = ["Member", "PathLike", "discover", "pure_path"]

PathLike = PathArgument

log = logging.getLogger(__name__)

_NAMED = 3  # names in a message; the rest is only counted
_HEAD_BYTES = 1 << 16  # leading bytes of a build.json that state its format
_TEXT_FILES = (".md", ".rst", ".txt", ".html", ".json", ".jsonl", ".yaml", ".yml", ".xml", ".toml")
_SIDE_FILES = (".crc", ".md5", ".sha256", ".log", ".lock", ".py", ".ipynb", ".sh")
_COMPANIONS = (*_TEXT_FILES, *_SIDE_FILES, ".gz", ".zip", ".png", ".jpg")
"""Extensions that ``format`` does not override for members of a folder or pattern."""


@dataclass(frozen=True)
class Member:
    """One file of a source.

    Parameters
    ----------
    path : Path
    format : str, optional
        The format that the user stated; None if the file's name states it.
    argument : int
        Position of the user's path that led to this file.
    folder : str
        Its folder, relative to the user's folder, such as "lang=en"; else "".
    """

    path: SourcePath
    format: str | None = None
    argument: int = 0
    folder: str = ""

    @property
    def spelled(self) -> str:
        """The argument by which `discover` finds exactly this member."""
        text = f"{self.path}:{self.format}" if self.format else str(self.path)
        return RemoteURL.of(text, self.path.url) if isinstance(self.path, RemotePath) else text


def discover(paths: PathLike | Sequence[PathLike], format: str | None = None) -> list[Member]:
    """List the files that ``paths`` name.

    Parameters
    ----------
    paths : path, or sequence of paths
        Each is a file; a folder, which stands for all files of a known extension below it; or a
        glob pattern (``**`` for folders at any depth), unless a file has exactly that name.
        ``PATH:FORMAT`` states the format of one path.
    format : str, optional
        The format of all files, whatever their names.

    Returns
    -------
    list of Member
        In the order of ``paths``; members of a folder or pattern in natural order of path.

    Raises
    ------
    InvalidSource
        A path is missing or has no readable file, or two paths lead to one file.
    """
    named = [paths] if isinstance(paths, str | os.PathLike) else _list_paths(paths)
    if not named:
        raise InvalidArgument("no source path found, expected one or more")
    asked = None if format is None else parse_format(format)
    found = [
        replace(member, argument=number)
        for number, path in enumerate(named)
        for member in _expand(path, asked)
    ]
    _check_distinct(found)
    return found


def _list_paths(paths: Any) -> list[Any]:
    try:
        return list(paths)
    except TypeError:  # arrays of 0 dimensions have an iterator, which fails
        raise InvalidArgument(f"a path or several expected, {type(paths).__name__} found") from None


def _expand(path: PathLike, format: str | None) -> list[Member]:
    if is_database(path):
        raise InvalidArgument(
            f"{parse_address(str(path)).shown}: a database found where files are expected; build "
            "and add read one with a query"
        )
    if is_remote(path):
        return _expand_remote(cast(str, path), format)
    here = absolute(path_of(path, "a source"))
    try:
        with source_errors(here):
            mode = here.stat().st_mode
    except InvalidSource:
        plain, _, suffix = str(path).rpartition(":")
        if plain and suffix.lower() in (extension[1:] for extension in EXTENSIONS):
            return _expand(plain, parse_format(suffix))
        if glob.has_magic(str(path)):
            return _match_pattern(str(here), format)
        raise
    except ValueError as error:  # a null byte in the name
        raise InvalidSource(f"{str(here)!r}: not a file name: {error}") from error
    return _list_folder(here, format) if stat.S_ISDIR(mode) else [Member(here, format)]


def _expand_remote(url: str, format: str | None) -> list[Member]:
    try:
        file, found, left_out = find_files(url)
    except InvalidSource:
        plain, _, suffix = url.rpartition(":")
        if "://" not in plain or suffix.lower() not in (known[1:] for known in EXTENSIONS):
            raise
        return _expand_remote(RemoteURL.of(plain, url), parse_format(suffix))
    if file is not None:
        return [Member(file, format)]
    members = [Member(path, folder=folder) for path, folder in found]
    return _select_readable(url, members, left_out, format)


def _match_pattern(pattern: str, format: str | None) -> list[Member]:
    # Path.glob takes no absolute pattern.
    found = sorted(map(Path, glob.glob(pattern, recursive=True)))  # noqa: PTH207
    files = [path for path in found if not path.is_dir()]
    if not found:
        raise InvalidSource(f"{pattern}: no file matches, expected one or more")
    left_out: list[str] = []
    if not files and "**" not in pattern:  # enter folders, as if the shell had expanded them
        walks = [_walk(path, path.name, left_out, ()) for path in found]
        return _select_readable(pattern, [m for walk in walks for m in walk], left_out, format)
    root = _find_root(pattern)
    members = []
    for path in files:
        folders = [above for above in path.parents if above != root and root in above.parents]
        if any(map(_is_index, folders)):
            left_out.append(str(path))
            continue
        folder = str(path.parent.relative_to(root)) if folders else ""
        members.append(Member(path, folder=folder))
    return _select_readable(pattern, members, left_out, format)


def _find_root(pattern: str) -> Path:
    """Return the folder above the pattern's first part with a wildcard."""
    parts = Path(pattern).parts
    plain = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:plain])


def _list_folder(directory: Path, format: str | None) -> list[Member]:
    if _is_index(directory):
        raise InvalidSource(f"{directory}: a teravec index found, expected files of vectors")
    if directory.suffix == SPOOL and (spools := list_spools(directory)):
        return list(map(Member, spools))
    left_out: list[str] = []
    files = list(_walk(directory, "", left_out, ()))
    if (line := conversion(directory)) and not any(known_format(file.path) for file in files):
        raise InvalidSource(f"{directory}: a folder {directory.suffix} found; convert it: {line}")
    return _select_readable(str(directory), files, left_out, format)


def _walk(
    directory: Path, below: str, left_out: list[str], above: tuple[tuple[int, int], ...]
) -> Iterator[Member]:
    """Yield the files below a folder; add skipped names to ``left_out``.

    ``above`` identifies the folders above this one. A link back to one of them is skipped;
    following it would never end.
    """
    with source_errors(directory, "list"):
        status = directory.stat()
        entries = [(path, path.is_dir()) for path in sorted(directory.iterdir())]
    here = (status.st_dev, status.st_ino)
    if here in above:
        left_out.append(f"{below}/ (a link back)")
        return
    for path, is_folder in entries:
        name = f"{below}/{path.name}" if below else path.name
        if path.name[0] in "._" or (is_folder and _is_index(path)):
            left_out.append(name + "/" * is_folder)
        elif is_folder:
            yield from _walk(path, name, left_out, (*above, here))
        else:
            yield Member(path, folder=below)


def _is_index(directory: Path) -> bool:
    """Whether the directory is an index or a part of one, whose arrays are no input."""
    if directory.suffix == ".partial":
        return True
    try:
        with IndexPaths(directory).build.open() as file:
            return b'"teravec-build"' in file.read(min(file.size, _HEAD_BYTES), 0)
    except TeravecError:
        return False


def _select_readable(
    where: str, files: list[Member], left_out: list[str], format: str | None
) -> list[Member]:
    """Select the members that hold vectors, in order; warn about the others.

    A .bin, or a file without an extension, counts only if there is nothing else: neighbours and
    models have such names too.
    """
    if format is not None:
        kept = [m for m in files if m.path.suffix.lower() not in _COMPANIONS]
    else:
        kept = [m for m in files if known_format(m.path) not in (None, "bin")]
        kept = kept or [m for m in files if _may_hold_vectors(m.path)]
    if not kept:
        raise InvalidSource(_describe_nothing(where, files, left_out))
    chosen = set(kept)
    others = [_display_name(m) for m in files if m not in chosen] + left_out
    if others:
        log.warning("%s: left out, as no files of vectors: %s", where, _join_some(others))
    kinds = sorted({format or known_format(m.path) or "" for m in kept})
    if len(kinds) > 1:
        log.warning("%s: files of several formats are read: %s", where, ", ".join(kinds))
    kept.sort(key=lambda member: natural_key(pure_path(member.path)))
    return [replace(member, format=format) for member in kept]


def pure_path(path: SourcePath) -> PurePath:
    """Return a path that can be compared with others of its kind."""
    return path.pure if isinstance(path, RemotePath) else path


def _may_hold_vectors(path: SourcePath) -> bool:
    if not path.is_file():
        return False
    return known_format(path) == "bin" or (not path.suffix and by_magic(path) is not None)


def _describe_nothing(where: str, files: list[Member], left_out: list[str]) -> str:
    names = [_display_name(member) for member in files] + left_out
    expected = f"expected files ending in {', '.join(EXTENSIONS)}"
    if not names:
        return f"{where}: nothing found, {expected}"
    message = f"{where}: no file of vectors among {_join_some(names)}; {expected}"
    lines = (conversion(local_name(member.path)) for member in files)
    line = next((line for line in lines if line), None)
    return message + (f"; convert it: {line}" if line else ", or add --format to say what they are")


def _display_name(member: Member) -> str:
    return f"{member.folder}/{member.path.name}" if member.folder else member.path.name


def _join_some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _check_distinct(members: list[Member]) -> None:
    seen: dict[tuple[int, int] | str, SourcePath] = {}
    for path in (member.path for member in members):
        if isinstance(path, RemotePath):
            _check_first(seen, str(path), path)
            continue
        with source_errors(path):
            status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InvalidSource(f"{path}: not a regular file, expected a file of vectors")
        _check_first(seen, (status.st_dev, status.st_ino), path)


def _check_first(
    seen: dict[tuple[int, int] | str, SourcePath], key: tuple[int, int] | str, path: SourcePath
) -> None:
    if key in seen:
        raise InvalidSource(
            f"{path}: reached twice (first as {seen[key]}), expected every file once"
        )
    seen[key] = path
