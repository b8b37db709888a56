"""What a search of a source returns: arrays to unpack, that also print and become a table."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from teravec.bulk.formats.found import FoundArrays
from teravec.bulk.formats.parquet import record_batches, schema_of

__all__ = ["Nearest", "Within"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


class Nearest(NamedTuple):
    """The nearest neighbours of queries, as ``distances, ids = ...`` unpacks them.

    Parameters
    ----------
    distances : ndarray of shape (n, k), float32
        Squared L2 ascending (l2), or similarities descending (ip, cosine).
    ids : ndarray of shape (n, k), int64
        -1 for a missing neighbour.
    """

    distances: Float32
    ids: Int64

    def to_arrow(self) -> Any:
        """Return a pyarrow.Table with a row for each neighbour: query, rank, id, distance.

        ``query`` is the query's row. The columns are those of a ``.parquet`` file of results.
        """
        return _table(FoundArrays.of_rows(self.distances, self.ids))

    def __repr__(self) -> str:
        n, k = self.ids.shape
        return f"<teravec.Nearest: {n:,} queries, k = {k:,}>\n{self.distances!r}\n{self.ids!r}"


class Within(NamedTuple):
    """All neighbours within a radius, as ``lims, distances, ids = ...`` unpacks them.

    Parameters
    ----------
    lims : ndarray of shape (n + 1,), int64
        Query i has results [lims[i], lims[i + 1]).
    distances : ndarray of shape (lims[n],), float32
    ids : ndarray of shape (lims[n],), int64
    """

    lims: Int64
    distances: Float32
    ids: Int64

    def to_arrow(self) -> Any:
        """Return a pyarrow.Table with a row for each result: query, rank, id, distance."""
        return _table(FoundArrays(self.lims, self.distances, self.ids))

    def __repr__(self) -> str:
        n, found = len(self.lims) - 1, len(self.ids)
        return (
            f"<teravec.Within: {n:,} queries, {found:,} results>\n{self.distances!r}\n{self.ids!r}"
        )


def _table(found: FoundArrays) -> Any:
    return pa.Table.from_batches(record_batches(found), schema_of(found))
