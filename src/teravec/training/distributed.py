"""A pass of k-means on many workers: each assigns one part of the sample, and sums travel.

A pass may assign only some of the vectors, as ``schedule`` says.

The sample's blocks are cut into consecutive parts, one per worker. A worker reads its part from
the sample's file, and keeps it in memory if it fits. A pass has two steps.

1. **Assign.** The centroids come in pieces through the engine's store. Every worker assigns its
   vectors, and keeps list numbers and distances.
2. **Sum.** The lists are cut into pieces. The sums of a piece start at the first worker, which
   adds its vectors of these lists, and then travel from worker to worker. While one piece is at
   the second worker, the next piece is at the first. The caller turns the last worker's sums
   into means.

This is a reduce-scatter along a line instead of a ring, for one reason: every list's vectors are
added *in the order of the sample*, in the same blocks as in one process. With the compiled
kernels, the bytes of the result therefore depend neither on the number of workers nor on which
of them were lost. No worker holds the sums of all lists, only those of one piece.

Each worker receives the centroids once and the sums once, and sends the sums once, whatever the
number of workers. A worker's state follows from the pass's number and centroids. The replacement
of a lost worker assigns that part again, and the others repeat nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from teravec.engines.block_sizes import USUAL_SIZES, BlockSizes
from teravec.engines.engine import Actors, Engine, Held, Steps
from teravec.memory import require
from teravec.model.transform import Transform
from teravec.progress import Bar, NoBar
from teravec.training.options import KMeansOptions
from teravec.training.sample import Sample
from teravec.training.schedule import pick_rows
from teravec.training.sums import Gathered, Sums, assign_block, check_errors, iteration_assigner
from teravec.training.training_set import TrainingSet
from teravec.training.weights import SampleWeights

__all__ = ["Pass", "Passes", "distributed_passes"]

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

Pass = Callable[[Float32, int, Bar], Gathered]
"""One pass over the sample, given the centroids, the number of the pass and a bar."""

Lists = range | Int64
"""Some list numbers, ascending."""

Rows = slice | Int64
"""Some rows of a block."""

log = logging.getLogger(__name__)

_PARTS: WeakSet[_Part] = WeakSet()  # the parts in this process


@dataclass(frozen=True)
class Traffic:
    """Bytes of centroids and sums that a worker received and sent."""

    received_bytes: int
    sent_bytes: int


@dataclass(frozen=True)
class _Centroids:
    """The centroids of pass ``number``, in pieces."""

    number: int
    pieces: Sequence[Held[Float32]]


@dataclass(frozen=True)
class _PartMaker:
    """The maker of a worker's part of the sample: whole blocks, rows [start, stop)."""

    sample: Sample
    weights: SampleWeights | None
    transform: Float32 | None
    d: int
    block_rows: int
    rows: tuple[int, int]
    options: KMeansOptions
    memory_bytes: int

    def make(self) -> _Part:
        """Make the part; nothing is read yet."""
        return _Part(self)


class _Part:
    """A worker's part of the sample."""

    def __init__(self, maker: _PartMaker) -> None:
        self._options, self._rows, self._block_rows = maker.options, maker.rows, maker.block_rows
        self._vectors = TrainingSet(
            maker.sample, Transform.unpack(maker.transform, maker.d), maker.d, maker.weights
        )
        n = maker.rows[1] - maker.rows[0]
        self.memory_bytes = part_bytes(maker.options, maker.d, n)
        # After the loss of a worker, two parts may share one process.
        used = self.memory_bytes + sum(part.memory_bytes for part in _PARTS)
        self._keeps = maker.memory_bytes - used >= 4 * maker.d * n
        self.memory_bytes += 4 * maker.d * n if self._keeps else 0
        _PARTS.add(self)
        self._kept: dict[int, Float32] = {}
        self._assigned = -1
        self._list_nos, self._distances = np.empty(n, np.int32), np.empty(n, np.float32)
        self._received_bytes = self._sent_bytes = 0

    @property
    def traffic(self) -> Traffic:
        return Traffic(self._received_bytes, self._sent_bytes)

    def _blocks(self, number: int) -> Iterator[tuple[slice, Float32, Rows, Float32 | None]]:
        """Yield every block of the part, with the rows that the pass assigns.

        Yields
        ------
        at : slice
            Positions of these rows among all rows that the pass assigns in this part.
        block : ndarray
            Read from memory or from the sample's file.
        rows : slice or ndarray
            The rows of the block.
        weights : ndarray or None
            Their weights.
        """
        start, stop = self._rows
        looked = 0
        for row in range(start, stop, self._block_rows):
            end = min(stop, row + self._block_rows)
            block = self._kept.get(row)
            if block is None:
                block = self._vectors.read(row, end)
                if self._keeps:
                    self._kept[row] = block
            rows = pick_rows(self._options, self._vectors.n, number, row, end)
            weights = self._vectors.weights_of(row, end)
            at = slice(looked, looked + len(np.arange(end - row)[rows]))
            yield at, block, rows, None if weights is None else weights[rows]
            looked = at.stop

    def assign(self, centroids: _Centroids) -> Steps[float]:
        """Assign every vector to its list; return the agreement with an exact search."""
        # Reset this before writing any list number: a half-finished pass counts as none.
        self._assigned = -1
        pieces = [piece.get() for piece in centroids.pieces]
        self._received_bytes += sum(piece.nbytes for piece in pieces)
        assigner = iteration_assigner(np.concatenate(pieces), self._vectors, self._options)
        del pieces
        for at, block, rows, _ in self._blocks(centroids.number):
            self._list_nos[at], self._distances[at] = assign_block(
                block[rows],
                assigner,
                spherical=self._options.spherical,
                threads=self._options.threads,
            )
            yield at.stop - at.start
        self._assigned = centroids.number
        return assigner.agreement

    def add(self, lists: Lists, centroids: _Centroids, before: Held[Sums] | None) -> Sums:
        """Add this part's vectors to the sums of some lists."""
        if self._assigned != centroids.number:  # this worker replaces a lost one
            for _ in self.assign(centroids):
                pass
        if before is None:
            sums = Sums.zeros(len(lists), self._vectors.d)
        else:
            received = before.get()
            self._received_bytes += received.nbytes
            sums = received.copy()
        places = np.full(self._options.nlist, -1, np.int32)
        places[np.asarray(lists)] = np.arange(len(lists))
        for at, block, rows, weights in self._blocks(centroids.number):
            here = places[self._list_nos[at]]
            inside = np.flatnonzero(here >= 0)
            sums.add(
                block[np.arange(len(block))[rows][inside]],
                None if weights is None else weights[inside],
                here[inside],
                self._distances[at][inside],
                threads=self._options.threads,
            )
        self._sent_bytes += sums.nbytes
        return sums


def _assign(part: _Part, centroids: _Centroids) -> Steps[float]:
    return part.assign(centroids)


def _add(part: _Part, lists: Lists, centroids: _Centroids, before: Held[Sums] | None) -> Sums:
    return part.add(lists, centroids, before)


def _traffic(part: _Part, _: None) -> Steps[Traffic]:
    yield 0
    return part.traffic


def part_bytes(options: KMeansOptions, d: int, n: int, sizes: BlockSizes = USUAL_SIZES) -> int:
    """Return the memory of a worker with n vectors, without the vectors themselves."""
    # The centroids four times: as received, joined, and packed for exact and for grouped search.
    centroids = options.nlist * (4 * 4 * d + 64)
    sums = 4 * (sizes.sum_bytes + 8 * d)  # received, added to, one block's, and in sending
    blocks = 5 * sizes.training_block_bytes
    return centroids + sums + 8 * n + blocks + options.threads * (8 << 20)


@contextmanager
def distributed_passes(
    vectors: TrainingSet, options: KMeansOptions, engine: Engine
) -> Iterator[Passes]:
    """Keep the sample's parts on the engine's workers while the body runs.

    Raises
    ------
    MemoryLimitTooSmall
        The centroids and one block do not fit in a worker's share of the limit.
    """
    makers = list(_plan_parts(vectors, options, engine))
    largest = max(stop - start for start, stop in (maker.rows for maker in makers))
    require(
        part_bytes(makers[0].options, vectors.d, largest, vectors.sizes),
        engine.memory_bytes,
        f"a worker's part of {options.nlist:,} lists",
    )
    with engine.actors(makers) as actors:
        pieces = _plan_pieces(options.nlist, vectors.d, len(makers), vectors.sizes)
        passes = Passes(engine, actors, vectors.d, pieces)
        yield passes
        passes.report()


def _plan_parts(
    vectors: TrainingSet, options: KMeansOptions, engine: Engine
) -> Iterator[_PartMaker]:
    """Cut the sample into parts of whole blocks and nearly equal size."""
    rows = vectors.block_rows
    blocks = -(-vectors.n // rows)
    count = min(engine.workers, blocks)
    own = replace(options, threads=engine.threads)
    for i in range(count):
        start, stop = blocks * i // count * rows, min(blocks * (i + 1) // count * rows, vectors.n)
        yield _PartMaker(
            vectors.sample,
            vectors.weights,
            vectors.transform.pack(),
            vectors.d,
            rows,
            (start, stop),
            own,
            engine.memory_bytes,
        )


class Passes:
    """Runs passes; it keeps no centroids and no sums between them."""

    def __init__(self, engine: Engine, actors: Actors, d: int, pieces: list[range]) -> None:
        self._engine, self._actors, self._d, self._pieces = engine, actors, d, pieces

    def __call__(self, centroids: Float32, number: int, bar: Bar) -> Gathered:
        """Assign all parts, then sum piece by piece."""
        held = _Centroids(
            number, [self._engine.hold(centroids[p.start : p.stop]) for p in self._pieces]
        )
        agreements = self._actors.each(_assign, held, bar)
        nlist = len(centroids)
        counts, errors, means = np.empty(nlist), np.empty(nlist), centroids.copy()
        summed = self._actors.chain(_add, self._pieces, held)
        for piece, sums in zip(self._pieces, summed, strict=True):
            counts[piece.start : piece.stop] = sums.counts
            errors[piece.start : piece.stop] = sums.errors
            if np.isfinite(sums.errors).all():
                filled = np.flatnonzero(sums.counts)
                means[piece.start + filled] = sums.vectors[filled] / sums.counts[filled, None]
        check_errors(errors)
        largest = max(len(piece) for piece in self._pieces)

        def exact_means(list_nos: Int64) -> Any:
            """Sum these lists again, which is cheaper than keeping the sums of all lists."""
            parts = [list_nos[i : i + largest] for i in range(0, len(list_nos), largest)]
            sums = self._actors.chain(_add, parts, held)
            means = [s.vectors / s.counts[:, None] for s in sums]
            return np.concatenate(means) if means else np.empty((0, self._d))

        return Gathered(counts, errors, agreements[0], means, exact_means)

    def report(self) -> list[Traffic]:
        """Log the bytes that the workers received and sent."""
        traffic = self._actors.each(_traffic, None, NoBar())
        for number, each in enumerate(traffic):
            log.info(
                "k-means, part %d: %d bytes received, %d sent",
                number,
                each.received_bytes,
                each.sent_bytes,
            )
        return traffic


def _plan_pieces(nlist: int, d: int, parts: int, sizes: BlockSizes) -> list[range]:
    """Cut the lists into pieces that fit in memory, and enough of them to keep workers busy."""
    total = nlist * (8 * d + 16)
    ideal = max(-(-total // sizes.sum_bytes), min(2 * parts, total // sizes.least_sum_bytes))
    count = max(1, min(nlist, ideal))
    return [range(nlist * i // count, nlist * (i + 1) // count) for i in range(count)]
