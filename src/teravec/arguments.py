"""Checks of the arguments of public calls: what counts as a number, a path or a text.

Python checks no types, and NumPy's scalars are not Python's. Every check returns a plain Python
value, or raises InvalidArgument with one line: the argument's name, what was found, and what was
expected.
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
    "check_ranges",
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
    """Return the value as a finite float, or raise InvalidArgument.

    Accepts numbers of any library, 0-dimensional arrays included. Refuses strings and booleans.
    ``expected`` describes the bounds in the message.
    """
    kind = getattr(getattr(value, "dtype", None), "kind", "f")
    # NumPy's masked scalar converts to a number without complaint, but holds none.
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
    """Whether the value is a masked element of a masked array."""
    return type(value).__name__ == "MaskedConstant"


def whole_numbers(values: Any, what: str, least: int | None = None) -> tuple[int, ...]:
    """Return a sequence's whole numbers, or raise InvalidArgument; a string is no sequence here."""
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
    """Return a range [start, stop), or None for None; raise InvalidArgument otherwise."""
    if value is None:
        return None
    numbers = whole_numbers(value, what, 0)
    if len(numbers) != 2:
        raise InvalidArgument(f"{what} is {shown(value)}; two numbers, start and stop, expected")
    return numbers[0], numbers[1]


def check_ranges(value: Any, what: str) -> tuple[int, int] | tuple[tuple[int, int], ...] | None:
    """Return a range as ``check_range`` does, or a tuple of several ranges."""
    if isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple):
        return tuple(found for each in value if (found := check_range(each, what)) is not None)
    return check_range(value, what)


def path_of(value: Any, what: str) -> Path:
    """Return the path that a str or an ``os.PathLike`` names, or raise InvalidArgument."""
    try:
        name = os.fsdecode(value)
    except TypeError:
        raise InvalidArgument(f"{what} is {shown(value)}; a path expected") from None
    if not name:  # likely an unset variable; Path would read it as the working directory
        raise InvalidArgument(f"{what} is empty; a path expected")
    if "\0" in name:
        raise InvalidArgument(f"{what} is {shown(name)}; a path has no null characters")
    return Path(name)


def text(value: Any, what: str) -> str:
    """Return the value if it is a string, or raise InvalidArgument."""
    if not isinstance(value, str):
        raise InvalidArgument(f"{what} is {shown(value)}; a text expected")
    return str(value)


def flag(value: Any, what: str) -> bool:
    """Return the value if it is a bool of Python or NumPy, or raise InvalidArgument."""
    if value is True or value is False:
        return value
    if getattr(getattr(value, "dtype", None), "kind", "") == "b" and value.ndim == 0:
        return bool(value)
    raise InvalidArgument(f"{what} is {shown(value)}; True or False expected")


def instance(value: Any, kind: type[T], what: str) -> T:
    """Return the value if it has this type, or raise InvalidArgument."""
    if not isinstance(value, kind):
        raise InvalidArgument(f"{what} is {shown(value)}; a {kind.__name__} expected")
    return value


def one_of(
    value: Any, names: Iterable[str], what: str, others: Mapping[str, str] | None = None
) -> str:
    """Return one of the names, in lower case, or raise InvalidArgument with the likely name.

    Parameters
    ----------
    value
        As the user wrote it.
    names : iterable of str
    what : str
        What is being named, such as "codec".
    others : mapping, optional
        Names in other systems, each with our name. They are refused with a hint.
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
    """Return the commands that install an extra, from a package index or from a checkout."""
    return f"pip install 'teravec[{extra}]', or in a checkout pip install '.[{extra}]'"


def similar(name: str, known: Iterable[str]) -> str | None:
    """Return the known name nearest to a misspelt one, or None if none is near."""
    return next(iter(difflib.get_close_matches(name, list(known), 1, 0.6)), None)
