"""The layout in which the compiled kernels read centroids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Panels", "half_norms", "pack_panels"]

_ALIGNMENT = 64  # bytes of a cache line, so that no vector load of a panel crosses one


@dataclass(frozen=True)
class Panels:
    """Centroids in the kernels' layout: panels of ``places`` centroids, transposed.

    Attributes
    ----------
    packed : ndarray of shape (npanels, d, places), float32
        Unused places repeat row 0, which their half-norm keeps from being nearest.
    half : ndarray of shape (npanels, places), float32
        ``|c|**2 / 2``; +inf at unused places.
    ids : ndarray of shape (npanels, places), int32
        Row of ``centroids`` at each place; 0 at unused places.
    starts : ndarray of shape (ngroups + 1,), int32
        First panel of each group.
    """

    packed: npt.NDArray[np.float32]
    half: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]


def pack_panels(
    centroids: npt.NDArray[np.float32],
    half: npt.NDArray[np.float32],
    order: npt.NDArray[np.int64],
    bounds: npt.NDArray[np.int64],
    places: int,
) -> Panels:
    """Pack groups of centroids into panels; each group starts a new panel.

    Parameters
    ----------
    centroids : ndarray of shape (nlist, d), float32
    half : ndarray of shape (nlist,), float32
    order : ndarray of shape (nlist,), int64
        Row numbers, one group after another, ascending in each.
    bounds : ndarray of shape (ngroups + 1,), int64
        Where each group starts in ``order``.
    places : int
        Centroids in a panel, from ``native.panel_places(level)``.
    """
    sizes = np.diff(bounds)
    starts = np.concatenate(([0], np.cumsum(-(-sizes // places))))
    npanels = int(starts[-1])
    place = np.arange(len(order)) + np.repeat(starts[:-1] * places - bounds[:-1], sizes)
    ids = np.zeros(npanels * places, np.int32)
    ids[place] = order
    packed_half = np.full(npanels * places, np.inf, np.float32)
    packed_half[place] = half[order]
    packed = _aligned_empty((npanels, centroids.shape[1], places))
    step = max(1, (16 << 20) // (4 * places * centroids.shape[1]))  # 16 MiB gathered at a time
    for i in range(0, npanels, step):
        rows = centroids[ids[i * places : (i + step) * places]]
        packed[i : i + step] = rows.reshape(-1, places, rows.shape[1]).transpose(0, 2, 1)
    return Panels(
        packed,
        packed_half.reshape(npanels, places),
        ids.reshape(npanels, places),
        starts.astype(np.int32),
    )


def half_norms(centroids: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """``|c|**2 / 2`` of every row, summed in float64 so that equal rows give equal values."""
    half = np.empty(len(centroids), np.float32)
    with np.errstate(over="ignore"):  # a value above float32 becomes infinite; k-means reports it
        for i in range(0, len(centroids), 8192):
            rows = centroids[i : i + 8192]
            half[i : i + 8192] = 0.5 * np.square(rows, dtype=np.float64).sum(axis=1)
    return half


def _aligned_empty(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    size = int(np.prod(shape)) * 4
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(np.float32).reshape(shape)
