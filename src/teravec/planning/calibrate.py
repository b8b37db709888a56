"""Measuring this machine, in about ten seconds, with 192 MiB of disk and a loopback connection."""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from teravec.errors import storage_errors
from teravec.evaluation.calibrating import CalibrationOptions
from teravec.evaluation.checkpoint import BestSoFar
from teravec.evaluation.exact_scan import ScanTask, plan_block, scan_rows
from teravec.kernels.accumulation import accumulate
from teravec.kernels.assignment import ITERATION_AGREEMENT, SHARD_AGREEMENT, CentroidAssigner
from teravec.kernels.codec import Codec, empty_ivf, encode, flat_quantizer, train_codec
from teravec.kernels.compiled_scanner import CompiledScanner
from teravec.kernels.faiss_scanner import FaissScanner
from teravec.kernels.hnsw import build_hnsw
from teravec.kernels.lists_in_memory import ListsInMemory
from teravec.kernels.metric import Metric
from teravec.kernels.pairs import Pairs
from teravec.kernels.sketch import Candidates, SketchScanner, encode_sketches
from teravec.planning.constants import Constants
from teravec.planning.model import truth_rows
from teravec.processors import default_threads
from teravec.selftest.vectors import make_vectors
from teravec.sources import open_source
from teravec.storage.disk_speed import measure_disk
from teravec.storage.files import byte_view, publishing, write_all

__all__ = ["calibrate"]

Float32 = npt.NDArray[np.float32]

_D = 96
_NLISTS = (1024, 4096, 16384)
_GRAPH_ROWS = 4096
_ENCODED_ROWS = 2048
_SCANNED = 1 << 16
_REFINED = 150
_TRUTH_BYTES = 1 << 30  # a memory limit that does not shrink the blocks
_REPEATS = 3


def calibrate(folder: Path | None = None, threads: int | None = None) -> Constants:
    """Measure the speeds that a prediction needs.

    Parameters
    ----------
    folder : Path, optional
        A folder on the disk to measure. Not given: a temporary directory.
    threads : int, optional
        Not given: all processors.

    Raises
    ------
    StorageError
        The folder cannot be written.
    """
    threads = threads or default_threads()
    vectors = make_vectors(1234, 96 * 1024, _D)
    exact_s, scale, exponent, share = _measure_assignment(vectors, threads)
    place = folder or Path(tempfile.gettempdir())
    with storage_errors(place, "write"), tempfile.TemporaryDirectory(dir=place) as name:
        disk = measure_disk(Path(name) / "speed")
        truth_flops = _measure_truth(vectors, Path(name) / "vectors.npy", threads)
        sync_s = _measure_best(lambda: _publish(Path(name) / "small"))
    return Constants(
        flops=2 * _D / exact_s,
        grouped_scale=scale,
        grouped_exponent=exponent,
        iteration_share=share,
        sum_dims=_measure_sums(vectors, threads),
        encode_scalar=_measure_encoding("sq8", vectors[:16384]),
        encode_pq=256 * _measure_encoding("pq12", vectors[:10240]),
        encode_rabitq=_measure_encoding("rabitq4", vectors[:10240]),
        scan_dims=_measure_scanning("sq8", vectors),
        scan_wide=_measure_scanning("fp16", vectors),
        scan_narrow=_measure_scanning("sq6", vectors),
        scan_tables=_measure_scanning("pq12", vectors) * 12 / _D,
        scan_rabitq=_measure_scanning("rabitq4", vectors),
        scan_sketch=_measure_sketches(vectors),
        encode_sketch=_measure_encoding_sketches(vectors),
        truth_flops=truth_flops,
        graph_dims=_measure_graph(vectors[:_GRAPH_ROWS]),
        move_bytes=_measure_moving(),
        read_bytes=disk.read_bytes_per_s,
        write_bytes=disk.write_bytes_per_s,
        read_latency_s=disk.read_latency_s,
        network_bytes=_measure_loopback(),
        sync_s=sync_s,
    )


def _measure_best(act: Callable[[], Any]) -> float:
    """Time several runs and return the least seconds: the speed without other load."""
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _measure_assignment(vectors: Float32, threads: int) -> tuple[float, float, float, float]:
    """Measure assignment.

    Returns
    -------
    tuple of float
        Thread-seconds of one exact comparison; scale and exponent of the number of comparisons
        as a power of nlist; an iteration's share of that number.
    """
    rows = vectors[:32768]
    exact = CentroidAssigner.exact(vectors[-2048:])
    exact_s = (
        _measure_best(lambda: exact.assign(rows, threads=threads)) * threads / (len(rows) * 2048)
    )

    def assigner(nlist: int, agreement: float) -> CentroidAssigner:
        return CentroidAssigner.auto(
            vectors[-nlist:], rows, seed=1, threads=threads, min_agreement=agreement
        )

    # Count the comparisons instead of timing them: a count does not depend on other load.
    grouped = [assigner(nlist, SHARD_AGREEMENT) for nlist in _NLISTS]
    works = np.array([each.work for each in grouped])
    exponent, logged = np.polyfit(np.log(_NLISTS), np.log(works), 1)
    seconds = _measure_best(lambda: grouped[1].assign(rows, threads=threads)) * threads
    overhead = max(1.0, seconds / (len(rows) * works[1] * exact_s))
    share = min(1.0, assigner(_NLISTS[-1], ITERATION_AGREEMENT).work / float(works[-1]))
    return exact_s, float(np.exp(logged)) * overhead, float(exponent), share


def _measure_sums(vectors: Float32, threads: int) -> float:
    lists = np.random.default_rng(1).integers(0, 4096, len(vectors)).astype(np.int32)
    sums, counts = np.zeros((4096, _D)), np.zeros(4096, np.int64)
    seconds = _measure_best(lambda: accumulate(vectors, lists, sums, counts, threads=threads))
    return vectors.size / seconds / threads


def _train(name: str, vectors: Float32) -> tuple[Any, Float32]:
    codec, centroids = Codec.parse(name), vectors[:64]
    lists, _ = CentroidAssigner.exact(centroids).assign(vectors[:10000], threads=1)
    quantizer = flat_quantizer(np.ascontiguousarray(centroids), Metric.L2)
    parameters = train_codec(codec, quantizer, Metric.L2, vectors[:10000], lists, 1)
    return empty_ivf(codec, quantizer, Metric.L2, parameters), parameters


def _measure_encoding(name: str, rows: Float32) -> float:
    ivf, _ = _train(name, rows)
    rows = rows[:_ENCODED_ROWS]
    lists = np.arange(len(rows), dtype=np.int32) % 64
    return rows.size / _measure_best(lambda: encode(ivf, rows, lists, 1))


def _measure_scanning(name: str, vectors: Float32) -> float:
    """Scan eight lists of codes for one query, on one thread; return dimensions a second."""
    ivf, parameters = _train(name, vectors)
    rows, lists = vectors[:_SCANNED], np.arange(_SCANNED, dtype=np.int32) // (_SCANNED // 8)
    held = _in_memory(encode(ivf, rows, lists, 1))
    query = np.ascontiguousarray(vectors[:1])
    pairs = Pairs.of(held.list_nos[None], np.zeros((1, 8), np.float32))
    scanner: CompiledScanner | FaissScanner = FaissScanner(ivf, Metric.L2)
    if CompiledScanner.scans(codec := Codec.parse(name)):
        scanner = CompiledScanner(codec, Metric.L2, vectors[:64], parameters)
    seconds = _measure_best(lambda: scanner.top_k(query, 10, 1).add(held, pairs))
    return rows.size / seconds


def _in_memory(codes: npt.NDArray[np.uint8]) -> ListsInMemory:
    """Hold codes (n, code_size) as eight lists of equal size."""
    lists, count = np.arange(8, dtype=np.int64), len(codes) // 8
    sizes = np.full(8, count, np.int64)
    return ListsInMemory(lists, sizes, lists * count * codes.shape[1], codes.reshape(-1))


def _measure_sketches(vectors: Float32) -> float:
    """Scan eight lists of sketches of 2 bits for one query, on one thread."""
    rows, centroids = vectors[:_SCANNED], np.ascontiguousarray(vectors[:8])
    residuals = rows - np.repeat(centroids, _SCANNED // 8, axis=0)
    held = _in_memory(encode_sketches(residuals, 2, 1))
    query = np.ascontiguousarray(vectors[-1:])
    distances = ((centroids - query) ** 2).sum(1)[None].astype(np.float32)
    pairs = Pairs.of(held.list_nos[None], distances)
    scanner = SketchScanner(centroids, 2, Metric.L2)
    seconds = _measure_best(
        lambda: scanner.scan(query, held, pairs, Candidates.none(1, _REFINED), 1)
    )
    return rows.size / seconds


def _measure_encoding_sketches(vectors: Float32) -> float:
    rows = vectors[:_ENCODED_ROWS]
    return rows.size / _measure_best(lambda: encode_sketches(rows, 2, 1))


def _measure_truth(vectors: Float32, path: Path, threads: int) -> float:
    """Compare some vectors exactly with as many queries as a calibration has."""
    np.save(path, vectors)
    source, options = open_source(path), CalibrationOptions()
    queries = np.ascontiguousarray(vectors[:: len(vectors) // options.queries][: options.queries])
    task = ScanTask(queries, max(options.ks) + 1, Metric.L2, threads, None)
    block_rows = plan_block(source, task, _TRUTH_BYTES)

    def scan() -> None:
        best = BestSoFar.none(len(queries), task.k)
        for _ in scan_rows(source, task, best, source.ntotal, block_rows):
            pass

    seconds = _measure_best(scan)
    path.unlink()
    return 2 * _D * len(queries) * truth_rows(source.ntotal) / seconds / threads


def _measure_graph(centroids: Float32) -> float:
    started = time.perf_counter()
    build_hnsw(np.ascontiguousarray(centroids))
    return float(len(centroids) * np.log2(len(centroids)) * _D / (time.perf_counter() - started))


def _measure_moving() -> float:
    """Gather codes in random order, and compute their checksum."""
    rows = np.zeros((1 << 18, 64), np.uint8)
    order = np.random.default_rng(3).permutation(len(rows))

    def move() -> None:
        xxhash.xxh3_64_intdigest(byte_view(rows[order]))

    return rows.nbytes / _measure_best(move)


def _publish(path: Path) -> None:
    with publishing(path) as file:
        write_all(file, b"small", 0)


def _measure_loopback() -> float:
    """Measure bytes per second over one loopback connection, received into one buffer."""
    total, piece = 256 << 20, bytes(1 << 20)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def send() -> None:
            with socket.create_connection(server.getsockname()) as client:
                for _ in range(total // len(piece)):
                    client.sendall(piece)

        sender = threading.Thread(target=send, name="teravec-loopback")
        started = time.perf_counter()
        sender.start()
        connection, _ = server.accept()
        with connection:
            buffer, received = bytearray(1 << 20), 0
            while received < total and (count := connection.recv_into(buffer)):
                received += count
        seconds = time.perf_counter() - started
        sender.join()
    return received / seconds
