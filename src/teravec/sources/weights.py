"""A weight for every row of a source, from a file of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.arguments import PathArgument, path_of
from teravec.errors import InvalidSource
from teravec.sources.matrix import Source
from teravec.sources.npy import open_npy
from teravec.sources.skipped import Skipped
from teravec.storage.layout import absolute

__all__ = ["Weights"]


class Weights:
    """How much each row of a source counts in training.

    Parameters
    ----------
    path : path-like
        A ``.npy`` array of shape (ntotal,), of a type that vectors may have.
    ntotal : int
        Rows of the source's files.
    skipped : Skipped, optional
        Rows that the source skips; they have weights too.

    Raises
    ------
    InvalidSource
        The file is no such array.
    """

    def __init__(self, path: PathArgument, ntotal: int, skipped: Skipped | None = None) -> None:
        self.path = absolute(path_of(path, "weights"))
        file = open_npy(self.path, column=True)
        if file.n != ntotal:
            raise InvalidSource(
                f"{path}: {file.n:,} weights found, {ntotal:,} expected, one for each vector"
            )
        self._rows = Source([file], skipped=skipped)

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Read the weights of some rows, ascending, float32 of shape (len(rows),).

        Raises
        ------
        InvalidSource
            A weight that is negative or not finite; the message names the row.
        """
        weights: npt.NDArray[np.float32] = self._rows.take(rows)[:, 0]
        if len(wrong := np.flatnonzero(weights < 0)):
            raise InvalidSource(
                f"{self.path}: row {rows[wrong[0]]} has weight {weights[wrong[0]]}, "
                "0 or more expected"
            )
        return weights

    def describe(self) -> dict[str, Any]:
        """Name, size and fingerprint, so that a later process knows the same weights."""
        return self._rows.files[0].describe()
