"""How much of a request is worked on at a time."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["USUAL_STEPS", "StepSizes"]


@dataclass(frozen=True)
class StepSizes:
    """Sizes of the steps in which requests are answered.

    Parameters
    ----------
    scanned_bytes : int
        Codes that a search of lists scans between two looks at its deadline: some 0.1 to 0.3 s of
        work on two processors.
    candidate_bytes : int
        Candidates of all queries that a coordinator asks each server for at a time, where codes
        have two stages. Every server of a list may send as many.
    """

    scanned_bytes: int = 1 << 30
    candidate_bytes: int = 16 << 20


USUAL_STEPS = StepSizes()
"""What users get."""
