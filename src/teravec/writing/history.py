"""The versions of an index: listing them, going back to one, and removing what none needs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from teravec.errors import InvalidArgument, OutputExists
from teravec.index.calibration import read_kept
from teravec.index.manifest import Manifest, list_versions, read_manifest
from teravec.index.pending import PendingPaths, hold_change, list_pending, read_record
from teravec.index.versions import TIME_FORMAT, commit_version
from teravec.sources.spool import SPOOL
from teravec.storage.layout import IndexPaths
from teravec.storage.local_store import local_path
from teravec.storage.output_lock import hold_file
from teravec.storage.store import StorePath

__all__ = ["Vacuumed", "list_history", "roll_back", "vacuum"]

log = logging.getLogger(__name__)

_FOLDERS = ("segments", "deletes", "slices", "voided", "known")  # of files that manifests name
_MODELS = ("model", "models")  # of models, whose directories manifests name


def list_history(paths: IndexPaths) -> list[Manifest]:
    """Read every version that is still there, the oldest first."""
    return [read_manifest(paths, number) for number in list_versions(paths) or [0]]


def roll_back(paths: IndexPaths, number: int) -> Manifest:
    """Commit the content of an older version as the newest one.

    The versions between stay, so that this can be undone in the same way. Ids are not numbered
    anew: rows added later get ids that no version has used.

    Raises
    ------
    MissingFile
        There is no such version, or ``vacuum`` has removed it.
    InvalidArgument
        It is the newest version.
    """
    old = read_manifest(paths, number)

    def change(newest: Manifest) -> Manifest:
        if number == newest.number:
            raise InvalidArgument(f"version {number} is the newest version of {paths}")
        next_id = max(old.next_id, newest.next_id)
        return replace(
            old, next_id=next_id, committed=newest.committed, what=f"roll back to version {number}"
        )

    return commit_version(paths, change)


@dataclass(frozen=True)
class Vacuumed:
    """What ``vacuum`` removed.

    Parameters
    ----------
    versions : tuple of int
    files, size : int
        Files, the versions' own included, and their bytes.
    """

    versions: tuple[int, ...]
    files: int
    size: int


def vacuum(
    paths: IndexPaths, older_than: timedelta, grace: timedelta = timedelta(days=1)
) -> Vacuumed:
    """Remove old versions, and the files that no version needs any more.

    The newest version stays, and so does every version that was still the newest within the given
    time: a reader that opened it may be using its files. Killed changes that began earlier are
    removed as well; they cannot go on afterwards.

    Parameters
    ----------
    paths : IndexPaths
    older_than : timedelta
    grace : timedelta
        Where there are no locks, changes that began within this time count as being made.
    """
    # In this order: a file that was there had a record then, or else a version names it by now.
    files = [path for folder in (*_FOLDERS, *_MODELS) for path in paths.file(folder).children()]
    files += [paths.file(name) for name in paths.store.names("calibration-")]
    limit = datetime.now(UTC) - older_than
    killed_before = limit if paths.is_local else min(limit, datetime.now(UTC) - grace)
    committed = read_manifest(paths).committed
    pending = [c for c in list_pending(paths) if not _give_up(c, killed_before, committed)]
    placed = {name for change in pending for name in (read_record(change) or {}).get("files", ())}
    history = list_history(paths)
    followers = history[1:]
    # A version was the newest until the next one was committed.
    expired = [m for m, after in zip(history, followers, strict=False) if _committed(after) < limit]
    kept = [manifest for manifest in history if manifest not in expired]
    named = {name for manifest in kept for name in _names(paths, manifest)}
    doomed = [
        path
        for path in files
        if not {path.name, path.name.rpartition("/")[0]} & (named | placed)
        and not any(change.owns(path.name) for change in pending)
    ]
    doomed += [path for path in paths.file("adding").children() if _is_lost_spool(path)]
    if not paths.is_local:
        paths.store.remove_unfinished("", grace)
    # Versions first: none may name a file that is gone.
    numbers = tuple(manifest.number for manifest in expired)
    size = _remove(paths.version(number) for number in numbers) + _remove(doomed)
    return Vacuumed(numbers, len(numbers) + len(doomed), size)


def _committed(manifest: Manifest) -> datetime:
    if manifest.created is None:
        return datetime.min.replace(tzinfo=UTC)
    return _parse_time(manifest.created)


def _parse_time(text: str) -> datetime:
    return datetime.strptime(text, TIME_FORMAT).replace(tzinfo=UTC)


def _names(paths: IndexPaths, manifest: Manifest) -> Iterable[str]:
    yield manifest.model_path
    for segment in manifest.segments:
        yield segment.file
        yield from (beside.file for beside in segment.beside)
    yield from (deleted.file for deleted in manifest.deletes)
    yield from (voided.file for voided in manifest.voided)
    if manifest.calibration is not None:
        yield manifest.calibration.file
    if (known := read_kept(paths, manifest)) is not None:
        yield from known.files


def _is_lost_spool(path: StorePath) -> bool:
    """Whether this is the spool of an addition that was killed, or a part of it."""
    first, _, _ = path.name.removeprefix("adding/").partition("/")
    local = local_path(StorePath(path.store, f"adding/{first}"))
    if local is None or local.suffix != SPOOL:
        return False
    columns = f".columns{SPOOL}"  # of a stream; the spool of its vectors is held
    held = local.with_name(local.name.replace(columns, SPOOL))
    try:
        with hold_file(held):
            return True
    except OutputExists:  # its process is alive
        return False


def _give_up(change: PendingPaths, limit: datetime, committed: Sequence[str]) -> bool:
    """Remove the record and the shards of a change that was killed before ``limit``.

    The record of a committed addition stays: its rerun would add the rows again otherwise.
    """
    record = read_record(change)
    if record is None or _parse_time(record["created"]) >= limit:
        return False
    with suppress(OutputExists), hold_change(change):
        change.work.remove_all()
        if change.token not in committed:
            change.record.remove()
        return True
    return False


def _remove(doomed: Iterable[StorePath]) -> int:
    size = 0
    for path in doomed:
        size += path.store.size(path.name)
        path.remove()
        log.info("%s removed", path)
    return size
