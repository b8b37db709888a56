"""Erasing what an index keeps of deleted rows beside its segments: queries, and neighbours' ids."""

from __future__ import annotations

from dataclasses import replace

from teravec.index.calibration import read_kept
from teravec.index.known_queries import forget_queries, has_erased
from teravec.index.manifest import Manifest, read_manifest
from teravec.index.pending import begin_change, check_pending
from teravec.index.versions import commit_version
from teravec.storage.layout import IndexPaths

__all__ = ["erase_queries"]


def erase_queries(paths: IndexPaths) -> Manifest | None:
    """Leave out known queries whose own rows are deleted; None if there are none.

    Their vectors stay in the files of older versions, until ``vacuum`` removes those.
    """
    manifest = read_manifest(paths)
    kept = read_kept(paths, manifest)
    if kept is None or not has_erased(paths, manifest, kept):
        return None
    with begin_change(paths, {"erase": kept.queries.file}, lambda _: False) as pending:

        def change(newest: Manifest) -> Manifest:
            check_pending(pending)
            known = read_kept(paths, newest)
            if known is not None:
                known = forget_queries(pending, newest, known)
            return replace(newest, known=known, what="erase queries")

        return commit_version(pending, change)
