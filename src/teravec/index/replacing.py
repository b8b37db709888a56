"""Replacing an index: the new one is built beside the old one, and takes its name when complete.

The new index is built as ``OUT.new``. When it is complete and calibrated, the two directories
exchange their names, and the old index is removed. Until then OUT does not change. After a kill,
the same command continues with ``OUT.new``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from teravec.errors import InvalidArgument, OutputExists, storage_errors
from teravec.storage.exchange import exchange
from teravec.storage.files import sync_directory
from teravec.storage.layout import IndexPaths

__all__ = ["check_only_index", "finish_replacing", "put_in_place", "successor"]

_MARK = ".replaced"  # file in an old index: the directory may be removed, whatever its name


def successor(paths: IndexPaths) -> IndexPaths:
    """Return the paths of the index that will replace this one."""
    root = paths.root.resolve()  # replace the target of a link; the link stays
    return IndexPaths(root.with_name(root.name + ".new"))


def check_replaceable(paths: IndexPaths) -> None:
    """Raise InvalidArgument where two indexes cannot exchange their places."""
    if not paths.is_local:
        raise InvalidArgument(
            f"{paths}: only a directory can be overwritten; build under another name, and remove "
            "the old index when nobody uses it"
        )


def check_only_index(paths: IndexPaths) -> None:
    """Refuse to replace a directory that holds anything but an index or its build.

    Raises
    ------
    OutputExists
        The message names the other files.
    """
    own = {
        path.name
        for path in (
            paths.manifest,
            paths.build,
            paths.imported,
            paths.device,
            paths.model,
            paths.training,
            paths.shards,
            paths.slices,
            paths.calibration,
            paths.calibrating,
            *map(paths.file, ("versions", "segments", "deletes", "voided", "models", "adding")),
            paths.known,
        )
    }
    own |= {path.name for path in map(paths.file, paths.store.names("calibration-"))}
    with storage_errors(paths.root, "read"):
        names = sorted(path.name for path in paths.root.iterdir())
    others = [n for n in names if n.removesuffix(".tmp") not in own and not n.startswith(".")]
    if others:
        raise OutputExists(
            f"{paths.root} holds {', '.join(others[:3])} beside an index, and is not overwritten: "
            "move that away or choose another --out"
        )


def put_in_place(paths: IndexPaths) -> None:
    """Give a complete successor the index's name, and remove the old index."""
    root, new = paths.root.resolve(), successor(paths).root
    check_only_index(IndexPaths(root))
    with storage_errors(root, "write"):
        (root / _MARK).touch()
    exchange(root, new)
    _remove(new)


def finish_replacing(paths: IndexPaths) -> None:
    """Finish what a kill interrupted: restore a name, and remove an old index."""
    root, new = paths.root.resolve(), successor(paths).root
    aside = root.with_name(root.name + ".replaced")
    with storage_errors(root, "replace"):
        if (aside / _MARK).exists() and not root.exists():
            aside.rename(root)
        elif (aside / _MARK).exists() and not new.exists():
            aside.rename(new)
        if (new / _MARK).exists() and root.exists():  # the mark proves that it is our old index
            _remove(new)


def _remove(root: Path) -> None:
    with storage_errors(root, "remove"):
        shutil.rmtree(root)
    sync_directory(root.parent)
