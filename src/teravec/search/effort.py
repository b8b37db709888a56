"""How hard a search tries: what recall and cost both grow with."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from teravec.index.calibration import Calibration
from teravec.index.hardness import MOST_HARDER, Hardness
from teravec.kernels.metric import Metric
from teravec.search.request import checked_nprobe

__all__ = [
    "DEFAULT_NPROBE",
    "DEFAULT_RECALL",
    "Effort",
    "calibrated_effort",
    "default_candidates",
    "effort_of_nprobe",
    "shortfall",
]

log = logging.getLogger(__name__)

DEFAULT_RECALL = 0.9
"""What a search asks for that states neither recall nor nprobe."""
DEFAULT_NPROBE = 16
"""Instead: without a calibration, or where its recall does not get that far."""


@dataclass(frozen=True)
class Effort:
    """Effort of one query.

    Parameters
    ----------
    nprobe : int
        Most lists that a query visits.
    prune : float
        How much a list's distance counts against it, see `probing.worth_visiting`: per unit
        of squared distance (l2), or of similarity of a query of unit length; with hardness, of
        scaled gaps. 0: every query visits nprobe lists.
    candidates : int, optional
        Most vectors a query whose finer codes are read, where codes have two stages. Not
        given: ``default_candidates``.
    usual : int, optional
        With hardness: the nprobe of a query of usual hardness.
    hardness : Hardness, optional
        How the nprobe of a query depends on the query.
    """

    nprobe: int
    prune: float = 0.0
    candidates: int | None = None
    usual: int | None = None
    hardness: Hardness | None = None

    @classmethod
    def adaptive(cls, nprobe: int, prune: float, hardness: Hardness | None, nlist: int) -> Effort:
        """Make the effort whose queries of usual hardness visit at most nprobe lists."""
        if hardness is None:
            return cls(nprobe, prune)
        return cls(min(nlist, MOST_HARDER * nprobe), prune, usual=nprobe, hardness=hardness)

    @property
    def typical(self) -> int:
        """Most lists that a query of usual hardness visits."""
        return self.nprobe if self.usual is None else self.usual


def default_candidates(k: int, sketch_bits: int) -> int:
    """The rule for ``Effort.candidates``: half as many with sketches of 2 bits as with 1.

    It bounds what a hard query costs. Of these, most are spared by their bounds: some 200 of 300
    are refined with 1 bit, and 50 of 150 with 2 bits (see ``sketch.PRUNING``). Measured on
    synthetic vectors (1,000,000 x 96, 256 lists, k = 10, recall 0.95): with 2 bits, 150 cost 1 %
    more bytes than 300; with 1 bit, 200 want 54 lists where 300 want 36.
    """
    return max(100, 30 * k) if sketch_bits == 1 else max(50, 15 * k)


def effort_of_nprobe(nprobe: int, nlist: int) -> Effort:
    """Visit nprobe lists; more than nlist is taken as nlist, and logged."""
    nprobe = checked_nprobe(nprobe)
    if nprobe > nlist:
        log.warning("nprobe %d is more than the %d lists there are; using all", nprobe, nlist)
    return Effort(min(nprobe, nlist))


def calibrated_effort(
    calibration: Calibration,
    recall: float,
    k: int,
    radius: float | None,
    metric: Metric,
    nlist: int,
    factor: int = 1,
) -> Effort:
    """Reach this recall of the k nearest, or of all within a radius if there is one.

    Parameters
    ----------
    calibration : Calibration
    recall : float
    k : int
    radius : float, optional
    metric : Metric
    nlist : int
    factor : int
        Visit so many times the lists.

    Raises
    ------
    InvalidArgument
        Out of range or of reach; says what can be reached.
    """
    if radius is None:
        nprobe, prune = calibration.probing_for(recall, k)
    else:
        nprobe, prune = calibration.probing_within(recall, radius, metric)
    nprobe = min(nlist, factor * nprobe)
    return Effort.adaptive(nprobe, prune, calibration.hardness, nlist)


def shortfall(calibration: Calibration, nlist: int, k: int = 10) -> str | None:
    """Why searches that ask for nothing visit 16 lists, and what to do; None where they do not.

    Where 16 are all lists there is nothing to say.
    """
    reach = calibration.reach(k)
    if reach.promised >= DEFAULT_RECALL or nlist <= DEFAULT_NPROBE:
        return None
    if reach.highest >= DEFAULT_RECALL:
        why = (
            f"recall@{reach.k} of {reach.highest:.4f} was measured, but from "
            f"{calibration.queries:,} queries no more than {reach.promised:.4f} can be promised; "
            "calibrate with more"
        )
    elif calibration.stopped_s is not None:
        why = (
            f"recall@{reach.k} of at most {reach.highest:.4f} was measured in "
            f"{calibration.stopped_s:.0f} s; teravec calibrate goes further"
        )
    else:
        why = (
            f"recall@{reach.k} of at most {reach.highest:.4f} is in reach; a finer codec, as sq8, "
            "gives more"
        )
    return f"{why}; searches without a recall or an nprobe visit {DEFAULT_NPROBE} lists"
