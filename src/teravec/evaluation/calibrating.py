"""Making a calibration: search at growing effort, and compare with the true neighbours.

Queries ------- The queries are vectors of the source that the model was not trained on, drawn
uniformly. Each is left out of its own neighbours. For the index such a vector equals a fresh query
of the same kind: its true neighbours are other vectors, and no centroid was moved towards it.
Vectors of the training sample would look easier, because k-means moved centroids towards them
(measured: recall 0.01 higher at 0.84, 0.03 higher at one list). If fewer than 100 vectors were left
out of the sample, all vectors are eligible.

A sample has an error. The promise is therefore the measured recall less 1.645 standard errors, the
one-sided 95 % bound of a mean: about 0.007 for 1,000 queries at a recall of 0.9.

Cost
----
One pass over the source finds the true neighbours, with ``queries`` products per vector. Then all
queries are searched at about 20 efforts, each 1.4 times the one before. The efforts end when recall
no longer grows, when 0.99 can be promised, or when a query scans a 32nd of the vectors (at least
30,000, at most 2^28). If 0.95 cannot be promised then, they go on to three times as many.

With codecs that are slow to scan, this would take longer than the rest of a build. A calibration
may therefore have a time limit. It ends before the effort that would exceed the limit, and promises
what was measured by then. Only such a calibration depends on the machine's speed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from time import monotonic

import numpy as np
import numpy.typing as npt

from teravec.arguments import real_number, whole_number, whole_numbers
from teravec.bulk.results import Neighbors
from teravec.engines.resources import Resources
from teravec.errors import CorruptFile, InvalidArgument, OutputExists
from teravec.evaluation.checkpoint import remove_checkpoint
from teravec.evaluation.fitting import fit_truth
from teravec.evaluation.groundtruth import groundtruth
from teravec.evaluation.keeping import keep_depth, keep_queries, known_queries
from teravec.evaluation.measuring import KnownQueries, choose_radii, measure_effort, remove_own
from teravec.evaluation.sealing import begin_calibration, write_calibration
from teravec.evaluation.spreading import measure_spread
from teravec.evaluation.truth import Truth
from teravec.index.calibration import CONFIDENCE, Calibration, Measured
from teravec.index.hardness import Hardness
from teravec.index.manifest import read_manifest
from teravec.kernels.metric import Metric
from teravec.progress import Progress
from teravec.search.effort import Effort
from teravec.search.index import Index, open_index
from teravec.search.probing import CROWD, measure_hardness
from teravec.sources import Source
from teravec.storage.layout import IndexPaths
from teravec.training.record import read_record
from teravec.training.sample import draw_rows_outside

__all__ = [
    "CalibrationOptions",
    "calibrate_index",
    "calibrate_with_truth",
    "codes_searched",
    "measure_calibration",
]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

log = logging.getLogger(__name__)

_FEWEST_LEFT_OUT = 100
_STEPS_OF_PRUNE = 8
_CODES_ANYWAY = 30_000  # a query scans so many codes in a fraction of a millisecond
_CODES_SHARE = 32
_CODES_MOST = 1 << 28  # some seconds of a server: of 10^10 vectors and more, a smaller share
_FURTHER = 3
_USUAL = 0.95  # what is usually asked for
_STAYS = 5e-4  # gained by a doubling of nprobe
_PLENTY = 0.99
_GROWTH = 1.5  # of an effort's time, from one to the next
_WITH_K = 0.9  # of a truth's queries, that must have k true neighbours for k to be measured


@dataclass(frozen=True)
class CalibrationOptions:
    """What to measure.

    Parameters
    ----------
    queries : int
        Vectors to draw as queries.
    ks : tuple of int
        Values of k whose recall is measured, ascending.
    codes : int, optional
        Raise the effort until a query scans this many codes. Not given: a 32nd of all, at least
        30,000 and at most 2^28; three times as many if that cannot promise 0.95.
    seconds : float, optional
        End before the effort that would take the searches beyond this. Not given: no limit.
    """

    queries: int = 1000
    ks: tuple[int, ...] = (1, 10, 100)
    codes: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None:
            expected = "a number above 0"
            seconds = real_number(self.seconds, "seconds", 1e-9, 1e9, expected)
            object.__setattr__(self, "seconds", seconds)
        ks = whole_numbers(self.ks, "ks", 1)
        if not ks:
            raise InvalidArgument("no k found; at least 1 expected")
        object.__setattr__(self, "ks", tuple(sorted(set(ks))))
        object.__setattr__(self, "queries", whole_number(self.queries, "nqueries", 1))
        if self.codes is not None:
            object.__setattr__(self, "codes", whole_number(self.codes, "codes", 1))


def calibrate_index(
    paths: IndexPaths,
    source: Source,
    options: CalibrationOptions,
    resources: Resources,
    queries: Float32 | None = None,
) -> Calibration:
    """Measure the recall of an index against effort, and seal it as ``calibration.json``.

    A pass over the source, with checkpoints, finds the true neighbours. The measured searches run
    in this process.

    Parameters
    ----------
    paths : IndexPaths
    source : Source
        The vectors that the index was built from.
    options : CalibrationOptions
    resources : Resources
        Its workers find the true neighbours.
    queries : ndarray of shape (nq, d), float32, optional
        The user's queries. Not given: drawn from the source.

    Raises
    ------
    InvalidArgument
        The index was built from another source, or there are too few vectors to leave any out.
    MemoryLimitTooSmall
    """
    manifest = read_manifest(paths)
    if not source.is_described_by(manifest.source):
        raise InvalidArgument(
            f"{source.ntotal:,} x {source.d} vectors found that {paths} was not built from; "
            f"its {manifest.ntotal:,} x {manifest.d} expected, the same files in the same order"
        )
    if manifest.added or manifest.ntotal != source.ntotal:
        raise InvalidArgument(
            f"rows were added to {paths} since its build, and {source.ntotal:,} of "
            f"{manifest.ntotal:,} are given: calibrate with queries and their true neighbours "
            "(--truth), as search with nprobe = nlist finds them; or with neither, if the index "
            "kept queries"
        )
    own, origin, spare = None, "given", 0
    if queries is None:
        rows, origin = _draw(paths, source, options.queries)
        queries, own, spare = source.take(rows), _ids(source, rows), 1
    ks = tuple(k for k in options.ks if k + spare <= source.ntotal)
    if not ks:
        raise InvalidArgument(
            f"k {list(options.ks)} asked for; {source.ntotal - spare} neighbours at most"
        )
    metric, depth = Metric(manifest.metric), keep_depth(ks[-1])

    def exact() -> tuple[Float32, Int64]:
        return groundtruth(
            source,
            queries,
            min(depth + spare, source.ntotal),
            metric=metric,
            resources=resources,
            checkpoint=paths.calibrating,
        )

    try:
        distances, ids = exact()
    except (OutputExists, CorruptFile) as error:  # a checkpoint of other queries, or damaged
        log.info("%s", error)
        remove_checkpoint(paths.calibrating)
        distances, ids = exact()
    costs = (-distances if metric.larger_is_closer else distances).astype(np.float64)
    if own is not None:
        costs, ids = remove_own(costs, ids, own)
    with begin_calibration(paths, manifest) as pending:
        complete = depth + spare >= source.ntotal
        kept = keep_queries(pending, queries, own, costs, ids, origin=origin, complete=complete)
        truth = Truth(ids, costs, comparable=True, exact=manifest.codec == "flat")
        known = KnownQueries(queries, own, truth.nearest(ks[-1]), origin)
        if manifest.deletes:  # the source has their rows
            left = known_queries(paths, manifest, kept, ks)
            if left is None:
                raise InvalidArgument(f"{paths}: too few true neighbours are left after deletions")
            known, ks = left
        with open_index(
            paths.store, memory=resources.memory_bytes, threads=resources.threads
        ) as index:
            calibration = measure_calibration(index, known, ks, options, resources.progress)
        write_calibration(pending, calibration, kept)
    remove_checkpoint(paths.calibrating)
    return calibration


def calibrate_with_truth(
    paths: IndexPaths,
    queries: Float32,
    truth: Neighbors,
    options: CalibrationOptions,
    resources: Resources,
) -> Calibration:
    """Do as ``calibrate_index`` does, for queries with known true neighbours.

    If the truth has no distances, or distances that contradict the index's, no radii are
    calibrated. A doubtful truth is refused, because a calibration is a promise; an earlier
    calibration stays.
    """
    if len(truth.ids) != len(queries) or not len(queries):
        raise InvalidArgument(
            f"true neighbours of {len(truth.ids):,} queries found, {len(queries):,} expected"
        )
    there = (truth.ids != -1).sum(1)
    ks = tuple(k for k in options.ks if (there >= k).mean() >= _WITH_K)
    if not ks:
        raise InvalidArgument(
            f"{int(np.median(there))} true neighbours a query found, of k {list(options.ks)}"
        )
    with open_index(paths.store, memory=resources.memory_bytes, threads=resources.threads) as index:
        fitted = fit_truth(index, queries, truth, ks[-1])
        if fitted.doubts:
            raise InvalidArgument(
                f"{'; '.join(fitted.doubts)}. Nothing was calibrated; with the indexed vectors "
                "(--data) instead of a truth, teravec finds the true neighbours itself"
            )
        some = np.flatnonzero(there)
        known = KnownQueries(queries[some], None, fitted.truth.of_rows(some), "given")
        calibration = measure_calibration(index, known, ks, options, resources.progress)
        measured = index.manifest
    kept = None
    if not fitted.truth.comparable:
        points = tuple(replace(p, radius_recall=(), radius_error=()) for p in calibration.points)
        calibration = replace(calibration, radii=(), points=points)
    with begin_calibration(paths, measured) as pending:
        if fitted.truth.comparable:
            table = known.truth.costs, known.truth.ids
            through = measured.number
            kept = keep_queries(
                pending, known.vectors, None, *table, origin="given", through=through
            )
        write_calibration(pending, calibration, kept)
    return calibration


def codes_searched(ntotal: int) -> int:
    """Return the codes per query at which efforts end at the latest."""
    return max(_CODES_ANYWAY, min(ntotal // _CODES_SHARE, _CODES_MOST))


def _draw(paths: IndexPaths, source: Source, n: int) -> tuple[Int64, str]:
    """Draw rows to use as queries; return them and their origin."""
    plan = read_record(paths).plan()
    rows = draw_rows_outside(source.ntotal, plan, n)
    if len(rows) >= min(n, _FEWEST_LEFT_OUT):
        return rows, "held out"
    rng = np.random.default_rng([plan.seed, 3])
    return np.sort(rng.choice(source.ntotal, min(n, source.ntotal), replace=False)), "source"


def _ids(source: Source, rows: Int64) -> Int64:
    if not source.has_ids:
        return rows
    return np.concatenate([source.read_ids(row, row + 1) for row in rows.tolist()])


def measure_calibration(
    index: Index,
    known: KnownQueries,
    ks: tuple[int, ...],
    options: CalibrationOptions,
    progress: Progress,
) -> Calibration:
    """Search known queries at growing effort."""
    usually = options.codes or codes_searched(index.ntotal)
    most = options.codes or _FURTHER * usually
    sign = -1.0 if Metric(index.metric).larger_is_closer else 1.0
    bounds = choose_radii(known.truth.costs, ks)
    points: list[Measured] = []
    efforts, hardness = _efforts(index, known.vectors)
    clock = _Clock(options.seconds)
    with progress.stage("calibrate", len(efforts), "efforts") as bar:
        for effort in efforts:
            points.append(measure_effort(index, known, effort, ks, bounds, sign))
            bar.advance(1)
            if _enough(points, usually, most) or clock.is_over():
                break
    manifest = index.manifest
    calibration = Calibration(
        model=manifest.model,
        slices=tuple(entry.checksum for entry in manifest.slices),
        queries=len(known.vectors),
        origin=known.origin,
        ks=ks,
        radii=tuple(sign * bound for bound in bounds),
        points=tuple(points),
        hardness=hardness,
        stopped_s=clock.stopped_s if len(points) < len(efforts) else None,
        spread=measure_spread(index, known.vectors, known.own) if manifest.columns else None,
    )
    if calibration.stopped_s is not None:
        log.warning(
            "calibration stopped after %.0f s at nprobe %d; teravec calibrate %s goes further",
            calibration.stopped_s,
            points[-1].nprobe,
            index.where,
        )
    return calibration


class _Clock:
    """Tells whether the next effort would exceed the time limit.

    Attributes
    ----------
    stopped_s : float or None
        Seconds until the limit ended the efforts.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self.stopped_s: float | None = None
        self._started = self._last = monotonic()

    def is_over(self) -> bool:
        """Whether another effort, taking 1.5 times as long as the last, would end too late."""
        now = monotonic()
        took, self._last = now - self._last, now
        passed = now - self._started
        if self._seconds is None or passed + _GROWTH * took <= self._seconds:
            return False
        self.stopped_s = round(passed, 1)
        return True


def _efforts(index: Index, queries: Float32) -> tuple[list[Effort], Hardness | None]:
    """List efforts that grow by the square root of 2, until every list is visited.

    First nprobe grows; once it is nlist, prune shrinks.
    """
    nlist = index.nlist
    prepared, _, distances = index.steps.nearest_lists(queries, Effort(min(CROWD, nlist)))
    prune, hardness = measure_hardness(distances, prepared, Metric(index.metric))
    steps = round(2 * np.log2(nlist))
    grown = sorted({round(2 ** (step / 2)) for step in range(steps)} - {nlist})
    efforts = [Effort.adaptive(nprobe, prune, hardness, nlist) for nprobe in grown]
    if prune:
        shrunk = [prune / 2 ** (step / 2) for step in range(_STEPS_OF_PRUNE)]
        efforts += [Effort.adaptive(nlist, weight, hardness, nlist) for weight in shrunk]
    return [*efforts, Effort(nlist)], hardness


def _enough(points: list[Measured], usually: int, most: int) -> bool:
    last = points[-1]
    lower = np.subtract(last.recall, CONFIDENCE * np.array(last.error))
    enough = usually if (lower > _USUAL).all() else most
    if last.codes >= enough or (lower > _PLENTY).all():
        return True
    return len(points) > 2 and bool((np.subtract(last.recall, points[-3].recall) < _STAYS).all())
