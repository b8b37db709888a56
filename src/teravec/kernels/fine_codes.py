"""Comparing queries with finer codes in place: in a cache, or in pages just read.

A row is a vector's finer code and its id (int64), at any byte of a buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.engines.threads import once
from teravec.kernels.codec import Codec, decode
from teravec.kernels.decoding import Decoding
from teravec.kernels.lists_in_memory import PLACE_BITS
from teravec.kernels.metric import Metric
from teravec.native import extensions as compiled
from teravec.native.extensions import either

__all__ = ["FineCodes", "rows_at"]

Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_ID_BYTES = 8


class FineCodes:
    """Compares queries with finer codes of vectors named by place, from any number of threads.

    A distance depends on query and code alone. The compiled kernel handles flat, fp16 and scalar
    codes; Faiss decodes others.

    Parameters
    ----------
    codec : Codec
    metric : Metric
    centroids : ndarray of shape (nlist, d), float32
    parameters : ndarray of float32
        The codec's, from ``train_codec``.
    ivf : callable
        Returns the trained Faiss index of the fine codes.
    """

    def __init__(
        self,
        codec: Codec,
        metric: Metric,
        centroids: Float32,
        parameters: Float32,
        ivf: Callable[[], Any],
    ) -> None:
        self._similarity, self._ivf = metric.larger_is_closer, once(ivf)
        self._decoding = None
        if Decoding.knows(codec.fine_name):
            self._decoding = Decoding.of(codec, centroids, parameters)

    def _compare_compiled(
        self,
        queries: Float32,
        owners: Int64,
        places: Int64,
        rows: Bytes,
        begins: Int64,
        distances: Float32,
        ids: Int64,
    ) -> None:
        """Fill distances (in the index's metric) and ids for pairs of a query and a row.

        Parameters
        ----------
        queries : ndarray of shape (nq, d), float32
        owners, places : ndarray of shape (n,), int64
            Row of ``queries``, and place of the vector.
        rows : ndarray of uint8
        begins : ndarray of shape (n,), int64
            Byte of ``rows`` at which each row begins; -1 skips the pair.
        distances, ids : ndarray of shape (n,), float32 and int64
            Written, except for skipped pairs.
        """
        decoding = self._decoding
        if decoding is None:
            self._compare_in_numpy(queries, owners, places, rows, begins, distances, ids)
            return
        compiled.refining.compare(
            compiled.level,
            decoding.number,
            self._similarity,
            queries.shape[1],
            queries,
            owners,
            places,
            decoding.centroids,
            decoding.low,
            decoding.step,
            rows,
            begins,
            distances,
            ids,
        )

    def _compare_in_numpy(
        self,
        queries: Float32,
        owners: Int64,
        places: Int64,
        rows: Bytes,
        begins: Int64,
        distances: Float32,
        ids: Int64,
    ) -> None:
        there = np.flatnonzero(begins >= 0)
        ivf = self._ivf()
        wanted = rows_at(rows, begins[there], ivf.code_size + _ID_BYTES)
        ids[there] = np.ascontiguousarray(wanted[:, -_ID_BYTES:]).view("<i8")[:, 0]
        vectors = decode(ivf, wanted[:, :-_ID_BYTES], places[there] >> PLACE_BITS)
        mine = queries[owners[there]]
        if self._similarity:
            distances[there] = np.einsum("ij,ij->i", vectors, mine)
        else:
            vectors -= mine
            distances[there] = np.einsum("ij,ij->i", vectors, vectors)

    compare = either("refining", _compare_compiled, _compare_in_numpy)


def rows_at(buffer: Bytes, begins: Int64, row_bytes: int) -> Bytes:
    """Return the rows that begin at some bytes of a buffer, (n, row_bytes)."""
    if not len(begins):
        return np.empty((0, row_bytes), np.uint8)
    rows: Bytes = np.lib.stride_tricks.sliding_window_view(buffer, row_bytes)[begins]
    return rows
