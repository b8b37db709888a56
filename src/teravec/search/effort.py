"""How hard a search tries: what recall and cost both grow with."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Effort", "default_candidates"]


@dataclass(frozen=True)
class Effort:
    """Effort of one query.

    Parameters
    ----------
    nprobe : int
        Most lists that a query visits.
    candidates : int, optional
        Most vectors a query whose finer codes are read, where codes have two stages. Not
        given: ``default_candidates``.
    """

    nprobe: int
    candidates: int | None = None


def default_candidates(k: int) -> int:
    """The rule for ``Effort.candidates``: enough for sketches of 1 bit.

    It bounds what a hard query costs. Of these, most are spared by their bounds: of 300, some
    50 are refined with sketches of 2 bits, and 180 with 1 bit (see ``sketch.PRUNING``).
    """
    return max(100, 30 * k)
