"""Maintaining an index: what reading costs decides what is worth doing, within a budget of time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from teravec.engines.deadline import Deadline, TimeIsOver
from teravec.engines.resources import Resources
from teravec.errors import OutputExists
from teravec.evaluation.recalibrating import is_outdated, recalibrate
from teravec.index.manifest import Manifest, read_manifest
from teravec.storage.layout import IndexPaths
from teravec.writing.compacting import compact_index, plan_compaction

__all__ = ["Maintained", "MaintenanceStep", "maintain_index"]


@dataclass(frozen=True)
class MaintenanceStep:
    """Something that was worth doing.

    Parameters
    ----------
    what : {"compact", "calibrate"}
    why : str
        What reading costs without it, in words.
    version : int, optional
        The version with the result. None if the step did not come to its end.
    left : str
        Why it did not: the budget is spent, or another process changed the same files. The next
        maintenance goes on with it. Empty if it did.
    seconds : float
    """

    what: str
    why: str
    version: int | None
    left: str
    seconds: float


@dataclass(frozen=True)
class Maintained:
    """What a maintenance found and did.

    Parameters
    ----------
    version : int
        The newest version afterwards.
    runs : int
        Runs of a list that a query reads at most, afterwards.
    deleted : float
        Ids in delete sets for each row, afterwards.
    steps : tuple of MaintenanceStep
        Empty if nothing was worth doing.
    """

    version: int
    runs: int
    deleted: float
    steps: tuple[MaintenanceStep, ...]


def maintain_index(
    paths: IndexPaths, resources: Resources, *, budget: timedelta | None = None
) -> Maintained:
    """Do what is worth doing, by what reading costs, and stop when the budget is spent.

    Nothing to do takes about as long as reading the manifest. Work that the budget cuts off is
    gone on with by the next maintenance, also if rows were added or deleted meanwhile.

    Parameters
    ----------
    paths : IndexPaths
    resources : Resources
    budget : timedelta, optional
        Not given: as long as it takes.
    """
    deadline = Deadline(
        resources.progress, float("inf") if budget is None else budget.total_seconds()
    )
    limited = resources.with_progress(deadline)
    steps = []
    for plan in (_plan_compaction, _plan_calibration):
        found = plan(read_manifest(paths))
        if found is None:
            continue
        steps.append(_take(found, paths, limited))
        if steps[-1].left:
            break
    manifest = read_manifest(paths)
    return Maintained(manifest.number, len(manifest.layers), _deleted(manifest), tuple(steps))


@dataclass(frozen=True)
class _Planned:
    what: str
    why: str
    take: Callable[[IndexPaths, Resources], Manifest | None]


def _plan_compaction(manifest: Manifest) -> _Planned | None:
    chosen = plan_compaction(manifest)
    if not chosen:
        return None
    why = f"a query reads {len(manifest.layers)} runs of each list"
    if manifest.deletes:
        why += f", and {_deleted(manifest):.1%} of the rows may be deleted"
    return _Planned("compact", why, compact_index)


def _plan_calibration(manifest: Manifest) -> _Planned | None:
    if not is_outdated(manifest):
        return None
    why = f"{manifest.calibration_age:.1%} of the rows changed since recall was measured"
    return _Planned("calibrate", why, recalibrate)


def _deleted(manifest: Manifest) -> float:
    return manifest.deleted_ids / max(1, manifest.ntotal)


def _take(planned: _Planned, paths: IndexPaths, resources: Resources) -> MaintenanceStep:
    started, left, manifest = time.monotonic(), "", None
    try:
        manifest = planned.take(paths, resources)
    except TimeIsOver:
        left = "the budget is spent"
    except OutputExists as error:
        left = str(error)
    version = None if manifest is None else manifest.number
    seconds = round(time.monotonic() - started, 3)
    return MaintenanceStep(planned.what, planned.why, version, left, seconds)
