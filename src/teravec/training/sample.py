"""The training sample: drawn once from the whole source, stored in parts, read by blocks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from teravec.engines.block_sizes import USUAL_SIZES, BlockSizes
from teravec.engines.engine import Engine, Steps
from teravec.engines.threads import ahead, ordered_map
from teravec.errors import ForeignFile, InvalidSource
from teravec.kernels.metric import Metric, normalized
from teravec.memory import require
from teravec.progress import Progress
from teravec.sources import Source, SourceFiles, reopen, spans
from teravec.storage.arrays import check_file, publishing_arrays
from teravec.storage.files import byte_view
from teravec.storage.jsonfile import read_json, write_json
from teravec.storage.local_store import AnyPath, stored
from teravec.storage.store import StorePath
from teravec.training.apart import Kept, checked_places
from teravec.training.options import TrainPlan
from teravec.training.rows import SampleRows

__all__ = ["Sample", "draw_bytes", "draw_rows_outside", "draw_sample", "sample_parts"]

Float32 = npt.NDArray[np.float32]

log = logging.getLogger(__name__)

_TINY = float(np.finfo(np.float64).tiny)
_MOST_PARTS = 1024
_VERSION = 2  # version 1 had one part, with rows drawn differently


@dataclass(frozen=True)
class Sample:
    """The vectors of the sample: float32 rows in files; for cosine, of unit length.

    Parameters
    ----------
    path : StorePath or Path
        The file. If there are several parts, each adds its number to this name.
    n, d : int
    parts : int
        Number of files, with nearly equal numbers of rows.
    """

    path: AnyPath
    n: int
    d: int
    parts: int = 1

    def file(self, part: int) -> StorePath:
        """Return the file of a part."""
        path = stored(self.path)
        if self.parts == 1:
            return path
        stem, _, extension = path.name.rpartition(".")
        return StorePath(path.store, f"{stem}-{part:05d}.{extension}")

    def bounds(self, part: int) -> tuple[int, int]:
        """Return the rows [start, stop) of a part."""
        return self.n * part // self.parts, self.n * (part + 1) // self.parts

    def read(self, start: int, stop: int) -> Float32:
        """Read rows [start, stop), float32 of shape (stop - start, d)."""
        return self.take(np.arange(start, stop, dtype=np.int64))

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Float32]:
        """Read rows [start, stop), or all, in blocks of ``rows``, one block ahead."""
        end = self.n if stop is None else stop
        return ahead(self.read(row, min(end, row + rows)) for row in range(start, end, rows))

    def take(self, rows: npt.NDArray[np.int64]) -> Float32:
        """Read single rows, ascending, as float32 of shape (len(rows), d)."""
        vectors = np.empty((len(rows), self.d), np.float32)
        while len(rows):
            # Row r lies in the last part that begins at r or before.
            part = (self.parts * (int(rows[0]) + 1) - 1) // self.n
            start, stop = self.bounds(part)
            inside = int(np.searchsorted(rows, stop))
            self._take(self.file(part), rows[:inside] - start, vectors[len(vectors) - len(rows) :])
            rows = rows[inside:]
        return vectors

    def _take(self, path: StorePath, rows: npt.NDArray[np.int64], out: Float32) -> None:
        row_bytes = 4 * self.d
        with path.open(in_order=True) as file:
            for begin, end in spans(rows, row_bytes):
                first, last = int(rows[begin]), int(rows[end - 1])
                part = out[begin:end]
                whole = end - begin == last + 1 - first
                span = part if whole else np.empty((last + 1 - first, self.d), np.float32)
                file.read_into(byte_view(span), first * row_bytes)
                if not whole:
                    part[:] = span[rows[begin:end] - first]


def sample_parts(n: int, d: int, sizes: BlockSizes = USUAL_SIZES) -> int:
    """Return the number of parts of a sample; it must not depend on the engine."""
    return min(n, _MOST_PARTS, max(1, 4 * n * d // sizes.sample_part_bytes))


def draw_bytes(threads: int, sizes: BlockSizes = USUAL_SIZES) -> int:
    """Return a drawing worker's memory: pieces in flight, their copies, the source's buffers."""
    return 3 * (threads + 1) * sizes.sample_piece_bytes


def draw_sample(
    source: Source,
    plan: TrainPlan,
    directory: AnyPath,
    progress: Progress,
    engine: Engine,
    sizes: BlockSizes = USUAL_SIZES,
) -> Sample:
    """Draw rows uniformly from the whole source, or find the sample of an earlier run.

    A prefix would not do, because the source may be sorted. Each part is one task, which reads
    its rows in file order and seals its file. A rerun draws only the missing parts. The rows do
    not depend on the engine.

    Raises
    ------
    ForeignFile
        A part of another sample exists already.
    CorruptFile
        A sealed part has changed.
    """
    require(draw_bytes(engine.threads, sizes), engine.memory_bytes, "drawing the sample")
    parts = sample_parts(plan.sample, plan.d, sizes)
    sample = Sample(directory / "sample.f32", plan.sample, plan.d, parts)
    maker = _DrawerMaker(
        source.opened_by,
        sample,
        SampleRows(plan.ntotal, plan.sample, plan.seed),
        plan.metric is Metric.COSINE,
        engine.threads,
        sizes.sample_piece_bytes,
    )
    with progress.stage("sample", plan.sample, "vectors") as bar:
        for _ in engine.run(maker, _draw_part, range(sample.parts), bar):
            pass
    return sample


def draw_rows_outside(ntotal: int, plan: TrainPlan, n: int) -> npt.NDArray[np.int64]:
    """Draw rows uniformly from those outside the training sample.

    Returns
    -------
    ndarray of shape (at most n,), int64
        Ascending and distinct; all rows outside the sample if they are fewer than n.
    """
    return SampleRows(ntotal, plan.sample, plan.seed).draw_outside(n)


@dataclass(frozen=True)
class _DrawerMaker:
    """The maker of a worker's drawer."""

    source: SourceFiles
    sample: Sample
    rows: SampleRows
    normalizes: bool
    threads: int
    piece_bytes: int

    def make(self) -> _Drawer:
        """Make the drawer; it opens the source when it first draws."""
        return _Drawer(self)


class _Drawer:
    """Draws parts in a worker."""

    def __init__(self, maker: _DrawerMaker) -> None:
        self.sample = maker.sample
        self._maker = maker

    @cached_property
    def _source(self) -> Source:
        return reopen(self._maker.source)

    def pieces(self, start: int, stop: int) -> Iterator[Float32]:
        """Read the sample's rows [start, stop) from the source, some at a time."""
        row_bytes = self._source.exact_dtype.itemsize * self.sample.d
        each = max(1, self._maker.piece_bytes // row_bytes)
        # Rows are far apart in a large source, and a disk serves several reads at once. Formats
        # that must be decoded in order are best read by one thread.
        threads = 1 if self._source.is_decoded else self._maker.threads

        def take(row: int) -> Float32:
            rows = self._maker.rows.rows(row, min(stop, row + each))
            exact = self._source.take(rows, self._source.exact_dtype)
            vectors = exact.astype(np.float32, copy=False)
            unit = normalized(vectors) if self._maker.normalizes else vectors
            if row == start and exact is not vectors:
                self._check_rounding(rows, exact, unit)
            if not self._maker.normalizes:
                self._source.check_lengths(rows, vectors)
            return unit

        return ordered_map(take, range(start, stop, each), threads=threads)

    def _check_rounding(
        self, rows: npt.NDArray[np.int64], exact: npt.NDArray[np.float64], kept: Float32
    ) -> None:
        """Refuse vectors of float64 or large integers that float32 cannot distinguish."""
        places = checked_places(len(rows))
        some, kept = exact[places], kept[places]
        if self._maker.normalizes:
            some = some / np.abs(some).max(axis=1, initial=_TINY)[:, None]
            some /= np.maximum(np.linalg.norm(some, axis=1), _TINY)[:, None]
        found = Kept(some, kept, "float32", lambda i: self._source.place_of(int(rows[places[i]])))
        if (lost := found.is_lost()) is not None:
            raise InvalidSource(lost)
        if rows[0] < len(rows) and (coarse := found.is_coarse()) is not None:
            log.warning("%s", coarse)


def _draw_part(drawer: _Drawer, part: int) -> Steps[None]:
    sample, path = drawer.sample, drawer.sample.file(part)
    start, stop = sample.bounds(part)
    seal = StorePath(path.store, path.name.rpartition(".")[0] + ".json")
    if seal.exists():
        _check_part(path, seal, stop - start, sample.d)
        yield stop - start
        return
    with publishing_arrays(path, (stop - start) * sample.d * 4) as out:
        for vectors in drawer.pieces(start, stop):
            out.write(vectors)
            yield len(vectors)
    content = {"format": "teravec-sample", "version": _VERSION, "n": stop - start, "d": sample.d}
    write_json(seal, {**content, "file": out.described})


def _check_part(path: StorePath, seal: StorePath, n: int, d: int) -> None:
    content = read_json(seal, "teravec-sample", _VERSION)
    if content["n"] != n or content["d"] != d:
        raise ForeignFile(
            f"{seal}: a sample of {content['n']:,} x {content['d']} found, {n:,} x {d} expected"
        )
    check_file(path, content["file"])
