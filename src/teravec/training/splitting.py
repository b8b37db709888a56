"""Splitting the centroids of lists that would grow too large.

A query pays for its largest list, not for the average one: fewer than ten lists of 10^8 vectors
once turned a search of 2 s into one of 120 s. After k-means, the sample's lists are therefore
counted and scaled to the whole source. A list above the cap is split by a small k-means over its
own sample vectors. One part keeps the list's number, the others get new numbers at the end, so
nlist grows. Splitting takes several rounds, because the parts attract vectors of other lists too.

A round has two kinds of tasks. **Counting** assigns a range of the sample's rows, and returns
their list numbers, 4 bytes a row. From these the caller chooses some vectors of each large list.
**Splitting** a list reads these vectors and clusters them. The result does not depend on how
tasks are distributed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, isfinite

import numpy as np
import numpy.typing as npt

from teravec.engines.block_sizes import USUAL_SIZES, BlockSizes
from teravec.engines.engine import Engine, Held, Steps
from teravec.kernels.assignment import CentroidAssigner
from teravec.memory import require
from teravec.model.transform import Transform
from teravec.progress import Progress
from teravec.training.sample import Sample
from teravec.training.small_kmeans import small_kmeans
from teravec.training.training_set import TrainingSet

__all__ = ["MOST_ROUNDS", "SplitOptions", "split_large_lists", "splitting_bytes"]

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
MakeAssigner = Callable[[Float32], CentroidAssigner]

log = logging.getLogger(__name__)

_FEWEST = 16  # counted vectors below which the size of a list is a guess, not an estimate
_FILL = 0.75  # aimed size of a part, relative to the cap: parts will be unequal
_PART_VECTORS = 64  # vectors that train a part's centroid, as many as k-means has for a list
_MOST_PARTS = 256  # parts of one list in one round

MOST_ROUNDS = 24
"""Rounds after which lists that are still too large stay so."""


@dataclass(frozen=True)
class SplitOptions:
    """Options of splitting.

    Parameters
    ----------
    max_vectors : int
        The cap: most vectors in a list of the finished index.
    ntotal : int
        Vectors of the source.
    seed : int
    spherical : bool
        Scale centroids to unit length, for cosine.
    """

    max_vectors: int
    ntotal: int
    seed: int
    spherical: bool


def split_large_lists(
    vectors: TrainingSet,
    centroids: Float32,
    options: SplitOptions,
    make: MakeAssigner,
    engine: Engine,
    progress: Progress,
) -> tuple[Float32, Int64, int]:
    """Split lists until none is expected above the cap, or the rest cannot be split.

    Nothing is written to disk. After a kill, the next run splits again from k-means' last
    checkpoint, with the same result.

    Parameters
    ----------
    vectors : TrainingSet
    centroids : ndarray of shape (nlist, d), float32
    options : SplitOptions
    make : callable
        Makes an assigner to given centroids.
    engine : Engine
        Its workers count and split.
    progress : Progress

    Returns
    -------
    centroids : ndarray of shape (at least nlist, d), float32
    counts : ndarray of int64
        Number of counted sample vectors in each list.
    rounds : int
    """
    whole: set[int] = set()  # lists that cannot be split
    rows = range(0, vectors.n, max(1, vectors.n // vectors.sizes.counted_rows))
    for rounds in range(MOST_ROUNDS):
        require(
            splitting_bytes(len(centroids), vectors.d, engine.threads, vectors.sizes),
            engine.memory_bytes,
            f"splitting {len(centroids):,} lists",
        )
        maker = _SplitterMaker(
            vectors.sample,
            vectors.transform.pack(),
            vectors.d,
            vectors.sizes,
            options,
            engine.threads,
        )
        counter = _CounterMaker(maker, engine.hold(centroids), make(centroids).margin)
        list_nos = _assign_rows(rows, counter, engine, progress)
        counts = np.bincount(list_nos, minlength=len(centroids))
        parts = _plan_parts(counts, whole, options)
        if not parts or rounds == MOST_ROUNDS - 1:
            break
        large = _select_members(rows, list_nos, counts, parts)
        del list_nos
        added = []
        with progress.stage("split lists", len(large), "lists") as bar:
            for list_no, found in zip(parts, engine.run(maker, _split, large, bar), strict=True):
                if len(found) < 2:
                    whole.add(list_no)
                    continue
                centroids[list_no] = found[0]
                added.append(found[1:])
        log.info(
            "splitting: round %d, %d of %d lists above %d vectors split into %d more",
            rounds + 1,
            len(added),
            len(parts),
            options.max_vectors,
            sum(map(len, added)),
        )
        if added:
            centroids = np.concatenate([centroids, *added])
    return centroids, counts, rounds


def splitting_bytes(nlist: int, d: int, threads: int, sizes: BlockSizes = USUAL_SIZES) -> int:
    """Return the memory of a counting or splitting worker, with the caller in its process."""
    # The centroids, and their copies in two assigners: the caller's, and a worker's in process.
    centroids = nlist * (6 * 4 * d + 64)
    counted = 24 * sizes.counted_rows  # list numbers of the counted rows, also sorted by list
    return centroids + counted + 5 * sizes.training_block_bytes + threads * (8 << 20)


def _plan_parts(counts: Int64, whole: set[int], options: SplitOptions) -> dict[int, int]:
    """Choose the lists to split now, the largest first, and the number of parts of each."""
    cap = options.max_vectors * int(counts.sum()) / options.ntotal
    large = np.flatnonzero((counts > cap) & (counts >= _FEWEST))
    large = large[np.argsort(-counts[large], kind="stable")]
    return {
        list_no: min(_MOST_PARTS, max(2, ceil(counts[list_no] / (_FILL * cap))))
        for list_no in large.tolist()
        if list_no not in whole
    }


@dataclass(frozen=True)
class _Large:
    """A list to split: the number of parts, and some of its vectors as rows of the sample."""

    list_no: int
    parts: int
    rows: Int64


def _select_members(
    rows: range, list_nos: Int32, counts: Int64, parts: dict[int, int]
) -> list[_Large]:
    """Choose evenly spaced vectors of each list to split: the source may be sorted."""
    split = np.zeros(len(counts), bool)
    split[list(parts)] = True
    at = np.flatnonzero(split[list_nos])
    at = at[np.argsort(list_nos[at], kind="stable")]
    ends = np.cumsum(np.where(split, counts, 0))
    large = []
    for list_no, count in parts.items():
        step = max(1, int(counts[list_no]) // (count * _PART_VECTORS))
        members = at[ends[list_no] - counts[list_no] : ends[list_no] : step]
        large.append(_Large(list_no, count, rows.step * members))
    return large


# ---------------------------------------------------------------------- tasks


def _assign_rows(rows: range, counter: _CounterMaker, engine: Engine, progress: Progress) -> Int32:
    """Assign these rows of the sample to lists, by tasks."""
    each = counter.splitter.sizes.counted_task_rows
    tasks = [rows[i : i + each] for i in range(0, len(rows), each)]
    with progress.stage("count lists", len(rows), "vectors") as bar:
        return np.concatenate(list(engine.run(counter, _count, tasks, bar)))


@dataclass(frozen=True)
class _SplitterMaker:
    """The maker of a worker's splitter."""

    sample: Sample
    transform: Float32 | None
    d: int
    sizes: BlockSizes
    options: SplitOptions
    threads: int

    def make(self) -> _Splitter:
        """Make the splitter; nothing is read yet."""
        transform = Transform.unpack(self.transform, self.d)
        vectors = TrainingSet(self.sample, transform, self.d, sizes=self.sizes)
        return _Splitter(vectors, self.options, self.threads)


@dataclass(frozen=True)
class _Splitter:
    vectors: TrainingSet
    options: SplitOptions
    threads: int


@dataclass(frozen=True)
class _CounterMaker:
    """The maker of a worker's counter, whose assigner has the margin of the caller's."""

    splitter: _SplitterMaker
    centroids: Held[Float32]
    margin: float

    def make(self) -> _Counter:
        """Group the centroids; the margin need not be measured again."""
        splitter, centroids = self.splitter.make(), self.centroids.get()
        if isfinite(self.margin):
            assigner = CentroidAssigner.grouped(
                centroids, seed=splitter.options.seed, threads=splitter.threads, margin=self.margin
            )
        else:
            assigner = CentroidAssigner.exact(centroids)
        return _Counter(splitter.vectors, assigner, splitter.threads)


@dataclass(frozen=True)
class _Counter:
    vectors: TrainingSet
    assigner: CentroidAssigner
    threads: int


def _count(counter: _Counter, rows: range) -> Steps[Int32]:
    vectors, list_nos = counter.vectors, np.empty(len(rows), np.int32)
    for start in range(0, len(rows), vectors.block_rows):
        block = vectors.take(np.asarray(rows[start : start + vectors.block_rows], np.int64))
        found, _ = counter.assigner.assign(block, threads=counter.threads)
        list_nos[start : start + len(block)] = found
        yield len(block)
    return list_nos


def _split(splitter: _Splitter, large: _Large) -> Steps[Float32]:
    members = splitter.vectors.take(large.rows)
    options = splitter.options
    rng = np.random.default_rng([options.seed, 5, large.list_no])
    found = small_kmeans(
        members, large.parts, rng, spherical=options.spherical, threads=splitter.threads
    )
    yield 1
    return found
