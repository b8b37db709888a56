"""The ids that a version's delete sets hide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from teravec.errors import CorruptFile
from teravec.index.manifest import Manifest
from teravec.segments.segment import DeleteSet, Segment
from teravec.storage.arrays import read_array
from teravec.storage.layout import IndexPaths

__all__ = ["read_delete_set", "read_deleted"]

Int64 = npt.NDArray[np.int64]


def read_deleted(paths: IndexPaths, manifest: Manifest, segments: Sequence[Segment]) -> list[Int64]:
    """Read the ids that are hidden in each segment, ascending and distinct.

    Segments that the same sets apply to share an array.
    """
    joined: dict[tuple[DeleteSet, ...], Int64] = {(): np.empty(0, np.int64)}
    found = []
    for segment in segments:
        hiding = tuple(entry for entry in manifest.deletes if entry.hides_in(segment))
        if hiding not in joined:
            sets = [read_delete_set(paths, entry) for entry in hiding]
            joined[hiding] = np.unique(np.concatenate(sets))
        found.append(joined[hiding])
    return found


def read_delete_set(paths: IndexPaths, entry: DeleteSet) -> Int64:
    """Read a delete set.

    Raises
    ------
    MissingFile, CorruptFile
        The file is missing, damaged, or its ids are not ascending and distinct.
    """
    path = paths.file(entry.file)
    expected = {"size": entry.size, "checksum": entry.checksum}
    ids = read_array(path, expected, (entry.count,), np.int64)
    if (np.diff(ids) <= 0).any():
        raise CorruptFile(f"{path}: ids that are not ascending and distinct found")
    return ids
