"""Vectors by id, so that a stored vector can be asked for its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument
from teravec.sources import open_source

__all__ = ["VectorLookup"]


class VectorLookup:
    """Vectors of a source, whose row numbers are the ids.

    Codes of an index are no vectors, and finding an id among them would read every list; the
    files that the index was built from answer at once.

    Parameters
    ----------
    path : str
        File, directory or glob.
    vector_column : str, optional
    """

    def __init__(self, path: str, vector_column: str | None = None) -> None:
        self._source = open_source(path, vector_column=vector_column)

    def vectors(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Vectors of shape (n, d), or InvalidArgument for an id that is none."""
        most = self._source.ntotal
        if strange := [i for i in ids if not 0 <= i < most]:
            raise InvalidArgument(f"id {strange[0]} asked for; 0 to {most - 1:,} expected")
        rows = [self._source.read(i, i + 1) for i in ids]
        return np.concatenate(rows) if rows else np.empty((0, self._source.d), np.float32)
