"""Memory limits: how they are written, and the default."""

from __future__ import annotations

import os
import re
from fractions import Fraction

from teravec.arguments import real_number, whole_number
from teravec.errors import InvalidArgument, MemoryLimitTooSmall, shown

__all__ = ["MIB", "default_memory", "parse_bytes", "require"]

MIB = 1 << 20
_DEFAULT = 4 << 30
# Python refuses to read numbers of more than 4,300 digits, in its own words.
_PATTERN = re.compile(
    r"\s*(\d{1,4000}(?:\.\d{0,30})?(?:e\+?\d{1,2})?)\s*([KMGT]i|[KMGT])?B?\s*",
    re.IGNORECASE | re.ASCII,
)
_SUFFIX = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


def parse_bytes(text: str | int | float, what: str = "a size") -> int:
    """Bytes written as ``512MiB``, ``4GB``, ``4g``, ``1.5 GiB``, ``5e8`` or a plain number.

    Numbers of Python and NumPy are taken where they are whole, as ``5e8`` is.

    Raises
    ------
    InvalidArgument
        Something else, or a negative number.
    """
    if not isinstance(text, str):
        number = real_number(text, what)
        if number != int(number):
            raise InvalidArgument(f"{what} is {shown(text)}; a whole number of bytes expected")
        # An int keeps all its digits; of a float they were never there.
        return whole_number(text if hasattr(text, "__index__") else int(number), what, 0)
    match = _PATTERN.fullmatch(text)
    if match is None:
        percent = ": a share of memory is not taken" if "%" in text else ""
        raise InvalidArgument(
            f"{what} is {shown(text)}, which is not a number of bytes; as 512MiB, 4GB or 5e8 "
            f"expected{percent}"
        )
    suffix = (match[2] or "").upper().replace("I", "i")
    return int(Fraction(match[1]) * {**_SUFFIX, **_BINARY}[suffix])


def default_memory() -> int:
    """4 GiB, or half of this machine's memory where that is less; in bytes."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(_DEFAULT, physical // 2)


def require(needed_bytes: int, limit_bytes: int, what: str) -> None:
    """Raise MemoryLimitTooSmall unless ``needed_bytes`` fit in the limit."""
    if needed_bytes > limit_bytes:
        raise MemoryLimitTooSmall(
            f"{what} needs {needed_bytes / MIB:,.0f} MiB; "
            f"the memory limit is {limit_bytes / MIB:,.0f} MiB"
        )
