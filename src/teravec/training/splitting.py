"""Splitting the centroids of lists that would grow too large.

A query pays for the largest of its lists, not for the mean one: fewer than ten lists of 10^8
vectors once turned a search of 2 s into one of 120 s. So, after k-means, the sample's lists are
counted and scaled to the whole source, and a list above the cap is split by a small k-means over
its own sample vectors. One part takes the list's number, the others follow after the last list:
nlist grows. Splitting goes on in rounds, as parts take vectors from lists beside them too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.kernels.accumulation import accumulate
from teravec.kernels.assignment import CentroidAssigner
from teravec.kernels.metric import normalized
from teravec.training.kmeans import imbalance
from teravec.training.training_set import TrainingSet

__all__ = ["ListsEstimate", "SplitOptions", "estimate_lists", "split_large_lists"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
MakeAssigner = Callable[[Float32], CentroidAssigner]

log = logging.getLogger(__name__)

_COUNTED_ROWS = 1 << 22  # of the sample, evenly: enough to find lists of 10^-5 of all vectors
_FEWEST = 16  # vectors of a list below which its size is a guess, not an estimate
_FILL = 0.75  # of the cap that a part is to have: parts are not equal
_PART_VECTORS = 64  # that place a part's centroid, as k-means has of a list
_MOST_PARTS = 256  # of one list in one round
_ROUND_BYTES = 64 << 20  # of vectors held in one round; the largest lists go first
_MOST_ROUNDS = 24
_STEPS = 8  # of the small k-means


@dataclass(frozen=True)
class SplitOptions:
    """What is too large.

    Parameters
    ----------
    max_vectors : int
        Of a list of the finished index.
    ntotal : int
        Vectors of the source.
    seed, threads : int
    spherical : bool
        Centroids of unit length, for cosine.
    """

    max_vectors: int
    ntotal: int
    seed: int
    threads: int
    spherical: bool


@dataclass(frozen=True)
class ListsEstimate:
    """Lists' sizes as the sample tells them: what ``model.json`` says of them.

    Parameters
    ----------
    counted : int
        Vectors of the sample that were assigned.
    imbalance : float
    largest : int
        Vectors expected in the largest list.
    largest_bytes : int
        Codes and ids of it.
    max_bytes : int or None
        The cap that was asked for.
    above : int
        Lists expected above it; for example many copies of one vector, which nothing splits.
    added : int
        Lists that splitting added to those asked for.
    rounds : int
    """

    counted: int
    imbalance: float
    largest: int
    largest_bytes: int
    max_bytes: int | None = None
    above: int = 0
    added: int = 0
    rounds: int = 0

    def content(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def estimate_lists(
    counts: Int64, ntotal: int, row_bytes: int, *, max_bytes: int | None = None, added: int = 0,
    rounds: int = 0,
) -> ListsEstimate:  # fmt: skip
    """Scale the lists' counts in a part of the sample to the whole source."""
    counted = int(counts.sum())
    sizes = counts * (ntotal / max(1, counted))
    above = 0
    if max_bytes is not None:
        above = int((sizes * row_bytes > max_bytes).sum())
    largest = round(float(sizes.max()))
    return ListsEstimate(
        counted, imbalance(counts), largest, largest * row_bytes, max_bytes, above, added, rounds
    )


def split_large_lists(
    vectors: TrainingSet, centroids: Float32, options: SplitOptions, make: MakeAssigner
) -> tuple[Float32, Int64, CentroidAssigner, int]:
    """Split lists until none is expected above the cap, or none of those can be split.

    Nothing is kept on disk: a run that was killed splits again from k-means' last checkpoint,
    with the same result.

    Parameters
    ----------
    vectors : TrainingSet
    centroids : ndarray of shape (nlist, d), float32
    options : SplitOptions
    make : callable
        Makes what assigns the sample to given centroids.

    Returns
    -------
    centroids : ndarray of shape (at least nlist, d), float32
    counts : ndarray of int64
        Vectors of the counted part of the sample in each list.
    assigner : CentroidAssigner
        Of these centroids, by ``make``.
    rounds : int
    """
    whole: set[int] = set()  # lists that no split makes smaller
    for rounds in range(_MOST_ROUNDS):
        assigner = make(centroids)
        counts = count_lists(vectors, assigner, options.threads)
        parts = _parts(counts, whole, options, vectors.d)
        if not parts or rounds == _MOST_ROUNDS - 1:
            break
        held = _members(vectors, assigner, counts, parts, options.threads)
        added = []
        for list_no, members in held.items():
            found = _split(members, parts[list_no], options, list_no)
            if len(found) < 2:
                whole.add(list_no)
                continue
            centroids[list_no] = found[0]
            added.append(found[1:])
        log.info(
            "splitting: round %d, %d of %d lists above %d vectors split into %d more",
            rounds + 1, len(added), len(parts), options.max_vectors, sum(map(len, added)),
        )  # fmt: skip
        if added:
            centroids = np.concatenate([centroids, *added])
    return centroids, counts, assigner, rounds


def count_lists(vectors: TrainingSet, assigner: CentroidAssigner, threads: int) -> Int64:
    """How many vectors of the sample, or of an even part of a large one, are in each list."""
    counts = np.zeros(assigner.nlist, np.int64)
    for block in vectors.blocks():
        list_nos, _ = assigner.assign(block[:: _stride(vectors)], threads=threads)
        counts += np.bincount(list_nos, minlength=assigner.nlist)
    return counts


def _stride(vectors: TrainingSet) -> int:
    return max(1, vectors.n // _COUNTED_ROWS)


def _parts(counts: Int64, whole: set[int], options: SplitOptions, d: int) -> dict[int, int]:
    """Into how many parts to split which lists now, the largest first, within the memory."""
    cap = options.max_vectors * int(counts.sum()) / options.ntotal
    large = np.flatnonzero((counts > cap) & (counts >= _FEWEST))
    large = large[np.argsort(-counts[large], kind="stable")]
    budget, parts = _ROUND_BYTES, dict[int, int]()
    for list_no in large.tolist():
        if list_no in whole:
            continue
        wanted = min(_MOST_PARTS, max(2, ceil(counts[list_no] / (_FILL * cap))))
        budget -= _PART_VECTORS * wanted * 4 * d
        if parts and budget < 0:
            break
        parts[list_no] = wanted
    return parts


def _members(
    vectors: TrainingSet, assigner: CentroidAssigner, counts: Int64, parts: dict[int, int],
    threads: int,
) -> dict[int, Float32]:  # fmt: skip
    """Some vectors of each list that is split: evenly out of it, as sources may be sorted."""
    wanted = np.zeros(len(counts), np.int64)
    for list_no, count in parts.items():
        wanted[list_no] = count * _PART_VECTORS
    every = np.maximum(1, counts // np.maximum(1, wanted))
    seen = dict.fromkeys(parts, 0)
    held: dict[int, list[Float32]] = {list_no: [] for list_no in parts}
    for block in vectors.blocks():
        rows = block[:: _stride(vectors)]
        list_nos, _ = assigner.assign(rows, threads=threads)
        at = np.flatnonzero(wanted[list_nos])
        at = at[np.argsort(list_nos[at], kind="stable")]
        numbers, starts = np.unique(list_nos[at], return_index=True)
        for list_no, members in zip(numbers.tolist(), np.split(at, starts[1:]), strict=True):
            step = int(every[list_no])
            first = -seen[list_no] % step
            held[list_no].append(rows[members[first::step]])
            seen[list_no] += len(members)
    return {list_no: np.concatenate(pieces) for list_no, pieces in held.items()}


def _split(members: Float32, parts: int, options: SplitOptions, list_no: int) -> Float32:
    """A small k-means over a list's vectors; parts without vectors are left out."""
    distinct = np.unique(members, axis=0)
    if len(distinct) < 2:
        return distinct
    rng = np.random.default_rng([options.seed, 5, list_no])
    picked = rng.choice(len(distinct), min(parts, len(distinct)), replace=False)
    centroids = distinct[np.sort(picked)]
    for _ in range(_STEPS):
        list_nos, _ = CentroidAssigner.exact(centroids).assign(members, threads=options.threads)
        sums, counts = np.zeros(centroids.shape), np.zeros(len(centroids), np.int64)
        accumulate(members, list_nos, sums, counts, threads=options.threads)
        used = counts > 0
        centroids = (sums[used] / counts[used, None]).astype(np.float32)
        if options.spherical:
            centroids = normalized(centroids)
    return centroids
