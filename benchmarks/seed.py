"""The pipeline that teravec replaces, in plain Faiss: one timed function per step.

The steps, their settings and their order are those of the scripts in Faiss's
``benchs/distributed_ondisk``: k-means (``distributed_kmeans.py``), the empty trained index
(``make_trained_index.py``), shards (``make_index_vslice.py``), the on-disk merge
(``merge_to_ondisk.py``), search (``combined_index.py``). Where Faiss has the step in
``faiss.contrib``, that is called.

A step that must choose its BLAS before import, or leaves memory mapped, also runs as a child
process: ``python -m benchmarks.seed STEP JSON`` prints the step's result as JSON.
"""

import contextlib
import ctypes
import json
import mmap
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.data import Floats, Ids, open_matrix
from benchmarks.measure import ColdRun, DropMethod, blas_kernels, cold_queries, run_child

HNSW_M = 32
EF_CONSTRUCTION = 200
EF_SEARCH = 1024
ROTATION_SEED = 1234
ADD_BLOCK = 1 << 18
CODECS = {
    "SQ4": faiss.ScalarQuantizer.QT_4bit,
    "SQ6": faiss.ScalarQuantizer.QT_6bit,
    "SQ8": faiss.ScalarQuantizer.QT_8bit,
    "FP16": faiss.ScalarQuantizer.QT_fp16,
}


@dataclass(frozen=True)
class KMeansRun:
    """One value per iteration, and the BLAS that was used.

    ``seconds`` is whole iterations. ``objective`` is the sum of squared distances to the
    centroids that the iteration began with, so the final centroids' is not in it: see
    `objective_of`.
    """

    seconds: list[float]
    objective: list[float]
    imbalance: list[float]
    blas: list[str]

    @property
    def median_s(self) -> float:
        """Median seconds of an iteration."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class MergeRun:
    """Seconds of the merge itself, seconds to sync what it wrote, bytes of lists written."""

    merge_s: float
    sync_s: float
    data_bytes: int

    @property
    def bytes_per_s(self) -> float:
        """Bytes a second, until they are on the disk."""
        return self.data_bytes / (self.merge_s + self.sync_s)


@dataclass(frozen=True)
class SearchOptions:
    """How an index is opened and searched; the defaults are the scripts'.

    ``parallel_mode`` 1 shares one query's lists among the threads, 0 shares the queries.
    ``prefetch_threads`` None leaves the 32 of ``OnDiskInvertedLists``. ``random_access`` tells
    the kernel so (MADV_RANDOM), which Faiss does not: no read-ahead then.
    """

    nprobe: int = 16
    k: int = 10
    random_access: bool = False
    ef_search: int = EF_SEARCH
    parallel_mode: int = 1
    prefetch_threads: int | None = None


def seed_kmeans(
    x: Floats, nlist: int, niter: int = 10, seed: int = 1234
) -> tuple[Floats, KMeansRun]:
    """Run ``faiss.contrib.clustering.kmeans`` on a ``DatasetAssign``; return centroids too."""
    with contextlib.redirect_stdout(sys.stderr):  # it reports by print
        from faiss.contrib.clustering import DatasetAssign, kmeans

        centroids, stats = kmeans(
            nlist, DatasetAssign(x), niter=niter, seed=seed, verbose=False, return_stats=True
        )
    since_start = [0.0] + [float(each["time"]) for each in stats]
    run = KMeansRun(
        seconds=np.diff(since_start).tolist(),
        objective=[float(each["obj"]) for each in stats],
        imbalance=[float(each["imbalance_factor"]) for each in stats],
        blas=blas_kernels(),
    )
    return centroids, run


def seed_kmeans_child(
    x: Path, nlist: int, niter: int, out: Path, coretype: str | None = None, seed: int = 1234
) -> tuple[Floats, KMeansRun]:
    """Run `seed_kmeans` in a process of its own, on a matrix file.

    Parameters
    ----------
    x : Path
        ``.fbin`` or ``.npy``; read into memory before the clock starts.
    out : Path
        ``.npy`` file for the centroids.
    coretype : str, optional
        ``OPENBLAS_CORETYPE`` for that process alone, `measure.right_coretype` being the cure;
        None is Faiss as shipped, whatever this process's own environment says.
    """
    arguments = {"x": str(x), "nlist": nlist, "niter": niter, "out": str(out), "seed": seed}
    found = _child("kmeans", arguments, {"OPENBLAS_CORETYPE": coretype})
    return np.load(out, allow_pickle=False), KMeansRun(**found)


def objective_of(x: Floats, centroids: Floats) -> float:
    """Return the sum of squared distances of x to its nearest centroids, exact, in float64."""
    distances, _ = faiss.knn(x, np.ascontiguousarray(centroids, dtype=np.float32), 1)
    return float(distances.sum(dtype=np.float64))


def seed_empty_index(d: int, centroids: Floats, xt: Floats, codec: str = "SQ6") -> Any:
    """Build the trained, empty index: random rotation, HNSW32 over the centroids, a codec.

    Parameters
    ----------
    centroids : ndarray of shape (nlist, d)
        Before the rotation, as k-means left them.
    xt : ndarray of shape (nt, d)
        Trains the codec. Its residuals cost an assignment at efSearch 1024 each, of at most
        100,000 rows (Faiss samples); the scripts gave 256,000.
    """
    rotation = faiss.RandomRotationMatrix(d, d)
    rotation.init(ROTATION_SEED)
    quantizer = faiss.IndexHNSWFlat(d, HNSW_M)
    quantizer.hnsw.efConstruction = EF_CONSTRUCTION
    quantizer.hnsw.efSearch = EF_SEARCH
    quantizer.add(rotation.apply(np.ascontiguousarray(centroids, dtype=np.float32)))
    ivf = faiss.IndexIVFScalarQuantizer(quantizer, d, len(centroids), CODECS[codec])
    index = faiss.IndexPreTransform(rotation, ivf)
    index.train(xt)
    return index


def seed_shard(
    index: Any, x: NDArray, ids: Ids, block: int = ADD_BLOCK, ef_search: int = EF_SEARCH
) -> float:
    """Add the rows of x to an index by blocks; return vectors a second.

    ``x`` may be mapped from a file and of any dtype; each block becomes float32 as it is added.
    """
    set_ef_search(index, ef_search)
    start = time.perf_counter()
    for row in range(0, len(x), block):
        rows = np.ascontiguousarray(x[row : row + block], dtype=np.float32)
        index.add_with_ids(rows, np.ascontiguousarray(ids[row : row + block], dtype=np.int64))
    return len(x) / (time.perf_counter() - start)


def seed_write_shard(index: Any, path: Path) -> float:
    """Write a filled index as a shard, without its quantizer's vectors; return seconds.

    The index is of no further use afterwards.
    """
    start = time.perf_counter()
    faiss.extract_index_ivf(index).quantizer.reset()
    faiss.write_index(index, str(path))
    _sync(path)
    return time.perf_counter() - start


def seed_shards(
    trained: Path, x: NDArray, ranges: Sequence[range], folder: Path, ef_search: int = EF_SEARCH
) -> tuple[list[Path], float]:
    """Make one shard file per range of rows; return them and the vectors a second of adding."""
    paths, seconds = [], 0.0
    for shard_no, rows in enumerate(ranges):
        index = faiss.read_index(str(trained))
        part = x[rows.start : rows.stop]
        rate = seed_shard(index, part, np.arange(rows.start, rows.stop), ef_search=ef_search)
        seconds += len(part) / rate
        path = folder / f"seed-shard-{shard_no:05d}.faissindex"
        seed_write_shard(index, path)
        paths.append(path)
    return paths, sum(len(rows) for rows in ranges) / seconds


def assignment_agreement(index: Any, x: Floats, ef_search: int = EF_SEARCH) -> float:
    """Return the share of rows whose list is that of the exactly nearest centroid."""
    set_ef_search(index, ef_search)
    ivf, rotated = _rotated(index, x)
    centroids = ivf.quantizer.reconstruct_n(0, ivf.nlist)
    _, exact = faiss.knn(rotated, centroids, 1)
    _, found = ivf.quantizer.search(rotated, 1)
    return float((exact == found).mean())


def seed_merge(trained: Path, shards: Sequence[Path], out: Path) -> MergeRun:
    """Merge shards by ``faiss.contrib.ondisk.merge_ondisk``, in a process of its own.

    Faiss's function never unmaps the shards, and a mapped file cannot leave the page cache.
    The lists go to `data_path` of ``out``, the rest to ``out``. Neither may exist.
    """
    for path in (out, data_path(out)):
        if path.exists():
            raise FileExistsError(f"{path}: exists; remove it first")
    arguments = {"trained": str(trained), "shards": [str(p) for p in shards], "out": str(out)}
    return MergeRun(**_child("merge", arguments))


def data_path(index_path: Path) -> Path:
    """Return where a merged index keeps its lists."""
    return index_path.with_name(index_path.name + ".ivfdata")


def seed_open(path: Path, options: SearchOptions, in_ram: bool = False) -> Any:
    """Open a merged index: its lists mapped from disk, as Faiss ships, or copied into memory."""
    index = faiss.read_index(str(path))
    ivf: Any = faiss.extract_index_ivf(index)
    if in_ram:
        lists = _lists_in_ram(ivf.invlists, ivf.nlist, ivf.code_size)
        ivf.replace_invlists(lists, True)
        lists.this.disown()
    elif options.prefetch_threads is not None:
        mapped: Any = faiss.downcast_InvertedLists(ivf.invlists)
        mapped.prefetch_nthread = options.prefetch_threads
    if options.random_access:
        _advise_random(faiss.downcast_InvertedLists(ivf.invlists))
    ivf.parallel_mode = options.parallel_mode
    ivf.nprobe = options.nprobe
    set_ef_search(index, options.ef_search)
    return index


def _advise_random(lists: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    address, length = ctypes.c_void_p(int(lists.ptr)), ctypes.c_size_t(lists.totsize)
    if libc.madvise(address, length, mmap.MADV_RANDOM) != 0:
        raise OSError(ctypes.get_errno(), "madvise failed")


def seed_search(index: Any, xq: Floats, k: int, nprobe: int) -> tuple[Floats, Ids]:
    """Search a batch; return distances and ids, each of shape (nq, k)."""
    faiss.extract_index_ivf(index).nprobe = nprobe
    return cast(tuple[Floats, Ids], index.search(xq, k))


def seed_cold(
    path: Path, xq: Floats, options: SearchOptions, method: DropMethod = DropMethod.AUTO
) -> ColdRun:
    """Time single queries on the mapped lists, the page cache dropped and the index reopened."""
    return cold_queries(
        lambda: seed_open(path, options),
        lambda index, query: index.search(query, options.k),
        [data_path(path)],
        xq,
        method,
    )


def seed_list_bytes(index: Any, xq: Floats, nprobe: int) -> NDArray[np.int64]:
    """Return the bytes (codes and ids) of the lists that each query visits, shape (nq,)."""
    ivf, rotated = _rotated(index, xq)
    _, list_nos = ivf.quantizer.search(rotated, nprobe)
    sizes = np.array([ivf.invlists.list_size(i) for i in range(ivf.nlist)], dtype=np.int64)
    held = np.where(list_nos >= 0, sizes[list_nos], 0).sum(axis=1)
    return cast(NDArray[np.int64], held * (ivf.code_size + np.dtype(np.int64).itemsize))


def set_ef_search(index: Any, ef_search: int) -> None:
    """Set efSearch of an index's HNSW coarse quantizer; no effect on other quantizers."""
    quantizer = faiss.downcast_index(faiss.extract_index_ivf(index).quantizer)
    if isinstance(quantizer, faiss.IndexHNSW):
        quantizer.hnsw.efSearch = ef_search


def _rotated(index: Any, x: Floats) -> tuple[Any, Floats]:
    if isinstance(index, faiss.IndexPreTransform):
        chain: Any = index.chain  # Faiss's stubs call it a list
        for position in range(chain.size()):
            x = chain.at(position).apply(x)
    return faiss.extract_index_ivf(index), x


def _lists_in_ram(source: Any, nlist: int, code_size: int) -> Any:
    lists = faiss.ArrayInvertedLists(nlist, code_size)
    for list_no in range(nlist):
        size = source.list_size(list_no)
        if size:
            lists.add_entries(list_no, size, source.get_ids(list_no), source.get_codes(list_no))
    return lists


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _kmeans_step(x: str, nlist: int, niter: int, out: str, seed: int) -> KMeansRun:
    matrix = np.array(open_matrix(Path(x)), dtype=np.float32)
    centroids, run = seed_kmeans(matrix, nlist, niter, seed)
    np.save(out, centroids, allow_pickle=False)
    return run


def _merge_step(trained: str, shards: Iterable[str], out: str) -> MergeRun:
    from faiss.contrib.ondisk import merge_ondisk

    index, data = faiss.read_index(trained), data_path(Path(out))
    start = time.perf_counter()
    merge_ondisk(index, list(shards), str(data))
    merged = time.perf_counter()
    _sync(data)
    synced = time.perf_counter()
    faiss.write_index(index, out)
    return MergeRun(merged - start, synced - merged, data.stat().st_size)


_STEPS: dict[str, Callable[..., KMeansRun | MergeRun]] = {
    "kmeans": _kmeans_step,
    "merge": _merge_step,
}


def _child(
    step: str, arguments: dict[str, Any], env: dict[str, str | None] | None = None
) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.seed", step, json.dumps(arguments)]
    found: dict[str, Any] = json.loads(run_child(command, env).stdout)
    return found


def _main(step: str, arguments: str) -> None:
    result_fd = os.dup(1)
    os.dup2(2, 1)  # Faiss's C++ and contrib print their progress; the result goes alone
    run = _STEPS[step](**json.loads(arguments))
    with os.fdopen(result_fd, "w") as result:
        json.dump(asdict(run), result)


if __name__ == "__main__":
    _main(*sys.argv[1:])
