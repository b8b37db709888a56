"""The moments of the sample, from which a PCA is computed; tasks sum them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from teravec.engines.block_sizes import USUAL_SIZES
from teravec.engines.engine import Engine, Steps
from teravec.kernels.exact_products import PRODUCT_ROWS
from teravec.memory import require
from teravec.model.transform import Moments
from teravec.progress import Progress
from teravec.training.sample import Sample

__all__ = ["sample_moments"]


def sample_moments(
    sample: Sample,
    block_rows: int,
    engine: Engine,
    progress: Progress,
    task_blocks: int = USUAL_SIZES.moment_blocks,
) -> Moments:
    """Sum the moments of all vectors, in the same order on any engine.

    Parameters
    ----------
    sample : Sample
    block_rows : int
        Vectors in memory at a time.
    engine : Engine
    progress : Progress
    task_blocks : int
        Blocks of ``block_rows`` that one task adds up; it decides the order of additions.

    Raises
    ------
    MemoryLimitTooSmall
    """
    # Three blocks in float32, and some rows three times in float64; six sums of products: of all
    # blocks and of one, the two added, and three of halves.
    needed = 12 * block_rows * sample.d + 24 * PRODUCT_ROWS * sample.d + 6 * 8 * sample.d**2
    require(needed, engine.memory_bytes, f"a PCA of {sample.d:,} dimensions")
    each = task_blocks * block_rows
    tasks = [(row, min(sample.n, row + each)) for row in range(0, sample.n, each)]
    maker = _Reader(sample, block_rows)
    with progress.stage("pca", sample.n, "vectors") as bar:
        return reduce(Moments.__add__, engine.run(maker, _sum_moments, tasks, bar))


@dataclass(frozen=True)
class _Reader:
    """Reads ranges of the sample; it keeps nothing open, and is its own maker."""

    sample: Sample
    block_rows: int

    def make(self) -> _Reader:
        """Return itself."""
        return self


def _sum_moments(reader: _Reader, rows: tuple[int, int]) -> Steps[Moments]:
    moments = Moments.none(reader.sample.d)
    for block in reader.sample.blocks(reader.block_rows, *rows):
        moments += Moments.of(block)
        yield len(block)
    return moments
