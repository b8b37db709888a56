"""How hard a search tries: what recall and cost both grow with."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Effort"]


@dataclass(frozen=True)
class Effort:
    """Effort of one query.

    Parameters
    ----------
    nprobe : int
        Most lists that a query visits.
    """

    nprobe: int
