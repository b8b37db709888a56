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
    """The rule for ``Effort.candidates``, of which most are then spared by their bounds."""
    return 10 * k + 100
