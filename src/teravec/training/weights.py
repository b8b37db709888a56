"""The weights of the sample's vectors, in a file beside the sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidSource
from teravec.sources import Weights
from teravec.storage.arrays import check_file, publishing_arrays
from teravec.storage.files import byte_view
from teravec.storage.jsonfile import read_json, write_json
from teravec.storage.local_store import AnyPath, open_file
from teravec.training.options import TrainPlan
from teravec.training.rows import SampleRows

__all__ = ["SampleWeights", "draw_weights"]

_FORMAT = "teravec-sample-weights"
_PIECE_ROWS = 1 << 20  # 4 MiB of weights at a time


@dataclass(frozen=True)
class SampleWeights:
    """The weights of the sample's vectors, float32 in a file.

    Parameters
    ----------
    path : StorePath or Path
    checksum : str
        Identifies the weights in a checkpoint.
    """

    path: AnyPath
    checksum: str

    def read(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Read the weights of rows [start, stop) of the sample, float32."""
        weights = np.empty(stop - start, np.float32)
        with open_file(self.path, in_order=True) as file:
            file.read_into(byte_view(weights), start * 4)
        return weights


def draw_weights(weights: Weights, plan: TrainPlan, directory: AnyPath) -> SampleWeights:
    """Write the weights of the sample's rows, or find the file of an earlier run.

    Raises
    ------
    InvalidSource
        A weight is negative or not finite, or all weights of the sample are 0.
    """
    path, seal = directory / "weights.f32", directory / "weights.json"
    if seal.exists():
        described = read_json(seal, _FORMAT, 1)["file"]
        check_file(path, described)
        return SampleWeights(path, described["checksum"])
    total = 0.0
    with publishing_arrays(path, 4 * plan.sample) as out:
        for piece in _pieces(weights, plan):
            out.write(piece)
            total += float(piece.sum(dtype=np.float64))
    if not total > 0:
        raise InvalidSource(f"{weights.path}: every weight of the sample is 0")
    write_json(seal, {"format": _FORMAT, "version": 1, "file": out.described})
    return SampleWeights(path, out.described["checksum"])


def _pieces(weights: Weights, plan: TrainPlan) -> Iterator[npt.NDArray[np.float32]]:
    rows = SampleRows(plan.ntotal, plan.sample, plan.seed)
    for start in range(0, plan.sample, _PIECE_ROWS):
        yield weights.take(rows.rows(start, min(plan.sample, start + _PIECE_ROWS)))
