"""Memory limits: how they are written, and the default."""

from __future__ import annotations

import os
import re
from fractions import Fraction

from teravec.errors import InvalidArgument, MemoryLimitTooSmall

__all__ = ["MIB", "default_memory", "parse_bytes", "require"]

MIB = 1 << 20
_DEFAULT = 4 << 30
_SUFFIX = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


def parse_bytes(text: str | int) -> int:
    """Bytes written as ``512MiB``, ``4GB``, ``1.5GiB`` or a plain number."""
    if isinstance(text, int) and text >= 0:
        return text
    pattern = r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i|[KMGT])?B?\s*"
    match = re.fullmatch(pattern, str(text), re.IGNORECASE)
    if match is None:
        raise InvalidArgument(f"{text!r} is not a number of bytes; as 512MiB or 4GB expected")
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
