"""From the trial's lists and density to those of the whole set.

Two things differ where the data are too many to train on, or to compare with the queries.

*Lists.* The trial has fewer than the full index. At the same density the lists that a query visits
for a recall grow as a power of their number: a trial with a quarter of the lists shows which.

*Density.* Neighbours lie nearer to a query where there are more vectors, so fewer lists hold them:
again as a power, which a trial with a quarter of the vectors shows. If all vectors were compared
with the queries, nothing is left to foresee.

Both powers follow from the geometry. In a space of intrinsic dimension D the distance to the k-th
neighbour shrinks as density^(-1/D), and that between centroids as nlist^(-1/D). How many lists lie
within the neighbours' distance depends on the ratio of the two, so it follows powers of both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from teravec.advising.trial import AtRecall

__all__ = ["STEP", "Scaling", "exponents"]

STEP = 4
"""How many times fewer lists, or vectors, the second trial has."""

_MOST = 1.0  # lists cannot grow faster than their number


@dataclass(frozen=True)
class Scaling:
    """How lists visited grow with lists there are, and with vectors.

    Parameters
    ----------
    more_lists, more_vectors : float
        Lists of the full index over those of the trial; vectors of the data over those that were
        compared with the queries. 1 where nothing is to be foreseen.
    by_lists, by_vectors : dict of float to float
        Exponents, by recall.
    """

    more_lists: float = 1.0
    more_vectors: float = 1.0
    by_lists: dict[float, float] | None = None
    by_vectors: dict[float, float] | None = None

    @property
    def exact(self) -> bool:
        """Whether the trial has the lists and the density of the full index."""
        return self.more_lists <= 1 and self.more_vectors <= 1

    def apply(self, found: AtRecall) -> AtRecall:
        """Return the cost of a query of the full index."""
        grown = self.more_lists ** _nearest(self.by_lists, found.asked)
        grown *= self.more_vectors ** _nearest(self.by_vectors, found.asked)
        codes = found.codes * grown / self.more_lists  # each list is as much smaller
        share = codes / max(1.0, found.codes)
        return replace(
            found,
            lists=found.lists * grown,
            codes=codes,
            bytes=found.page_bytes + (found.bytes - found.page_bytes) * share,
            cpu_s=found.cpu_s * max(share, 1 / STEP),
        )


def exponents(
    many: dict[float, AtRecall], few: dict[float, AtRecall], *, falling: bool = False
) -> dict[float, float]:
    """Return the power with which lists grow, for each recall that both trials reach."""
    found = {}
    for recall in many.keys() & few.keys():
        power = math.log(many[recall].lists / few[recall].lists) / math.log(STEP)
        found[recall] = min(0.0, power) if falling else min(_MOST, max(0.0, power))
    return found


def _nearest(powers: dict[float, float] | None, recall: float) -> float:
    """Return the power at a recall, or at the nearest recall that is known; 0 if none is."""
    if not powers:
        return 0.0
    return powers[min(powers, key=lambda known: abs(known - recall))]
