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
from teravec.index.manifest import Manifest, read_manifest, read_model_description
from teravec.storage.layout import IndexPaths
from teravec.writing.compacting import compact_index, plan_compaction
from teravec.writing.rebalancing import plan_rebalance, rebalance_index

__all__ = ["Maintained", "MaintenanceStep", "maintain_index"]

_GAIN = 0.1  # share of what is scanned that splitting must save
_DRIFT = 1.1  # times what a list of the build costs, above which lists have drifted
_SMALL = 0.25  # share of the lists that must be small for joining them to be worth it


@dataclass(frozen=True)
class MaintenanceStep:
    """Something that was worth doing.

    Parameters
    ----------
    what : {"rebalance", "compact", "calibrate"}
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

    Nothing to do takes about as long as opening the index. Work that the budget cuts off is
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
    steps, manifest = list[MaintenanceStep](), read_manifest(paths)
    # Rebalancing first: compaction then joins what it wrote, and both make a calibration old.
    for plan in (_plan_rebalance, _plan_compaction, _plan_calibration):
        found = plan(paths, manifest)
        if found is None:
            continue
        step = _take(found, paths, limited)
        manifest = read_manifest(paths)
        if step.version is not None or step.left:
            steps.append(step)
        if step.left:
            break
    return Maintained(manifest.number, len(manifest.layers), _deleted(manifest), tuple(steps))


@dataclass(frozen=True)
class _Planned:
    what: str
    why: str
    take: Callable[[IndexPaths, Resources], Manifest | None]


def _plan_rebalance(paths: IndexPaths, manifest: Manifest) -> _Planned | None:
    if not manifest.number:  # as built
        return None
    plan, _ = plan_rebalance(paths, manifest)
    lists = read_model_description(paths, manifest).lists or {}
    drifted = plan.cost > _DRIFT * plan.target * float(lists.get("imbalance", 1.0))
    if not (drifted and plan.gain >= _GAIN) and len(plan.small) < _SMALL * manifest.nlist:
        return None
    why = (
        f"a query scans {plan.cost:,.0f} vectors in a list, about {plan.cost_after:,.0f} after "
        f"splitting {len(plan.parts):,} lists, and {len(plan.small):,} are small"
    )
    return _Planned("rebalance", why, rebalance_index)


def _plan_compaction(_: IndexPaths, manifest: Manifest) -> _Planned | None:
    chosen = plan_compaction(manifest)
    if not chosen:
        return None
    why = f"a query reads {len(manifest.layers)} runs of each list"
    if manifest.deletes:
        why += f", and {_deleted(manifest):.1%} of the rows may be deleted"
    return _Planned("compact", why, compact_index)


def _plan_calibration(_: IndexPaths, manifest: Manifest) -> _Planned | None:
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
