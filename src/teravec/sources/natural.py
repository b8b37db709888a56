"""Natural order: numbers in names by value, so that chunk-2 comes before chunk-10."""

from __future__ import annotations

import re
from pathlib import PurePath

__all__ = ["natural_key"]

_DIGITS = re.compile("([0-9]+)")


Key = tuple[tuple[str | int, ...], ...]


def natural_key(path: PurePath) -> tuple[tuple[Key, str], ...]:
    """Return a key to sort paths by, part by part.

    Text and numbers alternate in the key of a part, so text is only compared with text. A "0" is
    appended to text before a number, so that the text sorts as if digits followed. Extensions
    are compared last: x.npy sorts before x-1.npy. Names that differ only in leading zeros (1, 01)
    keep the order of their characters.
    """
    folders = tuple(((_split_digits(part),), part) for part in path.parts[:-1])
    return (*folders, ((_split_digits(path.stem), _split_digits(path.suffix)), path.name))


def _split_digits(part: str) -> tuple[str | int, ...]:
    *before, last = _DIGITS.split(part)
    pieces = (int(piece) if place % 2 else piece + "0" for place, piece in enumerate(before))
    return (*pieces, last)
