"""Matrix products on threads of ours, so that no BLAS thread is left spinning.

After a product, the threads of NumPy's OpenBLAS wait for the next in a busy loop. What runs
then, a scan or an assignment on all processors, loses a third of its speed to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from teravec.kernels.assignment import over_blocks

__all__ = ["affine"]

Float32 = npt.NDArray[np.float32]

_BLOCK_ROWS = 4096


@cache
def _controller() -> Any:
    return ThreadpoolController()


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    with _controller().limit(limits=1, user_api="blas"):
        yield


def affine(vectors: Float32, matrix: Float32, offset: Float32, threads: int) -> Float32:
    """``vectors @ matrix.T + offset``.

    Parameters
    ----------
    vectors : ndarray of shape (n, d_in), float32
    matrix : ndarray of shape (d_out, d_in), float32
    offset : ndarray of shape (d_out,), float32
    threads : int

    Returns
    -------
    ndarray of shape (n, d_out), float32
    """
    out = np.empty((len(vectors), len(matrix)), np.float32)

    def block(start: int, stop: int) -> None:
        np.matmul(vectors[start:stop], matrix.T, out=out[start:stop])
        out[start:stop] += offset

    with _one_blas_thread():
        over_blocks(block, len(vectors), rows=_BLOCK_ROWS, threads=threads, even=False)
    return out
