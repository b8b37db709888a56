"""Whether ids are in any file of an index."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teravec.index.calibration import read_kept
from teravec.index.known_queries import list_ids
from teravec.index.manifest import Manifest, list_versions, read_manifest
from teravec.progress import Progress
from teravec.segments.delete_set import is_deleted
from teravec.segments.sealed_set import read_sealed_set
from teravec.storage.layout import IndexPaths
from teravec.storage.listfile import ListFile

__all__ = ["find_ids"]

Int64 = npt.NDArray[np.int64]

_ROWS = 1 << 20  # ids read at a time


def find_ids(paths: IndexPaths, ids: Int64, progress: Progress) -> list[str]:
    """Look for ids in every version that is still there: in segments and in delete sets.

    Parameters
    ----------
    paths : IndexPaths
    ids : ndarray of shape (n,), int64
        In any order.
    progress : Progress

    Returns
    -------
    list of str
        Files that have some of the ids, with how many; empty if none has.
    """
    wanted, found = np.unique(ids), []
    manifests = [read_manifest(paths, number) for number in list_versions(paths) or [0]]
    segments = {(s.file, s.id_base): s for m in manifests for s in m.segments}
    deletes = {entry.file: entry for m in manifests for entry in m.deletes}
    with progress.stage("erased", sum(s.ntotal for s in segments.values()), "ids") as bar:
        for segment in segments.values():
            count = 0
            with ListFile(paths.file(segment.file)) as file:
                for start in range(0, segment.ntotal, _ROWS):
                    stop = min(start + _ROWS, segment.ntotal)
                    held = file.read_ids(start, stop) + segment.id_base
                    count += int(np.count_nonzero(is_deleted(held, wanted)))
                    bar.advance(stop - start)
            if count:
                found.append(f"{paths.file(segment.file)}: {count:,} rows")
    for name, held in _list_known(paths, manifests).items():
        count = int(np.count_nonzero(is_deleted(held, wanted)))
        if count:
            found.append(f"{paths.file(name)}: {count:,} ids of known queries or their neighbours")
    for entry in deletes.values():
        count = int(np.count_nonzero(is_deleted(read_sealed_set(paths, entry), wanted)))
        if count:
            found.append(f"{paths.file(entry.file)}: {count:,} ids that were deleted")
    return found


def _list_known(paths: IndexPaths, manifests: list[Manifest]) -> dict[str, Int64]:
    found: dict[str, Int64] = {}
    for manifest in manifests:
        if (kept := read_kept(paths, manifest)) is not None:
            found |= list_ids(paths, manifest, kept, found)
    return found
