"""Sealing a calibration: of a build as a file, of a changed index as a version of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from teravec.errors import ForeignFile
from teravec.index.calibration import Calibration, calibration_content
from teravec.index.kept_queries import KeptQueries
from teravec.index.manifest import CalibrationEntry, Manifest, list_versions, read_manifest
from teravec.index.pending import PendingPaths, begin_change, check_pending
from teravec.index.versions import commit_version
from teravec.storage.arrays import describe_file
from teravec.storage.jsonfile import json_checksum, write_json
from teravec.storage.layout import IndexPaths

__all__ = ["begin_calibration", "write_calibration"]

log = logging.getLogger(__name__)

_BUILD = "build"  # in place of a random token


@contextmanager
def begin_calibration(paths: IndexPaths, manifest: Manifest) -> Iterator[PendingPaths]:
    """Begin a calibration of a version: a change, whose files nobody removes before its commit.

    Raises
    ------
    OutputExists
        Another process calibrates this version now.
    """
    content = {"calibrate": manifest.number}
    # A build has the same bytes each time, so its files have the same names.
    token = None if list_versions(paths) else _BUILD

    def is_same(found: dict[str, Any]) -> bool:
        return found.get("calibrate") == manifest.number

    with begin_change(paths, content, is_same, token) as pending:
        yield pending


def write_calibration(
    pending: PendingPaths, calibration: Calibration, known: KeptQueries | None
) -> Manifest:
    """Publish a calibration of the newest version, replacing an earlier one.

    On an index with versions, that is a version of its own.

    Parameters
    ----------
    pending : PendingPaths
    calibration : Calibration
    known : KeptQueries, optional
        Its queries, and their neighbours among the rows that it measured.

    Returns
    -------
    Manifest
        The version that uses it.
    """
    if not list_versions(pending):
        write_json(pending.calibration, calibration_content(replace(calibration, known=known)))
        _remove_unnamed(pending, known)
        return read_manifest(pending)
    content = calibration_content(calibration)
    path = pending.calibration_file(json_checksum(content))
    write_json(path, content)

    def use(newest: Manifest) -> Manifest:
        check_pending(pending)
        measured = _find_measured(pending, newest, calibration)
        entry = CalibrationEntry(
            path.name,
            **describe_file(path),
            measured=measured.number,
            added=measured.added,
            deleted=measured.deleted,
            model=measured.model,
        )
        kept = _keep(known, measured, newest)
        return replace(newest, calibration=entry, known=kept, what="calibrate")

    return commit_version(pending, use)


def _keep(known: KeptQueries | None, measured: Manifest, newest: Manifest) -> KeptQueries | None:
    """Return what the newest version keeps of the queries that measured one of its ancestors."""
    if known is None or newest.segments == measured.segments:
        return known
    if newest.known is not None and newest.known.queries.is_same(known.queries):
        return newest.known  # what was added since then was compared with the same queries
    log.warning("rows were added meanwhile; calibrating again will need data or a truth once more")
    return None


def _remove_unnamed(paths: IndexPaths, known: KeptQueries | None) -> None:
    """Remove what earlier calibrations of a build kept; a build's files have no other name."""
    named = () if known is None else known.files
    for path in paths.known.children():
        if path.name not in named:
            path.remove()


def _find_measured(paths: IndexPaths, newest: Manifest, calibration: Calibration) -> Manifest:
    """Find the version whose segments were measured: the newest, or one of its ancestors."""
    manifest = newest
    while tuple(s.checksum for s in manifest.segments) != calibration.slices:
        if manifest.parent is None:
            raise ForeignFile(f"{paths}: the calibration measured none of the index's versions")
        manifest = read_manifest(paths, manifest.parent)
    return manifest
