"""Natural order: numbers in names by value, so that chunk-2 comes before chunk-10."""

from __future__ import annotations

import re
from pathlib import PurePath

__all__ = ["natural_key"]

_DIGITS = re.compile("([0-9]+)")


def natural_key(path: PurePath) -> tuple[tuple[tuple[str | int, ...], str], ...]:
    """A key to sort paths by, one part of the path after another.

    Text and numbers alternate in the key of a part, so text is only compared with text. Names
    that differ in leading zeros alone (1, 01) keep the order of their characters.
    """
    return tuple((_pieces(part), part) for part in path.parts)


def _pieces(part: str) -> tuple[str | int, ...]:
    return tuple(
        int(piece) if place % 2 else piece for place, piece in enumerate(_DIGITS.split(part))
    )
