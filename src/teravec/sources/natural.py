"""Natural order: numbers in names by value, so that chunk-2 comes before chunk-10."""

from __future__ import annotations

import re
from pathlib import PurePath

__all__ = ["natural_key"]

_DIGITS = re.compile("([0-9]+)")


Key = tuple[tuple[str | int, ...], ...]


def natural_key(path: PurePath) -> tuple[tuple[Key, str], ...]:
    """A key to sort paths by, one part of the path after another.

    Text and numbers alternate in the key of a part, so text is only compared with text. Text
    before a number ends in a 0 in its stead, so it is compared as its characters are. Extensions
    come last: x.npy before x-1.npy. Names that differ in leading zeros alone (1, 01) keep the
    order of their characters.
    """
    folders = tuple(((_split_digits(part),), part) for part in path.parts[:-1])
    return (*folders, ((_split_digits(path.stem), _split_digits(path.suffix)), path.name))


def _split_digits(part: str) -> tuple[str | int, ...]:
    *before, last = _DIGITS.split(part)
    pieces = (int(piece) if place % 2 else piece + "0" for place, piece in enumerate(before))
    return (*pieces, last)
