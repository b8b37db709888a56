"""Small training sets on disk, and what stops a run on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from teravec.engines.block_sizes import USUAL_SIZES, BlockSizes
from teravec.model.transform import Transform
from teravec.training.sample import Sample
from teravec.training.training_set import TrainingSet


def training_set(
    directory: Path,
    vectors: np.ndarray,
    transform: Transform | None = None,
    sizes: BlockSizes = USUAL_SIZES,
) -> TrainingSet:
    """A set of these vectors, of shape (n, d), in a file ``vectors.f32``."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "vectors.f32"
    vectors.astype(np.float32).tofile(path)
    transform = transform or Transform.unpack(None)
    d = vectors.shape[1] if transform.matrix is None else len(transform.matrix)
    return TrainingSet(Sample(path, *vectors.shape), transform, d, sizes=sizes)
