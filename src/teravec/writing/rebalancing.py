"""Rebalancing: lists that have drifted are split and joined, and the rows near them move."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from teravec.engines.resources import Resources
from teravec.errors import OutputExists
from teravec.index.manifest import Manifest, list_versions, read_manifest, read_model_description
from teravec.index.pending import PendingPaths, begin_change, check_pending, read_record
from teravec.index.versions import commit_version
from teravec.model.derived import derive_model
from teravec.model.description import ModelDescription
from teravec.model.model import Model, read_used
from teravec.segments.delete_set import DeleteSet, sets_that_hide
from teravec.segments.moving import Destinations, count_leaving, move_rows
from teravec.segments.run_rows import RunSource
from teravec.segments.segment import Segment
from teravec.segments.voided import VoidedLists
from teravec.storage.arrays import describe_file, read_array, write_array
from teravec.storage.layout import IndexPaths
from teravec.storage.listfile import ID_BYTES
from teravec.training.train import EXACT_QUANTIZER_NLIST
from teravec.writing.balance import BalancePlan, plan_balance, target_size
from teravec.writing.children import choose_destinations, derive_lists, split_lists

__all__ = ["plan_rebalance", "rebalance_index"]

Int64 = npt.NDArray[np.int64]

log = logging.getLogger(__name__)

_LEAVING = 0.02  # share of a list's rows that must move before the list is written anew
_TRIES = 20  # additions that are caught up with, until none comes between


def plan_rebalance(
    paths: IndexPaths, manifest: Manifest, max_list_bytes: int | None = None
) -> tuple[BalancePlan, Int64]:
    """Choose the lists to split and to join; return the plan and the lists' sizes, (nlist,).

    Parameters
    ----------
    paths : IndexPaths
    manifest : Manifest
    max_list_bytes : int, optional
        The most that a list may take. Not given: what the index was built with.
    """
    model = read_model_description(paths, manifest)
    used = np.arange(manifest.nlist)
    if "used.npy" in model.files:
        used = read_used(paths.file(manifest.model_path), model)
    sizes = np.sum(_source(paths, manifest, manifest.segments).sizes(manifest.nlist), axis=0)
    cap = max_list_bytes or (model.lists or {}).get("max_bytes")
    target = target_size(manifest, model, len(used))
    return plan_balance(sizes, used, target, model.code_size + ID_BYTES, cap), sizes


def rebalance_index(
    paths: IndexPaths, resources: Resources, *, max_list_bytes: int | None = None
) -> Manifest | None:
    """Split lists above four times the size they should have, and join those below a quarter.

    Only rows of these lists, and of the lists near them, move. Additions and deletions that others
    commit meanwhile stay. A killed rebalance goes on with the same call.

    Returns
    -------
    Manifest or None
        The version with the result; None if no list is out of balance.

    Raises
    ------
    OutputExists
        Another process rebalances, compacted, or rolled back meanwhile.
    """
    newest = read_manifest(paths)
    content: dict[str, Any] = {
        "rebalance": newest.number,
        "model": newest.model,
        "segments": [segment.file for segment in newest.segments],
        "deletes": [entry.file for entry in newest.deletes],
        "max_list_bytes": max_list_bytes,
    }

    def is_same(found: dict[str, Any]) -> bool:
        return (
            "rebalance" in found
            and found["max_list_bytes"] == max_list_bytes
            and found["model"] == newest.model
            and found["rebalance"] in (list_versions(paths) or [0])
            and set(found["segments"]) <= {segment.file for segment in newest.segments}
            and set(found["deletes"]) <= {entry.file for entry in newest.deletes}
        )

    planned = plan_rebalance(paths, newest, max_list_bytes)
    if not any_imbalance(planned[0]):
        return None
    with begin_change(paths, content, is_same) as pending:
        begun = read_record(pending) or content
        base = newest
        if begun["rebalance"] != newest.number:  # a killed one began with an older version
            base = read_manifest(paths, begun["rebalance"])
            planned = plan_rebalance(paths, base, max_list_bytes)
        return _rebalance(pending, base, planned, resources)


def any_imbalance(plan: BalancePlan) -> bool:
    """Whether some list is to be split or joined."""
    return bool(plan.parts or plan.small)


def _source(paths: IndexPaths, manifest: Manifest, segments: Sequence[Segment]) -> RunSource:
    index = IndexPaths(paths.store)
    return RunSource(index, tuple(segments), manifest.deletes, manifest.voided)


@dataclass(frozen=True)
class _Derived:
    """A model that was derived, and the rows that move to its lists."""

    model: ModelDescription
    destinations: Destinations
    voided: VoidedLists
    what: str


def _rebalance(
    pending: PendingPaths, base: Manifest, planned: tuple[BalancePlan, Int64], resources: Resources
) -> Manifest | None:
    pending = replace(pending, model_path=pending.derived_model.name)
    derived = _derive(pending, base, planned, resources)
    if derived is None:
        return None
    made: list[Segment] = []
    lost: dict[Segment, int] = {}  # rows that are void from now on, of each segment
    applied: set[DeleteSet] = set()
    read = base
    for _ in range(_TRIES):
        late = [segment for segment in read.segments if segment not in lost]
        made += _move(pending, derived, read, late, resources)
        applied |= sets_that_hide(read.deletes, late)
        sizes = _source(pending, read, late).sizes(derived.model.nlist)
        moving = derived.destinations.lists
        lost |= {s: int(n[moving].sum()) for s, n in zip(late, sizes, strict=True)}
        try:
            return _commit(pending, derived, made, lost, applied)
        except _Late as found:
            read = found.manifest
    raise OutputExists(
        f"{pending}: others added rows {_TRIES} times while the last ones were moved; rebalance "
        "again"
    )


class _Late(Exception):
    """Others have added segments, whose rows must move as well."""

    def __init__(self, manifest: Manifest) -> None:
        super().__init__()
        self.manifest = manifest


def _derive(
    pending: PendingPaths, base: Manifest, planned: tuple[BalancePlan, Int64], resources: Resources
) -> _Derived | None:
    """Derive the model, or read it if it is sealed; choose the lists to write anew."""
    parent_path = pending.file(base.model_path)
    source = _source(pending, base, base.segments)
    plan, sizes = planned
    parent = Model.read(parent_path)
    parts = split_lists(parent_path, source, plan, resources)
    found = derive_lists(parent, sizes, plan.small, parts, plan.target)
    if found is None:
        return None
    lists, joined = found
    if not ModelDescription.is_sealed(pending.model):
        graph = len(lists.used) > EXACT_QUANTIZER_NLIST
        derive_model(parent_path, pending.model, lists, graph=graph, progress=resources.progress)
    model = ModelDescription.read(pending.model)
    ended, around = choose_destinations(parent, lists, joined, sizes, resources.threads)
    if not pending.voided.exists():
        leaving = count_leaving(pending, parent_path, source, around, resources)
        chosen = around.lists[leaving > _LEAVING * sizes[around.lists]]
        write_array(pending.voided, np.union1d(ended.lists, chosen))
    described = describe_file(pending.voided)
    voided = read_array(pending.voided, described, dtype=np.int64)
    destinations = ended.joined(around).only(voided)
    entry = VoidedLists(pending.voided.name, count=len(voided), sequence=0, **described)
    what = f"rebalance: {len(parts):,} lists split, {len(joined):,} joined"
    return _Derived(model, destinations, entry, what)


def _move(
    pending: PendingPaths,
    derived: _Derived,
    read: Manifest,
    late: Sequence[Segment],
    resources: Resources,
) -> list[Segment]:
    if not late:
        return []
    # Rows that are read depend on segments and delete sets; so do the names of what is written.
    names = [segment.file for segment in late], [entry.file for entry in read.deletes]
    part = xxhash.xxh3_64_hexdigest(json.dumps(names).encode())
    here = replace(pending, part=part)
    parent = pending.file(read.model_path)
    source = _source(pending, read, late)
    made = move_rows(here, parent, source, derived.destinations, resources, read.schema)
    return [replace(segment, deletes_through=read.number) for segment in made]


def _commit(
    pending: PendingPaths,
    derived: _Derived,
    made: Sequence[Segment],
    lost: dict[Segment, int],
    applied: set[DeleteSet],
) -> Manifest:
    def change(newest: Manifest) -> Manifest:
        check_pending(pending)
        parent = (derived.model.rebalanced or {})["parent"]
        fits = set(lost) <= set(newest.segments) and applied <= set(newest.deletes)
        if newest.model != parent or not fits:
            raise OutputExists(
                f"{pending}: another process compacted, rebalanced or rolled back meanwhile; "
                "rebalance again"
            )
        if not set(newest.segments) <= set(lost):
            raise _Late(newest)
        number = newest.number + 1
        kept = [replace(s, voided=s.voided + lost[s]) for s in newest.segments]
        segments = (*kept, *(replace(segment, voids_through=number) for segment in made))
        calibration = newest.calibration
        if calibration is not None and calibration.model is None:
            calibration = replace(calibration, model=parent)  # what it measured
        return replace(
            newest,
            calibration=calibration,
            nlist=derived.model.nlist,
            model=derived.model.checksum,
            model_path=pending.model_path,
            segments=segments,
            voided=(*newest.voided, replace(derived.voided, sequence=number)),
            ntotal=sum(segment.valid for segment in segments),
            what=derived.what,
        )

    return commit_version(pending, change)
