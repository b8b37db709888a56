"""The training sample: drawn once from the whole source, kept on disk, read by blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from teravec.engines.threads import ahead
from teravec.errors import ForeignFile, storage_errors
from teravec.kernels.metric import Metric, normalized
from teravec.progress import Progress
from teravec.sources import Source
from teravec.storage.arrays import check_file
from teravec.storage.files import byte_view, publishing, read_into, write_all
from teravec.storage.jsonfile import read_json, write_json
from teravec.training.options import TrainPlan

__all__ = ["Sample", "draw_sample", "rows_left_out", "sample_rows"]

Float32 = npt.NDArray[np.float32]

_DRAW_BYTES = 16 << 20  # of float32 vectors taken from the source at a time


@dataclass(frozen=True)
class Sample:
    """Vectors of the sample, float32 rows in a file; for cosine, of unit length.

    Parameters
    ----------
    path : Path
    n, d : int
    """

    path: Path
    n: int
    d: int

    def read(self, start: int, stop: int) -> Float32:
        """Rows [start, stop), float32 of shape (stop - start, d)."""
        vectors = np.empty((stop - start, self.d), np.float32)
        with storage_errors(self.path, "read"), self.path.open("rb", buffering=0) as file:
            offset = start * self.d * 4
            read_into(file.fileno(), byte_view(vectors), offset, self.path)
        return vectors

    def blocks(self, rows: int) -> Iterator[Float32]:
        """All rows, in order, in blocks of ``rows``, read one block ahead."""
        starts = range(0, self.n, rows)
        return ahead(self.read(start, min(self.n, start + rows)) for start in starts)

    def take(self, rows: npt.NDArray[np.int64]) -> Float32:
        """The given rows, ascending, float32 of shape (len(rows), d)."""
        vectors = np.empty((len(rows), self.d), np.float32)
        with storage_errors(self.path, "read"), self.path.open("rb", buffering=0) as file:
            for vector, row in zip(vectors, rows.tolist(), strict=True):
                read_into(file.fileno(), byte_view(vector), row * self.d * 4, self.path)
        return vectors


def draw_sample(source: Source, plan: TrainPlan, directory: Path, progress: Progress) -> Sample:
    """Draw rows uniformly from the whole source, or find the sample drawn before.

    The source may be sorted, so a prefix would not do: ``plan.sample`` rows are drawn
    without replacement and read in file order.
    """
    path, seal = directory / "sample.f32", directory / "sample.json"
    if seal.exists():
        content = read_json(seal, "teravec-sample", 1)
        if content["n"] != plan.sample or content["d"] != plan.d:
            raise ForeignFile(
                f"{seal}: a sample of {content['n']:,} x {content['d']} found, "
                f"{plan.sample:,} x {plan.d} expected"
            )
        check_file(path, content["file"])
        return Sample(path, plan.sample, plan.d)
    rows = _sample_rows(source.ntotal, plan)
    each = max(1, _DRAW_BYTES // (4 * plan.d))
    pieces = ahead(source.take(rows[i : i + each]) for i in range(0, len(rows), each))
    digest, described = xxhash.xxh3_64(), {"size": plan.sample * plan.d * 4}

    def check(temporary: Path) -> None:
        check_file(temporary, {**described, "checksum": digest.hexdigest()})

    offset = 0
    with (
        progress.stage("sample", plan.sample, "vectors") as bar,
        publishing(path, verify=check) as file,
    ):
        for piece in pieces:
            vectors = normalized(piece) if plan.metric is Metric.COSINE else piece
            digest.update(byte_view(vectors))
            write_all(file, byte_view(vectors), offset)
            offset += vectors.nbytes
            bar.advance(len(vectors))
    content = {"format": "teravec-sample", "version": 1, "n": plan.sample, "d": plan.d}
    write_json(seal, {**content, "file": {**described, "checksum": digest.hexdigest()}})
    return Sample(path, plan.sample, plan.d)


def rows_left_out(ntotal: int, plan: TrainPlan, n: int) -> npt.NDArray[np.int64]:
    """Draw rows uniformly from those that are not in the training sample.

    Returns
    -------
    ndarray of shape (at most n,), int64
        Ascending and distinct; all that there are where they are fewer.
    """
    sample = _sample_rows(ntotal, plan)
    free = ntotal - len(sample)
    drawn = _draw_rows(free, min(n, free), [plan.seed, 2])
    # Row r is number r - (rows of the sample before it) of those that are free.
    before = np.searchsorted(sample - np.arange(len(sample)), drawn, "right")
    rows: npt.NDArray[np.int64] = drawn + before
    return rows


def sample_rows(plan: TrainPlan, start: int, stop: int) -> npt.NDArray[np.int64]:
    """Rows of the source that the sample's rows [start, stop) are, ascending."""
    return _sample_rows(plan.ntotal, plan)[start:stop]


def _sample_rows(ntotal: int, plan: TrainPlan) -> npt.NDArray[np.int64]:
    return _draw_rows(ntotal, plan.sample, [plan.seed, 1])


def _draw_rows(ntotal: int, n: int, seed: list[int]) -> npt.NDArray[np.int64]:
    if n == ntotal:
        return np.arange(ntotal)
    rng = np.random.default_rng(seed)
    if 2 * n > ntotal:
        return np.sort(rng.choice(ntotal, n, replace=False, shuffle=False))
    # Memory for the sample's rows, not for the source's, which ``choice`` may take.
    rows = np.empty(0, np.int64)
    while len(rows) < n:
        more = rng.integers(0, ntotal, n - len(rows) + 64)
        rows = np.unique(np.concatenate([rows, more]))
    surplus = rng.choice(len(rows), len(rows) - n, replace=False, shuffle=False)
    return np.delete(rows, surplus)
