"""Deleting rows by id: a version with a delete set, which searches apply at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from teravec.index.manifest import Manifest
from teravec.index.pending import PendingPaths, begin_change, check_pending
from teravec.index.versions import commit_version
from teravec.segments.delete_set import DeleteSet
from teravec.storage.arrays import write_array
from teravec.storage.layout import IndexPaths
from teravec.writing.collisions import CollisionCheck

__all__ = ["delete_rows", "write_deletes"]

Int64 = npt.NDArray[np.int64]


def delete_rows(
    paths: IndexPaths, ids: Int64, collisions: CollisionCheck | None = None
) -> Manifest:
    """Delete the rows that have one of these ids; ids that no row has are no error.

    Rows that are added later with the same id are visible.

    Parameters
    ----------
    paths : IndexPaths
    ids : ndarray of shape (n,), int64
        In any order.
    collisions : CollisionCheck, optional
        Of ids that are texts: no row of another text may go.

    Returns
    -------
    Manifest
        The version without the rows.
    """
    ids = np.unique(ids)
    with begin_change(paths, {"delete": len(ids)}, lambda _: False) as pending:
        deleted = write_deletes(pending, ids)

        def change(newest: Manifest) -> Manifest:
            check_pending(pending)
            if collisions is not None:
                collisions.check(newest)
            entry = replace(deleted, sequence=newest.number + 1)
            deletes = (*newest.deletes, entry)
            return replace(
                newest,
                deletes=deletes,
                deleted=newest.deleted + len(ids),
                what=f"delete {len(ids):,} ids",
            )

        return commit_version(pending, change)


def write_deletes(pending: PendingPaths, ids: Int64) -> DeleteSet:
    """Seal a change's delete set; its sequence is set by the commit.

    Parameters
    ----------
    pending : PendingPaths
    ids : ndarray of shape (n,), int64
        Ascending and distinct.
    """
    described = write_array(pending.deletes, ids)
    return DeleteSet(pending.deletes.name, count=len(ids), sequence=0, **described)
