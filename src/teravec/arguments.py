"""Arguments of public calls, checked: the one place that says what a number, path or text is.

Python checks no types, and NumPy's scalars are not Python's. Every check returns the plain value or
raises InvalidArgument, in one line: the argument's name, what was found, what was expected.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from teravec.errors import InvalidArgument, shown, whole_number

__all__ = [
    "PathArgument",
    "check_range",
    "flag",
    "install",
    "instance",
    "one_of",
    "path_of",
    "real_number",
    "similar",
    "text",
    "whole_number",
    "whole_numbers",
]

T = TypeVar("T")
PathArgument = str | os.PathLike[str]


def real_number(
    value: Any,
    what: str,
    least: float | None = None,
    most: float | None = None,
    expected: str = "a finite number",
) -> float:
    """The value as a finite float, or InvalidArgument.

    Numbers of any library are taken, 0-dimensional arrays too; no texts, and no booleans.
    ``expected`` says in the message what the bounds are.
    """
    kind = getattr(getattr(value, "dtype", None), "kind", "f")
    # Of masked arrays, the one that holds nothing says so by its mask.
    single = getattr(value, "ndim", 0) == 0 and not _is_masked(value)
    if kind in "fiu" and single and not isinstance(value, bool | str | bytes | bytearray):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        above = least is None or number >= least
        if math.isfinite(number) and above and (most is None or number <= most):
            return number
    raise InvalidArgument(f"{what} is {shown(value)}; {expected} expected")


def _is_masked(value: Any) -> bool:
    """Whether it is an element of a masked array that is masked."""
    return type(value).__name__ == "MaskedConstant"


def whole_numbers(values: Any, what: str, least: int | None = None) -> tuple[int, ...]:
    """Several whole numbers, of any sequence but a text, or InvalidArgument."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidArgument(f"{what} is {shown(values)}; a list of whole numbers expected")
    try:
        items = list(values)
    except TypeError:  # an array of 0 dimensions
        raise InvalidArgument(
            f"{what} is {shown(values)}; a list of whole numbers expected"
        ) from None
    return tuple(whole_number(item, what, least) for item in items)


def check_range(value: Any, what: str) -> tuple[int, int] | None:
    """Two whole numbers [start, stop), or None where there are none; or InvalidArgument."""
    if value is None:
        return None
    numbers = whole_numbers(value, what, 0)
    if len(numbers) != 2:
        raise InvalidArgument(f"{what} is {shown(value)}; two numbers, start and stop, expected")
    return numbers[0], numbers[1]


def path_of(value: Any, what: str) -> Path:
    """The path that a str or any ``os.PathLike`` names, or InvalidArgument."""
    try:
        name = os.fsdecode(value)
    except TypeError:
        raise InvalidArgument(f"{what} is {shown(value)}; a path expected") from None
    if not name:  # Path takes it for the working directory; it is a variable that was not set
        raise InvalidArgument(f"{what} is empty; a path expected")
    if "\0" in name:
        raise InvalidArgument(f"{what} is {shown(name)}; a path has no null characters")
    return Path(name)


def text(value: Any, what: str) -> str:
    """The value if it is a text, or InvalidArgument."""
    if not isinstance(value, str):
        raise InvalidArgument(f"{what} is {shown(value)}; a text expected")
    return str(value)


def flag(value: Any, what: str) -> bool:
    """The value if it is True or False, NumPy's included, or InvalidArgument."""
    if value is True or value is False:
        return value
    if getattr(getattr(value, "dtype", None), "kind", "") == "b" and value.ndim == 0:
        return bool(value)
    raise InvalidArgument(f"{what} is {shown(value)}; True or False expected")


def instance(value: Any, kind: type[T], what: str) -> T:
    """The value if it is of this type, or InvalidArgument."""
    if not isinstance(value, kind):
        raise InvalidArgument(f"{what} is {shown(value)}; a {kind.__name__} expected")
    return value


def one_of(
    value: Any, names: Iterable[str], what: str, others: Mapping[str, str] | None = None
) -> str:
    """The name that is meant, in lower case, or InvalidArgument with the likely one.

    Parameters
    ----------
    value
        As the user wrote it.
    names : iterable of str
    what : str
        What the names are of.
    others : mapping, optional
        Names that other systems use, and ours for each: they are explained, not taken.
    """
    known = [str(name) for name in names]
    name = text(value, what).lower()
    if name in known:
        return name
    hint = ""
    if others and (ours := others.get(name.replace("-", "_").replace(" ", "_"))):
        hint = f": {name!r} is {ours!r} here"
    elif close := similar(name, known):
        hint = f": did you mean {close!r}?"
    raise InvalidArgument(
        f"unknown {what} {shown(value)}; one of {', '.join(known)} expected{hint}"
    )


def install(extra: str) -> str:
    """The commands that install an extra: from an index of packages, or from a checkout."""
    return f"pip install 'teravec[{extra}]', or in a checkout pip install '.[{extra}]'"


def similar(name: str, known: Iterable[str]) -> str | None:
    """The known name that a misspelt one is likely to be; None where none is near."""
    return next(iter(difflib.get_close_matches(name, list(known), 1, 0.6)), None)
