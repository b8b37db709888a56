"""Calibrating a changed index again, by searches alone: the queries that it keeps have a truth."""

from __future__ import annotations

import logging

from teravec.engines.resources import Resources
from teravec.evaluation.calibrating import CalibrationOptions, measure_calibration
from teravec.evaluation.keeping import known_queries
from teravec.evaluation.sealing import begin_calibration, write_calibration
from teravec.index.calibration import read_calibration, read_kept
from teravec.index.known_queries import fold_neighbours
from teravec.index.manifest import Manifest
from teravec.search.index import open_index
from teravec.storage.layout import IndexPaths

__all__ = ["is_outdated", "recalibrate"]

log = logging.getLogger(__name__)

_CHANGED = 0.1  # share of the rows above which measuring again is worth it


def is_outdated(manifest: Manifest) -> bool:
    """Whether ``recalibrate`` is worth it: a tenth of the rows, or the model, has changed.

    It looks at the manifest alone.
    """
    entry = manifest.calibration
    if entry is None or manifest.known is None:
        return False
    return manifest.calibration_age >= _CHANGED or entry.is_of_another_model(manifest.model)


def recalibrate(
    paths: IndexPaths, resources: Resources, options: CalibrationOptions | None = None
) -> Manifest | None:
    """Measure the newest version's recall with the queries that the index keeps.

    No vector is read but those that searches find. Queries that have lost too many true neighbours
    to deletions are left out.

    Parameters
    ----------
    paths : IndexPaths
    resources : Resources
    options : CalibrationOptions, optional
        Its number of queries is ignored. Not given: the ks of the calibration there is.

    Returns
    -------
    Manifest or None
        The version with the calibration. None if the index keeps no queries, or too few of them
        have enough true neighbours: then it needs data or a truth again.

    Raises
    ------
    MissingFile, CorruptFile
        A kept file is missing or damaged.
    """
    with open_index(paths.store, memory=resources.memory_bytes, threads=resources.threads) as index:
        manifest = index.manifest
        kept = read_kept(paths, manifest)
        if kept is None:
            return None
        if options is None:
            before = read_calibration(paths, manifest)
            options = CalibrationOptions() if before is None else CalibrationOptions(ks=before.ks)
        known = known_queries(paths, manifest, kept, options.ks)
        if known is None:
            log.info("%s: too few true neighbours of the kept queries are left", paths)
            return None
        calibration = measure_calibration(index, *known, options, resources.progress)
    with begin_calibration(paths, manifest) as pending:
        if manifest.number:  # and few files instead of one for each addition
            kept = fold_neighbours(pending, manifest, kept)
        return write_calibration(pending, calibration, kept)
