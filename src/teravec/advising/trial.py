"""One choice of codec, transform and lists, tried: recall and cost of real searches.

A trial is a small index of the sample and of the queries' neighbours. Its lists have the centroids
of a full build, or of a build of fewer lists where the sample is too small for as many. Searches at
growing effort give its recall, as a calibration does. What a search of the full index costs follows
from the lists that each query visits: their sizes are those of the sample, times the vectors that
each vector of the sample stands for.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from teravec.advising.drawn import Drawn
from teravec.advising.reads import ListReads, PageReads
from teravec.building import build_index, train_model
from teravec.engines.resources import Resources
from teravec.errors import InvalidArgument
from teravec.evaluation.calibrating import CalibrationOptions, measure_calibration
from teravec.evaluation.measuring import KnownQueries
from teravec.index.calibration import Calibration
from teravec.index.manifest import Manifest
from teravec.model.list_sizes import imbalance
from teravec.model.model import Model
from teravec.search.effort import Effort, calibrated_effort
from teravec.search.index import Index, open_index
from teravec.sources import open_data
from teravec.storage.layout import IndexPaths
from teravec.training.options import TrainOptions
from teravec.training.record import LayoutOptions

__all__ = ["AtRecall", "Choice", "Trial", "train_centroids", "try_choice"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_ASSIGNED = 1 << 16  # rows assigned at once
_ALONE = 200  # queries whose bytes are counted


@dataclass(frozen=True)
class Choice:
    """A codec, a transform, and lists.

    Parameters
    ----------
    codec : str
    transform : str or None
        None: the codec's usual one.
    nlist : int
        Lists of the full index.
    """

    codec: str
    transform: str | None
    nlist: int

    @property
    def name(self) -> str:
        """Codec and, if it is not the usual one, transform."""
        return self.codec if self.transform is None else f"{self.codec}, {self.transform}"


@dataclass(frozen=True)
class AtRecall:
    """A query that asks for a recall.

    Parameters
    ----------
    asked : float
    lists, codes : float
        Lists visited and codes scanned, of the full index.
    bytes, page_bytes : float
        Read by a query alone from an index whose lists are not in memory; those of them that are
        pages of finer codes.
    refined : float
        Candidates whose finer codes are read; 0 with one stage.
    cpu_s : float
        Seconds of one thread, everything in memory.
    """

    asked: float
    lists: float
    codes: float
    bytes: float
    page_bytes: float
    refined: float
    cpu_s: float


@dataclass(frozen=True)
class Trial:
    """What a trial showed.

    Parameters
    ----------
    choice : Choice
    lists : int
        Lists of the trial's index.
    manifest : Manifest
        Of the trial's index.
    calibration : Calibration
    imbalance : float
        Of the sample's lists.
    d_index : int
        Dimensions of the codes.
    slice_bytes : int
        Bytes of the trial's index, without its model.
    indexed : int
        Vectors in it.
    at : dict of float to AtRecall
        By the recall asked for; those out of reach are missing.
    seconds : float
        What the trial took.
    """

    choice: Choice
    lists: int
    manifest: Manifest
    calibration: Calibration
    imbalance: float
    d_index: int
    slice_bytes: int
    indexed: int
    at: dict[float, AtRecall]
    seconds: float


def train_centroids(
    drawn: Drawn, lists: int, folder: Path, resources: Resources, niter: int
) -> Float32:
    """Cluster the sample as a build would, in the space of the vectors; (lists, d)."""
    plan = drawn.plan
    options = TrainOptions(
        lists, str(plan.metric), "none", "fp16", len(drawn.sample), niter, plan.seed
    )
    paths = IndexPaths(folder)
    train_model(open_data(drawn.sample), paths, options, LayoutOptions(), resources)
    return np.array(Model.read(paths.model).centroids)


def try_choice(
    drawn: Drawn,
    choice: Choice,
    centroids: Float32,
    folder: Path,
    resources: Resources,
    *,
    k: int,
    recalls: tuple[float, ...],
    seconds: float,
) -> Trial:
    """Build a trial's index, search it, and foresee what the full one costs.

    Parameters
    ----------
    drawn : Drawn
    choice : Choice
    centroids : ndarray of shape (lists, d), float32
    folder : Path
        For the index.
    resources : Resources
    k : int
    recalls : tuple of float
        To ask for.
    seconds : float
        The searches end after about so long.
    """
    started, plan = time.monotonic(), drawn.plan
    vectors = drawn.vectors
    manifest = build_index(
        vectors,
        folder,
        options=TrainOptions(
            None, str(plan.metric), choice.transform, choice.codec, None, plan.niter, plan.seed
        ),
        layout=LayoutOptions(slices=1),
        keep_shards=False,
        resources=resources,
        ids=drawn.rows,
        calibrate=False,
        centroids=centroids,
    )
    known = KnownQueries(
        drawn.queries, drawn.own, replace(drawn.truth, exact=choice.codec == "flat"), "held out"
    )
    with open_index(folder, memory=resources.memory_bytes, threads=resources.threads) as index:
        calibration = measure_calibration(
            index, known, (k,), CalibrationOptions(ks=(k,), seconds=seconds), resources.progress
        )
        foreseen = _Foreseen(index, drawn, vectors, k)
        at = {}
        for recall in recalls:
            try:
                effort = calibrated_effort(calibration, recall, k, None, plan.metric, index.nlist)
            except InvalidArgument:  # above what the codes reach
                continue
            at[recall] = foreseen.at(recall, effort)
        return Trial(
            choice,
            index.nlist,
            manifest,
            calibration,
            imbalance(foreseen.sizes),
            index.steps.opened.model.description.d_index,
            sum(entry.files_size for entry in manifest.segments),
            len(vectors),
            at,
            time.monotonic() - started,
        )


class _Foreseen:
    """Costs of a query of the full index, from the lists that it visits.

    Parameters
    ----------
    index : Index
        The trial's.
    drawn : Drawn
    vectors : ndarray of shape (n, d), float32
        Those in the index, the sample first.
    k : int
    """

    def __init__(self, index: Index, drawn: Drawn, vectors: Float32, k: int) -> None:
        self._index, self._drawn, self._k = index, drawn, k
        self._list_of = _assign(index, vectors)
        counts = np.bincount(self._list_of[: len(drawn.sample)], minlength=index.nlist)
        # Rounded by one running remainder, so that the sizes add up.
        ends = np.cumsum(counts) * drawn.ntotal // len(drawn.sample)
        self.sizes = np.diff(ends, prepend=0).astype(np.int64)
        self._here = np.asarray(index.list_sizes, np.float64)
        opened = index.steps.opened
        width = opened.manifest.code_size
        self._reads = ListReads(self.sizes, width)
        self._pages: PageReads | None = None
        if index.two_stages:
            header = opened.fine[0].header
            self._pages = PageReads(self.sizes, header.page_bytes, header.page_rows)
        order = np.argsort(drawn.rows)
        self._rows, self._lists_by_row = drawn.rows[order], self._list_of[order]

    def at(self, recall: float, effort: Effort) -> AtRecall:
        """Search all queries with an effort, and foresee the cost in the full index."""
        index, queries = self._index, self._drawn.queries
        index.search_at(queries, self._k, effort)  # warms
        before, started = replace(index.stats), time.perf_counter()
        _, ids = index.search_at(queries, self._k, effort)
        wall = time.perf_counter() - started
        nq, stats = len(queries), index.stats
        refined = (stats.codes_refined - before.codes_refined) / nq
        scan = stats.scan_s - before.scan_s
        _, list_nos, _ = index.steps.nearest_lists(queries, effort)
        visited = [row[row >= 0] for row in list_nos]
        codes = float(np.mean([self.sizes[row].sum() for row in visited]))
        here = float(np.mean([self._here[row].sum() for row in visited]))
        cpu_s = index.steps.threads * (wall + scan * (codes / max(1.0, here) - 1)) / nq
        chosen = np.linspace(0, nq - 1, min(_ALONE, nq)).astype(np.int64)
        rng = np.random.default_rng(1)
        read = [self._count_bytes(int(i), visited[i], ids[i], refined, rng) for i in chosen]
        lists = float(np.mean([len(row) for row in visited]))
        of_lists, of_pages = np.mean(read, axis=0).tolist()
        return AtRecall(recall, lists, codes, of_lists + of_pages, of_pages, refined, cpu_s)

    def _count_bytes(
        self, query: int, visited: Int64, ids: Int64, refined: float, rng: np.random.Generator
    ) -> tuple[int, int]:
        """Count the bytes of lists, and those of pages of finer codes."""
        codes = self._reads.count_bytes(visited)
        if self._pages is None:
            return codes + self._reads.count_id_bytes(self._lists_of(ids[ids >= 0])), 0
        # The candidates are not known here; the nearest vectors in the visited lists are.
        near = self._lists_of(self._drawn.truth.ids[query])
        near = near[np.isin(near, visited)][: round(refined)]
        more = max(0, round(refined) - len(near))
        rest = rng.choice(visited, more) if more else visited[:0]
        return codes, self._pages.count_bytes(np.concatenate([near, rest]), rng)

    def _lists_of(self, rows: Int64) -> Int64:
        return np.asarray(self._lists_by_row[np.searchsorted(self._rows, rows)])


def _assign(index: Index, vectors: Float32) -> Int64:
    """Find the list of each vector, (n,)."""
    found = np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), _ASSIGNED):
        part = slice(start, start + _ASSIGNED)
        found[part] = index.steps.nearest_lists(vectors[part], Effort(1))[1][:, 0]
    return found
