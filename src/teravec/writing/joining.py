"""Joining the smallest new segments as rows are added, so that queries read a bounded number."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from teravec.engines.resources import Resources
from teravec.errors import MemoryLimitTooSmall, MissingFile, OutputExists
from teravec.index.manifest import Manifest, read_manifest
from teravec.index.pending import list_pending, read_record
from teravec.segments.segment import Segment
from teravec.storage.layout import IndexPaths
from teravec.writing.compacting import compact_segments

__all__ = ["LEAST_ROWS", "join_small_segments", "plan_joining"]

log = logging.getLogger(__name__)

LEAST_ROWS = 1024
"""Of the smallest class of sizes; the next one has eight times as many."""

_SAME_SIZE = 8  # layers of one class of sizes that become one layer
_MOST_BYTES = 16 << 20  # written anew by one addition


def plan_joining(manifest: Manifest) -> tuple[Segment, ...]:
    """Choose the newest layers, if eight of one class of sizes are there.

    So 1,000 additions leave some twenty layers, and rewrite a row as often as there are classes.

    Returns
    -------
    tuple of Segment
        In the manifest's order; empty if nothing is to be joined.
    """
    layers = manifest.layers[1:]
    rows = [sum(segment.valid for segment in layer) for layer in layers]
    bound, first = LEAST_ROWS, len(layers)
    while rows and bound < rows[-1]:
        bound *= _SAME_SIZE
    while True:
        start = first
        while start > 0 and rows[start - 1] <= bound:
            start -= 1
        if (
            first - start + (first < len(layers)) < _SAME_SIZE
            or _bytes(layers[start:]) > _MOST_BYTES
        ):
            return tuple(segment for layer in layers[first:] for segment in layer)
        first, bound = start, _SAME_SIZE * bound


def _bytes(layers: Sequence[tuple[Segment, ...]]) -> int:
    segments = [segment for layer in layers for segment in layer]
    return sum(each.size + sum(beside.size for beside in each.beside) for each in segments)


def join_small_segments(paths: IndexPaths, manifest: Manifest, resources: Resources) -> None:
    """Join the smallest new segments, if there are many, and nobody else joins any.

    Nothing is lost where that is not possible: ``maintain`` does it.

    Parameters
    ----------
    paths : IndexPaths
    manifest : Manifest
        Of the version that was just committed.
    resources : Resources
    """
    newest = read_manifest(paths, known=manifest)
    chosen = plan_joining(newest)
    if not chosen or _disturbs(paths, newest, chosen):
        return
    try:
        compact_segments(paths, newest, chosen, resources, only_these=True)
    except (OutputExists, MissingFile, MemoryLimitTooSmall) as error:
        log.info("%s; small segments stay as they are", error)


def _disturbs(paths: IndexPaths, newest: Manifest, chosen: Sequence[Segment]) -> bool:
    """Whether a compaction or a rebalance was begun that would be discarded for this one.

    One that another discarded, or that joins no other segments than these, does not count.
    """
    there = {segment.file for segment in newest.segments}
    mine = {segment.file for segment in chosen}
    for pending in list_pending(paths):
        record = read_record(pending) or {}
        segments = set(record.get("compact", ()))
        if "rebalance" in record or (segments <= there and not segments <= mine):
            return True
    return False
