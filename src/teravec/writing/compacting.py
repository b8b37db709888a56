"""Compacting an index: which segments become one, and the version that uses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import xxhash

from teravec.engines.resources import Resources
from teravec.errors import OutputExists
from teravec.index.known_queries import fold_neighbours
from teravec.index.manifest import Manifest, read_manifest, read_model_description
from teravec.index.pending import PendingPaths, begin_change, check_pending, read_record
from teravec.index.versions import commit_version
from teravec.segments.compaction import compact
from teravec.segments.delete_set import DeleteSet, sets_that_hide
from teravec.segments.merge import MergeOptions
from teravec.segments.sealed_set import read_sealed_set
from teravec.segments.segment import Segment
from teravec.storage.arrays import write_array
from teravec.storage.files import byte_view
from teravec.storage.layout import IndexPaths

__all__ = ["compact_index", "compact_segments", "plan_compaction"]

_RATIO = 8  # a layer joins newer ones until it is so many times larger than all of them
_MOST_LAYERS = 4  # runs of a list that a query reads at most, after a compaction
_MOST_JOINED_IDS = 1 << 20  # of delete sets that become one
_VOIDED = 0.5  # the same for rows in voided runs, which cost space but are never read


def plan_compaction(manifest: Manifest, *, full: bool = False) -> tuple[Segment, ...]:
    """Choose the segments that become one: some of the newest layers, whole.

    Layers are joined from the newest on, until the next older one has eight times the rows of
    those together. So a row is written again only some log8(ntotal) times, however many additions
    there are, and a list has few runs. All are joined when an eighth of the rows is new or deleted:
    then a query reads what a fresh index has.

    Returns
    -------
    tuple of Segment
        In the manifest's order; empty if nothing is worth it.
    """
    layers = manifest.layers
    rows = [sum(segment.valid for segment in layer) for layer in layers]
    voided = sum(segment.voided for segment in manifest.segments)
    # Additions delete the ids that they bring: those count once.
    hidden = _RATIO * manifest.deleted_ids > manifest.ntotal
    if full or hidden or voided > _VOIDED * manifest.ntotal:
        first = 0
    else:
        first = len(layers) - 1
        while first > 0 and (rows[first - 1] < _RATIO * sum(rows[first:]) or first >= _MOST_LAYERS):
            first -= 1
    chosen = layers[first:]
    whole = first == 0 and (
        voided > 0
        or any(
            entry.hides_in(segment) for entry in manifest.deletes for segment in manifest.segments
        )
    )
    if len(chosen) < 2 and not whole:
        return ()
    return tuple(segment for layer in chosen for segment in layer)


def compact_index(
    paths: IndexPaths, resources: Resources, *, full: bool = False
) -> Manifest | None:
    """Compact the newest version of an index; return the version with the result.

    Additions and deletions that others commit meanwhile stay. Rows that the delete sets of the
    compacted version hide are left out.

    Returns
    -------
    Manifest or None
        None if nothing is worth compacting.

    Raises
    ------
    OutputExists
        Another process compacts the same segments, or committed a compaction or a rollback that
        this one does not fit.
    """
    manifest = read_manifest(paths)
    chosen = plan_compaction(manifest, full=full)
    if not chosen:
        return None
    return compact_segments(paths, manifest, chosen, resources, only_these=full)


def compact_segments(
    paths: IndexPaths,
    manifest: Manifest,
    chosen: Sequence[Segment],
    resources: Resources,
    *,
    only_these: bool,
) -> Manifest:
    """Compact some segments of a version, whole layers; parameters and errors as above.

    Parameters
    ----------
    only_these : bool
        Go on with a killed compaction of the same segments only, not with any that still fits.
    """
    content = {
        "compact": [segment.file for segment in chosen],
        "deletes": [entry.file for entry in manifest.deletes],
        "model": manifest.model,
    }

    def is_same(found: dict[str, Any]) -> bool:
        if only_these:
            return {key: found.get(key) for key in content} == content
        return _can_go_on(found, manifest)

    with begin_change(paths, content, is_same) as pending:
        newest = read_manifest(pending)
        if any(pending.owns(segment.file) for segment in newest.segments):
            return newest  # it was committed, and then killed
        begun = read_record(pending) or content
        segments = [segment for segment in newest.segments if segment.file in begun["compact"]]
        deletes = [entry for entry in newest.deletes if entry.file in begun["deletes"]]
        if len(segments) < len(begun["compact"]) or newest.model != begun["model"]:
            raise _overtaken(pending)
        model = read_model_description(paths, newest)
        options = MergeOptions(
            model.tag,
            model.code_size,
            model.sketch_size,
            model.nlist,
            newest.ntotal,
            None,
            newest.schema,
        )
        made = compact(pending, segments, deletes, newest.voided, options, resources)
        try:
            return _commit(pending, segments, sets_that_hide(deletes, segments), made)
        except _Overtaken:
            pending.record.remove()  # it cannot go on; vacuum removes its files
            raise


def _can_go_on(found: dict[str, Any], manifest: Manifest) -> bool:
    """Whether a killed compaction still fits: others may have added and deleted meanwhile."""
    segments = {segment.file for segment in manifest.segments}
    deletes = {entry.file for entry in manifest.deletes}
    return (
        "compact" in found
        and segments >= set(found["compact"])
        and deletes >= set(found["deletes"])
        and found.get("model") == manifest.model
    )


def _commit(
    pending: PendingPaths,
    chosen: Sequence[Segment],
    applied: set[DeleteSet],
    made: Sequence[Segment],
) -> Manifest:
    def change(newest: Manifest) -> Manifest | None:
        if any(pending.owns(segment.file) for segment in newest.segments):
            return None  # another process went on with the same compaction, and was first
        check_pending(pending)
        if not (set(chosen) <= set(newest.segments) and applied <= set(newest.deletes)):
            raise _overtaken(pending)
        at = newest.segments.index(chosen[0])
        kept = [segment for segment in newest.segments if segment not in chosen]
        segments = (*kept[:at], *made, *kept[at:])
        needed = [d for d in newest.deletes if any(map(d.hides_in, segments))]
        deletes = _join_sets(pending, needed, segments)
        known = newest.known
        if known is not None and deletes != newest.deletes:
            known = fold_neighbours(pending, newest, known)
        return replace(
            newest,
            known=known,
            segments=segments,
            deletes=deletes,
            voided=tuple(v for v in newest.voided if any(map(v.voids_in, segments))),
            ntotal=sum(segment.valid for segment in segments),
            what=f"compact {len(chosen)} segments",
        )

    return commit_version(pending, change)


def _join_sets(
    pending: PendingPaths, deletes: Sequence[DeleteSet], segments: Sequence[Segment]
) -> tuple[DeleteSet, ...]:
    """Join consecutive delete sets that hide rows in the same segments, so that few are left."""
    joined: list[DeleteSet] = []
    for _, group in groupby(deletes, lambda entry: tuple(map(entry.hides_in, segments))):
        sets = list(group)
        if len(sets) == 1 or sum(entry.count for entry in sets) > _MOST_JOINED_IDS:
            joined += sets
            continue
        ids = np.unique(np.concatenate([read_sealed_set(pending, entry) for entry in sets]))
        path = pending.deletes_file(xxhash.xxh3_64_hexdigest(byte_view(ids)))
        described = write_array(path, ids)
        joined.append(DeleteSet(path.name, count=len(ids), sequence=sets[-1].sequence, **described))
    return tuple(joined)


class _Overtaken(OutputExists):
    """Segments of a compaction are no longer in the newest version."""


def _overtaken(pending: PendingPaths) -> _Overtaken:
    return _Overtaken(
        f"{pending}: another process compacted, rebalanced or rolled back meanwhile; compact again"
    )
