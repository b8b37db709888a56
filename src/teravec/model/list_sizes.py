"""Sizes of lists: their imbalance, and an estimate from the sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["ListsEstimate", "imbalance"]

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


def imbalance(sizes: Int64 | Float64) -> float:
    """Return n sum(size^2) / (sum size)^2: 1 for equal sizes; at 2 a scan costs twice as much."""
    sizes = sizes.astype(np.float64)
    total = float(sizes.sum())
    return float(len(sizes) * (sizes**2).sum() / total**2) if total else 1.0


@dataclass(frozen=True)
class ListsEstimate:
    """Sizes of the lists, estimated from the sample, as ``model.json`` records them.

    Parameters
    ----------
    counted : int
        Vectors of the sample that were assigned.
    imbalance : float
    largest : int
        Vectors expected in the largest list.
    largest_bytes : int
        Bytes of that list's codes and ids.
    max_bytes : int or None
        The user's cap on a list's bytes.
    above : int
        Lists expected above the cap, such as many copies of one vector, which cannot be split.
    added : int
        Lists that splitting added.
    rounds : int
    """

    counted: int
    imbalance: float
    largest: int
    largest_bytes: int
    max_bytes: int | None
    above: int
    added: int
    rounds: int

    @classmethod
    def of(
        cls,
        counts: Int64,
        ntotal: int,
        row_bytes: int,
        *,
        max_bytes: int | None = None,
        added: int = 0,
        rounds: int = 0,
    ) -> ListsEstimate:
        """Scale counts from a part of the sample to the whole source."""
        counted = int(counts.sum())
        sizes = counts * (ntotal / max(1, counted))
        above = 0 if max_bytes is None else int((sizes * row_bytes > max_bytes).sum())
        largest = round(float(sizes.max()))
        return cls(
            counted,
            imbalance(counts),
            largest,
            largest * row_bytes,
            max_bytes,
            above,
            added,
            rounds,
        )
