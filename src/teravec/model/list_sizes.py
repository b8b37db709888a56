"""How lists are filled, and how they will be, as the sample tells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["ListsEstimate", "imbalance"]

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


def imbalance(sizes: Int64 | Float64) -> float:
    """n sum(size^2) / (sum size)^2: 1 for lists of equal size, 2 doubles a scan's cost."""
    sizes = sizes.astype(np.float64)
    total = float(sizes.sum())
    return float(len(sizes) * (sizes**2).sum() / total**2) if total else 1.0


@dataclass(frozen=True)
class ListsEstimate:
    """Lists' sizes as the sample tells them: what ``model.json`` says of them.

    Parameters
    ----------
    counted : int
        Vectors of the sample that were assigned.
    imbalance : float
    largest : int
        Vectors expected in the largest list.
    largest_bytes : int
        Codes and ids of it.
    max_bytes : int or None
        The cap that was asked for.
    above : int
        Lists expected above it; for example many copies of one vector, which nothing splits.
    added : int
        Lists that splitting added to those asked for.
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
        """Scale the lists' counts in a part of the sample to the whole source."""
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
