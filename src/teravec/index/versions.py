"""Committing versions: how a finished index changes, and how two writers do not collide."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version

from teravec.errors import AlreadyThere, CorruptFile, ForeignFile, MissingFile, OutputExists
from teravec.index.calibration import read_calibration
from teravec.index.manifest import (
    NEWEST,
    CalibrationEntry,
    Manifest,
    list_versions,
    read_manifest,
    version_content,
)
from teravec.storage.arrays import describe_file
from teravec.storage.jsonfile import sealed_text, write_json
from teravec.storage.layout import IndexPaths

__all__ = ["TIME_FORMAT", "Change", "VersionProbe", "commit_version", "note_newest"]

log = logging.getLogger(__name__)

Change = Callable[[Manifest], Manifest | None]
"""Derives the next version's content from a version's; called again if another writer was first."""

_LOOKS = 16  # looks at the next number for each listing

_MOVED = {"format": "teravec-index", "version": 2, "versions": "versions/"}
_TRIES = 100

TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
"""How manifests and records write a time, in UTC."""


def commit_version(paths: IndexPaths, change: Change, known: Manifest | None = None) -> Manifest:
    """Commit the next version of an index: a change of its newest version.

    Of several writers that commit at once, one is first. The others apply their change to its
    version, and try again with the next number. What they have written stays valid.

    Parameters
    ----------
    paths : IndexPaths
    change : callable
        Given the newest manifest, returns the next one. Number and parent are set here. Returns
        None if the newest version has the change already: then nothing is committed.
    known : Manifest, optional
        As for ``read_manifest``.

    Returns
    -------
    Manifest
        As committed. It is durable.

    Raises
    ------
    OutputExists
        Others committed each time.
    """
    for _ in range(_TRIES):
        if not list_versions(paths):
            _begin_versions(paths)
        newest = read_manifest(paths, known=known)
        wanted = change(newest)
        if wanted is None:
            return newest
        changed = replace(
            wanted,
            creator=_creator(),
            number=newest.number + 1,
            parent=newest.number,
            created=datetime.now(UTC).strftime(TIME_FORMAT),
        )
        data = sealed_text(version_content(changed))
        try:
            paths.version(changed.number).create(data)
        except AlreadyThere:
            log.debug("%s: another writer committed version %d", paths, changed.number)
            continue
        note_newest(paths, data)
        return changed
    raise OutputExists(f"{paths}: other writers committed {_TRIES} versions meanwhile; try again")


@cache
def _creator() -> str:
    return f"teravec {version('teravec')}"


def _begin_versions(paths: IndexPaths) -> None:
    """Write version 0: the build's manifest, and its calibration if there is one."""
    build = read_manifest(paths)
    try:
        if (calibration := read_calibration(paths, build)) is not None:
            entry = CalibrationEntry(
                paths.calibration.name,
                **describe_file(paths.calibration),
                measured=0,
                model=calibration.model,
            )
            build = replace(build, calibration=entry, known=calibration.known)
    except (CorruptFile, ForeignFile) as error:
        log.warning("%s; the index goes on without a calibration", error)
    try:
        paths.version(0).create(sealed_text(version_content(build)))
    except AlreadyThere:  # another writer began, or a killed one did
        log.debug("%s: version 0 is there already", paths)


def note_newest(paths: IndexPaths, data: bytes) -> None:
    """Note in ``manifest.json`` that the index has versions, and in an object store the newest.

    Releases that know no versions then refuse the index; they would serve version 0 for ever.

    Parameters
    ----------
    paths : IndexPaths
    data : bytes
        Of the version's file. If two writers note theirs at once, the older may stay: what is
        noted counts only if it is the newest version that is listed.
    """
    if not paths.is_local:
        write_json(paths.manifest, {**_MOVED, NEWEST: data.decode()})
        return
    try:
        with paths.manifest.open() as file:
            moved = file.read(file.size, 0) == sealed_text(_MOVED)
    except MissingFile:  # a copy begins with its versions
        moved = False
    if not moved:
        write_json(paths.manifest, _MOVED)


class VersionProbe:
    """Looks for versions newer than one, cheaply: usually by asking whether the next one exists.

    A listing now and then finds versions after numbers that were removed.

    Parameters
    ----------
    paths : IndexPaths
    """

    def __init__(self, paths: IndexPaths) -> None:
        self._paths, self._looks = paths, 0

    def find_newer(self, number: int) -> int | None:
        """Return the number of the newest version if it is above ``number``.

        Raises
        ------
        StorageError
        """
        self._looks += 1
        if self._looks % _LOOKS and not self._paths.version(number + 1).exists():
            return None
        newest = max(list_versions(self._paths), default=number)
        return newest if newest > number else None
