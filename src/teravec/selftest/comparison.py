"""Running every route on every set of vectors, and judging the results."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from teravec.errors import TeravecError
from teravec.index.opened import OpenedIndex
from teravec.kernels.assignment import CentroidAssigner
from teravec.kernels.reference import faiss_kmeans
from teravec.model.list_sizes import imbalance
from teravec.processors import default_threads
from teravec.report import Report
from teravec.selftest.routes import Route, Task
from teravec.selftest.vectors import make_hard, write_npy

__all__ = ["SelfTest", "SelfTestResult", "compare"]

Float32 = npt.NDArray[np.float32]

REFERENCE = "plain Faiss"
_LIST_ROWS = 156  # vectors per list: 256 lists of 40,000 vectors
_FEWEST_LISTS = 64  # with fewer lists, equally good runs differ too much
_NITER, _SEED = 10, 1234
_WORSE_THAN_FAISS = 0.02
_FROM_EACH_OTHER = 1e-3  # between our routes, which differ only in the order of additions


@dataclass(frozen=True)
class SelfTestResult:
    """The result of one route on one set of vectors.

    Parameters
    ----------
    set, route : str
    objective : float
        Exact sum of squared distances to the nearest centroid; nan without a result.
    imbalance : float
    seconds : float
        Seconds of a k-means iteration.
    empty : int
        Number of empty lists.
    note : str
        Why the route did not run.
    fault : str
        What is wrong with the result; empty if nothing is.
    """

    set: str
    route: str
    objective: float = float("nan")
    imbalance: float = float("nan")
    seconds: float = float("nan")
    empty: int = 0
    note: str = ""
    fault: str = ""


class SelfTest(Report[SelfTestResult]):
    """The results of all routes."""

    @property
    def sound(self) -> bool:
        """Whether no route is wrong."""
        return not any(result.fault for result in self)


def compare(
    vectors: Float32, routes: list[Route], threads: int | None = None
) -> Iterator[SelfTestResult]:
    """Run every route on the vectors, and on a hard set made from them.

    The reference is Faiss's k-means. A route's objective is wrong if it is 2 % above the
    reference, or 0.1 % away from our first route: all routes use the same seed and sample. No
    list may be empty, also in the hard set.
    """
    threads = threads or default_threads()
    for name, x in (("vectors", vectors), ("half of them identical", make_hard(vectors))):
        with tempfile.TemporaryDirectory(prefix="teravec-selftest-") as folder:
            yield from _compare_on(name, x, routes, threads, Path(folder))


def _compare_on(
    name: str, x: Float32, routes: list[Route], threads: int, folder: Path
) -> Iterator[SelfTestResult]:
    nlist = max(_FEWEST_LISTS, len(x) // _LIST_ROWS)
    task = Task(write_npy(folder / "x.npy", x), len(x), nlist, _NITER, _SEED, threads)
    centroids, seconds = faiss_kmeans(x, nlist, niter=_NITER, seed=_SEED, threads=threads)
    reference, sizes = _measure(x, centroids, threads)
    yield SelfTestResult(
        name, REFERENCE, reference, imbalance(sizes), seconds, int((sizes == 0).sum())
    )
    first = None
    for number, route in enumerate(routes):
        if route.missing:
            yield SelfTestResult(name, route.name, note=route.missing)
            continue
        out = folder / f"route-{number}"
        try:
            seconds = route.build(task, out) / _NITER
        except TeravecError as error:
            yield SelfTestResult(name, route.name, fault=str(error))
            continue
        with OpenedIndex(out) as index:
            objective, _ = _measure(x, np.array(index.model.centroids), threads)
            sizes = index.runs.list_sizes
        empty = int((sizes == 0).sum())
        fault = _find_fault(objective, reference, first, empty)
        first = objective if first is None else first
        yield SelfTestResult(
            name, route.name, objective, imbalance(sizes), seconds, empty, fault=fault
        )


def _measure(x: Float32, centroids: Float32, threads: int) -> tuple[float, npt.NDArray[np.int64]]:
    list_nos, distances = CentroidAssigner.exact(centroids).assign(x, threads=threads)
    counts = np.bincount(list_nos, minlength=len(centroids))
    return float(distances.sum(dtype=np.float64)), counts


def _find_fault(objective: float, reference: float, first: float | None, empty: int) -> str:
    if not objective <= (1 + _WORSE_THAN_FAISS) * reference:
        return f"objective {objective / reference:.4f} times that of {REFERENCE}"
    if first is not None and not abs(objective - first) <= _FROM_EACH_OTHER * first:
        return f"objective {objective / first:.4f} times that of the first route"
    return f"{empty:,} lists are empty" if empty else ""
