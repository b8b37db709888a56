"""The lists of a derived model: centroids of the parts of large lists, and which small ones end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.engines.engine import Steps
from teravec.engines.resources import Resources
from teravec.kernels.assignment import CentroidAssigner
from teravec.kernels.metric import Metric
from teravec.kernels.nearest import ExactQuantizer
from teravec.model.derived import DerivedLists
from teravec.model.model import Model
from teravec.segments.moving import Destinations
from teravec.segments.run_rows import RunRows, RunSource
from teravec.storage.store import StorePath
from teravec.training.small_kmeans import small_kmeans
from teravec.writing.balance import BalancePlan

__all__ = ["choose_destinations", "derive_lists", "split_lists"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_PART_VECTORS = 64  # vectors that train a part's centroid, as many as k-means has for a list
_ROUNDS = 8  # of splitting parts that are still too large
_MOST_LEFT = 0.9  # share of a list's vectors in one part, above which splitting is no use
_NEAR = 64  # lists around one, which its rows may move to (SPFresh looks at as many)
_BLOCK_ROWS = 1 << 14


@dataclass(frozen=True)
class _SplitterMaker:
    """The maker of a worker's splitter."""

    model: StorePath
    source: RunSource
    lists: Int64
    most: float
    threads: int

    def make(self) -> _Splitter:
        """Read the model and the segments' tables."""
        return _Splitter(self, Model.read(self.model), RunRows(self.source, self.lists))


@dataclass(frozen=True)
class _Splitter:
    plan: _SplitterMaker
    model: Model
    rows: RunRows


def split_lists(
    model: StorePath, source: RunSource, plan: BalancePlan, resources: Resources
) -> dict[int, Float32]:
    """Find the centroids of the parts of each large list.

    Parameters
    ----------
    model : StorePath
        Parent of the model's files.
    source : RunSource
    plan : BalancePlan
    resources : Resources

    Returns
    -------
    dict
        By list, an array of shape (parts, d_index). A list of equal vectors is left out.
    """
    tasks = sorted(plan.parts.items())
    lists = np.array([list_no for list_no, _ in tasks], np.int64)
    maker = _SplitterMaker(model, source, lists, plan.most, resources.engine.threads)
    with resources.progress.stage("split lists", len(tasks), "lists") as bar:
        found = resources.engine.run(maker, _split, tasks, bar)
        pairs = zip(lists.tolist(), found, strict=True)
        return {list_no: parts for list_no, parts in pairs if len(parts) > 1}


def _split(splitter: _Splitter, task: tuple[int, int]) -> Steps[Float32]:
    list_no, parts = task
    model, threads = splitter.model, splitter.plan.threads
    start, stop = splitter.rows.rows_of(list_no)
    step = max(1, (stop - start) // (parts * _PART_VECTORS))
    taken = []
    for block in splitter.rows.blocks(start, stop, _BLOCK_ROWS):
        chosen = slice(0, None, step)
        taken.append(model.decode(block.codes[chosen], block.list_nos[chosen]))
    members = np.concatenate([np.empty((0, model.description.d_index), np.float32), *taken])
    rng = np.random.default_rng([model.description.seed, 6, list_no])
    spherical = model.metric is Metric.COSINE
    share = splitter.plan.most / max(1, stop - start)  # of the members, in one part at most
    if not len(members):  # all of its rows are deleted
        yield 1
        return members
    found = small_kmeans(members, parts, rng, spherical=spherical, threads=threads)
    for _ in range(_ROUNDS if len(found) > 1 else 0):
        list_nos, _ = CentroidAssigner.exact(found).assign(members, threads=threads)
        counts = np.bincount(list_nos, minlength=len(found))
        largest = int(counts.argmax())
        if counts[largest] <= share * len(members):
            break
        more = small_kmeans(
            members[list_nos == largest], 2, rng, spherical=spherical, threads=threads
        )
        if len(more) < 2:
            break
        found = np.concatenate([found[:largest], more, found[largest + 1 :]])
    yield 1
    list_nos, _ = CentroidAssigner.exact(found).assign(members, threads=threads)
    if np.bincount(list_nos).max() > _MOST_LEFT * len(members):  # most of its vectors are equal
        return found[:1]
    return found


def derive_lists(
    parent: Model, sizes: Int64, small: Sequence[int], parts: Mapping[int, Float32], target: float
) -> tuple[DerivedLists, Int64] | None:
    """Number the parts of split lists, and end the small lists that have a neighbour to go to.

    The first part keeps its list's number. The others get numbers that no list uses, then new ones.

    Parameters
    ----------
    parent : Model
    sizes : ndarray of shape (nlist,), int64
    small : sequence of int
        The smallest first.
    parts : mapping
        Centroids of the parts, by list.
    target : float
        Vectors that a list should have: small lists are joined up to a quarter of it.

    Returns
    -------
    lists : DerivedLists
    joined : ndarray of int64
        The lists that end, ascending. None in place of both if nothing changes.
    """
    used = np.arange(parent.nlist) if parent.used is None else parent.used
    joined = _choose_joined(parent.centroids, used, sizes, small, target)
    if not parts and not len(joined):
        return None
    unused = np.setdiff1d(np.arange(parent.nlist), used).tolist()
    centroids = [np.array(parent.centroids)]
    nlist, origins = parent.nlist, []
    for list_no, found in sorted(parts.items()):
        numbers = [list_no]
        while len(numbers) < len(found):
            if unused:
                numbers.append(unused.pop(0))
            else:
                numbers.append(nlist)
                nlist += 1
        for number, centroid in zip(numbers, found, strict=True):
            origins.append((number, list_no))
            if number < parent.nlist:
                centroids[0][number] = centroid
            else:
                centroids.append(centroid[None])
    changed = np.array(origins, np.int64).reshape(-1, 2)
    left = np.setdiff1d(np.union1d(used, changed[:, 0]), joined)
    return DerivedLists(np.concatenate(centroids), left, changed), joined


def _choose_joined(
    centroids: Float32, used: Int64, sizes: Int64, small: Sequence[int], target: float
) -> Int64:
    """Join small lists, the smallest first, as long as they stay small and have a neighbour."""
    if not small or len(used) < 2:
        return np.empty(0, np.int64)
    quantizer = ExactQuantizer(centroids[used], Metric.L2)
    count = min(len(used), 9)
    near, _ = quantizer.search(centroids[np.array(small)], count, threads=1)
    grown, joined = sizes.astype(np.int64), set[int]()
    least = min(target, float(sizes[used].sum())) / 4
    for list_no, row in zip(small, used[near].tolist(), strict=True):
        others = [each for each in row if each != list_no and each not in joined]
        if not others or grown[list_no] >= least:
            continue
        grown[others[0]] += grown[list_no]
        joined.add(list_no)
    return np.array(sorted(joined), np.int64)


def choose_destinations(
    parent: Model, derived: DerivedLists, joined: Int64, sizes: Int64, threads: int
) -> tuple[Destinations, Destinations]:
    """Choose which lists are compared for the rows of which list.

    Rows of lists that were split or joined may go to any of the lists near theirs. Rows of the
    lists around a part may go to that part; their other neighbours are as near as they were.

    Returns
    -------
    ended, around : Destinations
        Of lists that were split or joined; of lists near a new centroid, which stay as they are.
    """
    quantizer = ExactQuantizer(derived.centroids[derived.used], Metric.L2)
    count = min(len(derived.used), _NEAR)

    def near(vectors: Float32) -> Int64:
        found, _ = quantizer.search(np.ascontiguousarray(vectors), count, threads=threads)
        return derived.used[found]

    numbers, origins = derived.origins[:, 0], derived.origins[:, 1]
    ended = np.union1d(np.unique(origins), joined)
    ended = ended[sizes[ended] > 0]
    own = {list_no: numbers[origins == list_no] for list_no in np.unique(origins).tolist()}
    rows = [
        np.unique(np.concatenate([row, own.get(list_no, row[:0])]))
        for list_no, row in zip(ended.tolist(), near(parent.centroids[ended]), strict=True)
    ]
    around = np.unique(near(derived.centroids[numbers])) if len(numbers) else numbers
    around = np.setdiff1d(around[around < parent.nlist], np.union1d(ended, numbers))
    around = around[sizes[around] > 0]
    beside = [
        np.concatenate([[list_no], row[np.isin(row, numbers)]])
        for list_no, row in zip(around.tolist(), near(parent.centroids[around]), strict=True)
    ]
    return Destinations(ended, _as_table(rows)), Destinations(around, _as_table(beside))


def _as_table(rows: Sequence[Int64]) -> Int64:
    table = np.full((len(rows), max(map(len, rows), default=0)), -1, np.int64)
    for at, row in enumerate(rows):
        table[at, : len(row)] = row
    return table
