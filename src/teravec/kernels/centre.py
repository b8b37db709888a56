"""The common centre of centroids that lie far from the origin.

Centroids c of a vector x are ordered by ``|c|**2 / 2 - x.c`` in float32. The error of this score
grows with the squares of lengths, but the scores differ only by the spread of the centroids.
Relative to a common centre m, as ``c - m`` and ``x - m``, distances are the same and the error is
that of the spread.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["common_centre", "seen_from"]

Floats = npt.NDArray[np.float32]

_FAR = 20.0
"""Distance of the mean from the origin, in units of the spread, above which a centre is subtracted.

Share of vectors assigned to the right one of 512 centroids without a centre (normal, of 32, 128 and
768 dimensions): at distance 10: all, 99.98 and 99.9 %; at 32: all, 99.95 and 99.4 %; at 100: 99.7,
98.7 and 94 %; at 1,000: 71, 36 and 10 %. Images and texts are at 0 to 6, so their lists keep every
bit.
"""

_BLOCK_FLOATS = 1 << 20


def common_centre(centroids: Floats, far: float = _FAR) -> Floats | None:
    """Return the mean of centroids (nlist, d), float32 of shape (d,); None if they are near 0.

    The mean is far from 0 if its length is above ``far`` times the root of the centroids' mean
    square distance to it. The result depends on the centroids alone, so every reader computes the
    same.
    """
    n, d = centroids.shape
    mean = np.asarray(centroids.mean(axis=0, dtype=np.float64))
    spread, step = 0.0, max(1, _BLOCK_FLOATS // d)
    for start in range(0, n, step):
        spread += float(np.square(centroids[start : start + step] - mean).sum())
    if not 0 < spread < np.inf or float(np.square(mean).sum()) <= far**2 * spread / n:
        return None
    return mean.astype(np.float32)


def seen_from(centre: Floats | None, vectors: Floats) -> Floats:
    """Return vectors (n, d) less the centre, float32; unchanged if there is no centre."""
    return vectors if centre is None else vectors - centre
