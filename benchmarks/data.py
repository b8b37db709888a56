"""Vectors, queries and exact neighbours for the benchmarks, made once and kept in files.

Two kinds of set: synthetic ones of any size, written piece by piece in bounded memory, and the
two real sets of a shared folder, used where they lie.

Files are those of big-ann-benchmarks, little-endian: ``.fbin`` and ``.u8bin`` hold uint32 n,
uint32 d, then the rows; ``.gt100.bin`` holds uint32 n, uint32 k, then all ids as uint32, then all
squared L2 distances as float32.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import fsync
from pathlib import Path
from typing import Any, BinaryIO

import faiss
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

HEADER_BYTES = 8
PIECE = 1 << 16  # rows made at once: about 150 MB of temporaries at d = 96
LATENT = 10  # intrinsic dimension of the synthetic sets
DTYPES: dict[str, np.dtype[Any]] = {
    ".fbin": np.dtype("<f4"),
    ".u8bin": np.dtype("u1"),
    ".ibin": np.dtype("<i4"),
}


@dataclass(frozen=True)
class Dataset:
    """One base, its queries and their exact neighbours, all in files."""

    name: str
    base: Path
    query: Path
    truth: Path

    def matrix(self) -> NDArray:
        """Map the base in its own dtype, shape (n, d); nothing is read yet."""
        return open_matrix(self.base)

    def blocks(self, rows: int = PIECE) -> Iterator[tuple[int, Floats]]:
        """Yield (first row, float32 block of at most ``rows``) over the base, in order."""
        x = self.matrix()
        for start in range(0, len(x), rows):
            yield start, np.ascontiguousarray(x[start : start + rows], dtype=np.float32)

    def sample(self, n: int, seed: int = 1234) -> Floats:
        """Return ``n`` rows of the base, uniform without replacement, in row order."""
        x = self.matrix()
        rows = np.sort(np.random.default_rng(seed).choice(len(x), min(n, len(x)), replace=False))
        return np.ascontiguousarray(x[rows], dtype=np.float32)

    def queries(self) -> Floats:
        """Return all queries as float32, shape (nq, d)."""
        return np.ascontiguousarray(open_matrix(self.query), dtype=np.float32)

    def neighbours(self) -> tuple[Floats, Ids]:
        """Return the exact squared distances and ids, each of shape (nq, k)."""
        return read_truth(self.truth)


@dataclass(frozen=True)
class Synthetic:
    """What a synthetic set is made from; equal fields give equal bytes.

    A shorter base is a prefix of a longer one of the same seed and dimension, and the queries do
    not depend on its length.
    """

    d: int = 96
    nb: int = 1_000_000
    nq: int = 1_000
    seed: int = 1338


def synthetic(folder: Path, spec: Synthetic, k: int = 100, *, truth: bool = True) -> Dataset:
    """Make a synthetic set under ``folder``, or what of it is missing.

    The recipe is that of ``faiss.contrib.datasets.SyntheticDataset`` (normal latent vectors of
    10 dimensions, a random projection to d, the sine of randomly scaled coordinates), drawn
    per piece from its own seed, so that the set is never whole in memory. The numbers therefore
    differ from Faiss's, the distribution does not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"synthetic-d{spec.d}-s{spec.seed}"
    base = folder / f"{stem}-{spec.nb}.base.fbin"
    query = folder / f"{stem}-{spec.nq}.query.fbin"
    _make_matrix(base, spec, stream=1, n=spec.nb)
    _make_matrix(query, spec, stream=2, n=spec.nq)
    known = folder / f"{stem}-{spec.nb}-{spec.nq}.gt{k}.bin"
    dataset = Dataset(f"synthetic {spec.nb} x {spec.d}", base, query, known)
    if truth and not known.exists():
        write_truth(known, *exact_neighbours(dataset, k))
    return dataset


def sift_photos(shared: Path) -> Dataset:
    """Return the real set of 301,217 SIFT descriptors, uint8 x 128, of a shared folder."""
    stem = "sift-photos"
    return _shared(shared, stem, f"{stem}.base.u8bin", f"{stem}.query.u8bin")


def minilm_sentences(shared: Path) -> Dataset:
    """Return the real set of 112,000 sentence embeddings, float16 x 384, of a shared folder."""
    stem = "minilm-sentences"
    return _shared(shared, stem, f"{stem}.base.f16.npy", f"{stem}.query.fbin")


def _shared(shared: Path, stem: str, base: str, query: str) -> Dataset:
    dataset = Dataset(stem, shared / base, shared / query, shared / f"{stem}.gt100.bin")
    for path in (dataset.base, dataset.query, dataset.truth):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing; give the folder of the real sets")
    return dataset


def exact_neighbours(dataset: Dataset, k: int) -> tuple[Floats, Ids]:
    """Find each query's k nearest by brute force, over the base in blocks (``faiss.knn``)."""
    xq = dataset.queries()
    heap = faiss.ResultHeap(len(xq), k)
    for start, block in dataset.blocks():
        distances, rows = faiss.knn(xq, block, min(k, len(block)))
        heap.add_result(distances, rows + start)
    heap.finalize()
    return heap.D, heap.I


def recall(found: Ids, truth: Ids, k: int = 10) -> float:
    """Return recall@k: the share of the true k nearest among the k returned."""
    hits = sum(len(np.intersect1d(f, t)) for f, t in zip(found[:, :k], truth[:, :k], strict=True))
    return float(hits / (len(truth) * k))


def open_matrix(path: Path) -> NDArray:
    """Map a ``.fbin``, ``.u8bin``, ``.ibin`` or ``.npy`` file as an (n, d) array."""
    if path.suffix == ".npy":
        array: NDArray = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    n, d = _read_header(path)
    dtype = DTYPES[path.suffix]
    expected = HEADER_BYTES + n * d * dtype.itemsize
    if path.stat().st_size != expected:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, header says {expected}")
    return np.memmap(path, dtype=dtype, mode="r", offset=HEADER_BYTES, shape=(n, d))


def write_matrix(path: Path, x: NDArray) -> None:
    """Write an array as ``.fbin``, ``.u8bin`` or ``.ibin``, as the path's suffix says."""

    def write(file: BinaryIO) -> None:
        _write_header(file, *x.shape)
        file.write(np.ascontiguousarray(x, dtype=DTYPES[path.suffix]).data)

    _write_whole(path, write)


def read_truth(path: Path) -> tuple[Floats, Ids]:
    """Read a ``.gt100.bin`` file: squared distances (n, k) float32 and ids (n, k) int64."""
    n, k = _read_header(path)
    words = np.fromfile(path, dtype="<u4", offset=HEADER_BYTES)
    if words.size != 2 * n * k:
        raise ValueError(f"{path}: {words.size} values, header says {2 * n * k}")
    ids, distances = words.reshape(2, n, k)
    return distances.view("<f4"), ids.astype(np.int64)


def write_truth(path: Path, distances: Floats, ids: Ids) -> None:
    """Write squared distances and ids, each (n, k), as a ``.gt100.bin`` file."""

    def write(file: BinaryIO) -> None:
        _write_header(file, *ids.shape)
        file.write(np.ascontiguousarray(ids, dtype="<u4").data)
        file.write(np.ascontiguousarray(distances, dtype="<f4").data)

    _write_whole(path, write)


def _make_matrix(path: Path, spec: Synthetic, stream: int, n: int) -> None:
    if path.exists():  # written whole or not at all
        return

    def write(file: BinaryIO) -> None:
        _write_header(file, n, spec.d)
        for piece, start in enumerate(range(0, n, PIECE)):
            rng = np.random.default_rng([spec.seed, stream, piece])
            file.write(_piece(rng, spec, min(PIECE, n - start)).data)

    _write_whole(path, write)


def _piece(rng: np.random.Generator, spec: Synthetic, rows: int) -> Floats:
    shape = np.random.default_rng([spec.seed, 0])  # the same projection for every piece
    projection, scale = shape.random((LATENT, spec.d)), shape.random(spec.d) * 4 + 0.1
    x = rng.standard_normal((rows, LATENT)) @ projection
    x *= scale
    np.sin(x, out=x)
    return x.astype("<f4")


def _write_whole(path: Path, write: Callable[[BinaryIO], None]) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        write(file)
        file.flush()
        fsync(file.fileno())
    partial.replace(path)


def _write_header(file: BinaryIO, n: int, d: int) -> None:
    file.write(np.array([n, d], dtype="<u4").tobytes())


def _read_header(path: Path) -> tuple[int, int]:
    n, d = np.fromfile(path, dtype="<u4", count=2)
    return int(n), int(d)
