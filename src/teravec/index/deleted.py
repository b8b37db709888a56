"""The ids that a version's delete sets hide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from teravec.index.manifest import Manifest
from teravec.segments.delete_set import DeleteSet, join_delete_sets
from teravec.segments.segment import Segment
from teravec.storage.layout import IndexPaths

__all__ = ["read_deleted"]

Int64 = npt.NDArray[np.int64]


def read_deleted(paths: IndexPaths, manifest: Manifest, segments: Sequence[Segment]) -> list[Int64]:
    """Read the ids that are hidden in each segment, ascending and distinct.

    Segments that the same sets apply to share an array.
    """
    joined: dict[tuple[DeleteSet, ...], Int64] = {}
    found = []
    for segment in segments:
        hiding = tuple(entry for entry in manifest.deletes if entry.hides_in(segment))
        if hiding not in joined:
            joined[hiding] = join_delete_sets(paths, hiding)
        found.append(joined[hiding])
    return found
