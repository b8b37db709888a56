"""Keeping a calibration's queries and their neighbours with the index, and reading them again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teravec.engines.resources import Resources
from teravec.evaluation.groundtruth import groundtruth
from teravec.evaluation.measuring import KnownQueries
from teravec.evaluation.truth import Truth
from teravec.index.kept_queries import KeptQueries, NeighboursEntry
from teravec.index.known_queries import (
    read_limits,
    read_queries,
    read_truth,
    write_neighbours,
    write_queries,
)
from teravec.index.manifest import Manifest
from teravec.index.neighbours import make_table, of_table
from teravec.index.pending import PendingPaths
from teravec.kernels.metric import Metric
from teravec.sources import Source
from teravec.storage.layout import IndexPaths

__all__ = ["compare_rows", "keep_depth", "keep_queries", "known_queries"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_MOST_KEPT = 2000  # queries; each added row is compared with all of them
_MARGIN = 1.5  # neighbours kept for each that is needed: some will be deleted
_WITH_K = 0.8  # of the kept queries, that must have k known neighbours for k to be measured
_FEWEST = 50  # queries that are worth measuring with, or half of the kept ones


def keep_depth(k: int) -> int:
    """Return how many neighbours of a query are kept, if k are needed."""
    return max(k + 10, round(_MARGIN * k))


def keep_queries(
    pending: PendingPaths,
    vectors: Float32,
    own: Int64 | None,
    costs: Float64,
    ids: Int64,
    *,
    origin: str,
    complete: bool = False,
    through: int = 0,
) -> KeptQueries:
    """Seal queries and their nearest rows; of many queries, some.

    Parameters
    ----------
    pending : PendingPaths
        The change whose files they are.
    vectors : ndarray of shape (nq, d), float32
    own : ndarray of shape (nq,), int64, optional
        The queries' own ids.
    costs, ids : ndarray of shape (nq, m)
        Nearest rows, best first; -1 for none.
    origin : str
        As ``Calibration.origin``.
    complete : bool
        Whether all rows are listed.
    through : int
        The version that has the rows, without those that it deletes.
    """
    nq = min(len(vectors), _MOST_KEPT)
    some = np.linspace(0, len(vectors) - 1, nq).astype(np.int64)
    mine = None if own is None else own[some]
    entry = write_queries(pending, vectors[some], mine, ids.shape[1], origin)
    records = of_table(costs[some], ids[some], complete=complete)
    near = write_neighbours(pending, records, sequences=(0, through), deletes_through=through)
    return KeptQueries(entry, (near,))


def compare_rows(
    pending: PendingPaths,
    manifest: Manifest,
    kept: KeptQueries,
    source: Source,
    resources: Resources,
) -> NeighboursEntry:
    """Compare the kept queries with rows that are being added, and seal what is near.

    Rows that are farther than what is known of the older rows are left out. The entry's sequences
    and ``id_base`` are set by the commit.

    Raises
    ------
    MemoryLimitTooSmall
    """
    vectors, _ = read_queries(pending, kept.queries, manifest.d)
    metric = Metric(manifest.metric)
    k = min(kept.queries.depth, source.ntotal)
    distances, ids = groundtruth(
        source, vectors, k, metric=metric, resources=resources, within=read_limits(pending, kept)
    )
    costs = (-distances if metric.larger_is_closer else distances).astype(np.float64)
    records = of_table(costs, ids, complete=k == source.ntotal)
    return write_neighbours(pending, records)


def known_queries(
    paths: IndexPaths, manifest: Manifest, kept: KeptQueries, ks: tuple[int, ...]
) -> tuple[KnownQueries, tuple[int, ...]] | None:
    """Read the kept queries with their true neighbours in a version.

    A query of which too few neighbours are left is left out.

    Returns
    -------
    known : KnownQueries
    ks : tuple of int
        Those for which most queries have enough true neighbours.

    None if there is no such k, or too few queries are left.
    """
    truth, nq = read_truth(paths, manifest, kept), kept.queries.count
    tables = {k: make_table(truth.records, nq, k) for k in ks}
    ks = tuple(k for k, (_, _, enough) in tables.items() if enough.mean() >= _WITH_K)
    if not ks:
        return None
    costs, ids, enough = tables[ks[-1]]
    if enough.sum() < min(_FEWEST, nq / 2):
        return None
    some = np.flatnonzero(enough & (ids[:, 0] != -1))
    own = None if (truth.own < 0).all() else truth.own[some]
    near = Truth(ids[some], costs[some], comparable=True, exact=manifest.codec == "flat")
    return KnownQueries(truth.vectors[some], own, near, kept.queries.origin), ks
