"""Finding the list of each vector of a block with PyTorch, on a GPU.

Every vector is compared with every centroid, so the cost grows with nlist. On a processor, groups
of centroids avoid most of this work, but groups are small and irregular, which is slow on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from teravec.kernels.device import open_torch
from teravec.kernels.panels import half_norms

__all__ = ["TorchScan"]

Floats = npt.NDArray[np.float32]
Lists = npt.NDArray[np.int32]


class TorchScan:
    """Compares every vector with every centroid; a `Scan`, see scans.py.

    Scores are products in float32, never in TF32, whose 10 bits would confuse centroids. The order
    of a product's additions depends on its shape, so the last bits may differ between blocks. The
    list of a vector halfway between two centroids may then differ too.

    Parameters
    ----------
    centroids : ndarray of shape (nlist, d), float32
        Kept on the device.
    device : str
        As `open_torch` takes it.

    Attributes
    ----------
    rows : int
        Vectors of a block.
    score_floats : dict of str to int
        Scores in memory at a time, by the kind of device.
    """

    rows, even = 1 << 16, False
    score_floats: ClassVar[dict[str, int]] = {"cuda": 1 << 28, "cpu": 1 << 22}  # 1 GiB, 16 MiB

    def __init__(self, centroids: Floats, device: str) -> None:
        self._torch, self._device = open_torch(device)
        # One block at a time: several threads would share the device, and need more memory.
        self._lock = Lock()
        self._centroids = self._put(centroids)
        self._half = self._put(half_norms(centroids))
        most = self.score_floats[self._device.type] // self.rows
        self._columns = max(1, min(len(centroids), most))

    def __call__(self, x: Floats, list_no: Lists, distance: Floats) -> None:
        with self._lock, self._torch.inference_mode(), self._whole_float32():
            rows = self._put(x)
            best = self._torch.full((len(x),), float("inf"), device=self._device)
            at = self._torch.zeros(len(x), dtype=self._torch.int64, device=self._device)
            for start in range(0, len(self._centroids), self._columns):
                part = slice(start, start + self._columns)
                scores = self._torch.addmm(
                    self._half[part], rows, self._centroids[part].T, alpha=-1
                )
                found = scores.argmin(dim=1)  # the first of equal ones; ``min`` may differ
                score = scores.gather(1, found[:, None])[:, 0]
                lower = score < best  # on ties between blocks, the first stays
                best = self._torch.where(lower, score, best)
                at = self._torch.where(lower, found + start, at)
            squared = (rows * rows).sum(dim=1) + 2 * best
            list_no[:] = at.cpu().numpy()
            distance[:] = squared.clamp(min=0).cpu().numpy()

    def _put(self, array: Floats) -> Any:
        # Copy, because PyTorch warns about read-only arrays.
        return self._torch.tensor(array, device=self._device)

    @contextmanager
    def _whole_float32(self) -> Iterator[None]:
        before = self._torch.get_float32_matmul_precision()
        self._torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            self._torch.set_float32_matmul_precision(before)
