"""How the hardness of queries travels: beside nprobe and prune, in requests and told efforts."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from teravec.errors import InvalidArgument
from teravec.index.hardness import Hardness
from teravec.search.effort import Effort

__all__ = ["read_harder", "write_harder"]

_LARGEST = 1e30  # far beyond what float32 vectors give
_EXPONENT = 100.0


def write_harder(effort: Effort) -> dict[str, Any] | None:
    """Return an effort's usual nprobe and hardness as JSON; None if it has none."""
    if effort.hardness is None:
        return None
    return {"nprobe": effort.usual, **asdict(effort.hardness)}


def read_harder(content: Any) -> tuple[int, Hardness]:
    """Read what ``write_harder`` returned.

    Raises
    ------
    InvalidArgument
        It is something else, or a number is out of bounds.
    """
    try:
        coefficients = {**content}
        usual = coefficients.pop("nprobe")
        hardness = Hardness(**coefficients)
    except (TypeError, ValueError, KeyError) as error:
        raise InvalidArgument(f"harder is {content!r}; nprobe and coefficients expected") from error
    values = tuple(vars(hardness).values())
    known = all(type(value) in (int, float) and math.isfinite(value) for value in values)
    if not (known and type(usual) is int and usual >= 1 and _are_bounded(hardness)):
        raise InvalidArgument(f"harder is {content!r}; nprobe and coefficients in bounds expected")
    return usual, hardness


def _are_bounded(hardness: Hardness) -> bool:
    exponents = (hardness.usual, hardness.hard, hardness.slope, hardness.steeper)
    return (
        0 <= hardness.near <= _LARGEST
        and 0 <= hardness.sharpness <= _LARGEST
        and all(abs(value) <= _EXPONENT for value in exponents)
        and min(hardness.slope, hardness.steeper) >= 0
    )
