"""Affine maps of vectors, whose result for a row does not depend on batch, block or thread.

BLAS has three faults here. A row's rounding depends on its position in a block, so one shard and
seventeen shards would not hold the same bytes. It also depends on the processor and the number of
threads. And OpenBLAS's threads wait for the next product in a busy loop: a scan on all processors
after a product took 78 ms instead of 45.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from teravec.kernels.blocks import over_blocks
from teravec.kernels.panels import pack_panels
from teravec.native import extensions as compiled
from teravec.native.extensions import either, panel_places

__all__ = ["AffineMap"]

Float32 = npt.NDArray[np.float32]

_TILE_ROWS = 6  # the kernel writes rows in tiles of six
_BLOCK_ROWS = 682 * _TILE_ROWS
_TILE_FLOATS = 1 << 16  # of scores at a time in the fallback, for the processor's cache


class AffineMap:
    """``y = A x + b``.

    Parameters
    ----------
    matrix : ndarray of shape (d_out, d_in), float32
    offset : ndarray of shape (d_out,), float32
    """

    def __init__(self, matrix: Float32, offset: Float32) -> None:
        self._apply = _open_map(matrix, offset)

    def apply(self, vectors: Float32, threads: int) -> Float32:
        """Map vectors (n, d_in) to (n, d_out), float32."""
        return self._apply(np.ascontiguousarray(vectors, np.float32), threads)


_Map = Callable[[Float32, int], Float32]


def _compiled_map(matrix: Float32, offset: Float32) -> _Map:
    one = np.array([0, len(matrix)])
    # A score is a half-norm less a product; with -b for half-norms it is -y.
    panels = pack_panels(matrix, -offset, np.arange(len(matrix)), one, panel_places())

    def apply(vectors: Float32, threads: int) -> Float32:
        n, d = vectors.shape
        room = -(-n // _TILE_ROWS) * _TILE_ROWS
        scores = np.empty((room, panels.half.size), np.float32)

        def block(start: int, stop: int) -> None:
            rows = start + -(-(stop - start) // _TILE_ROWS) * _TILE_ROWS
            compiled.native.scores(
                compiled.level,
                d,
                vectors[start:stop],
                panels.packed,
                panels.half,
                scores[start:rows],
            )

        over_blocks(block, n, rows=_BLOCK_ROWS, threads=threads, even=False)
        return np.negative(scores[:n, : len(matrix)])

    return apply


def _numpy_map(matrix: Float32, offset: Float32) -> _Map:
    columns = np.ascontiguousarray(matrix.T)

    def apply(vectors: Float32, threads: int) -> Float32:
        scores = np.empty((len(vectors), len(matrix)), np.float32)
        scores[:] = -offset
        rows = max(1, _TILE_FLOATS // len(matrix))

        def block(start: int, stop: int) -> None:
            # One dimension after another, as compiled: BLAS rounds by its kernels and threads.
            part, product = scores[start:stop], np.empty((stop - start, len(matrix)), np.float32)
            for values, column in zip(vectors[start:stop].T, columns, strict=True):
                part -= np.multiply(values[:, None], column, out=product)

        over_blocks(block, len(vectors), rows=rows, threads=threads, even=False)
        return np.negative(scores)

    return apply


_open_map = either("native", _compiled_map, _numpy_map)
