"""Memory limits: parsing them, finding what the system allows, and the default."""

from __future__ import annotations

import logging
import os
import re
import resource
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path

from teravec.arguments import real_number, whole_number
from teravec.cgroups import memory_limits
from teravec.errors import InvalidArgument, MemoryLimitTooSmall, shown

__all__ = ["BESIDE_BYTES", "MIB", "default_memory", "granted_memory", "parse_bytes", "require"]

log = logging.getLogger(__name__)

MIB = 1 << 20
BESIDE_BYTES = 300 * MIB
"""Memory of the interpreter and its libraries, which comes on top of every limit."""

_DEFAULT = 4 << 30
# Python raises an error of its own for numbers of more than 4,300 digits.
_PATTERN = re.compile(
    r"\s*(\d{1,4000}(?:\.\d{0,30})?(?:e\+?\d{1,2})?)\s*([KMGT]i|[KMGT])?B?\s*",
    re.IGNORECASE | re.ASCII,
)
_SMALLEST_DEFAULT = 16 * MIB
_ROOT = Path("/")
_SUFFIX = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


def parse_bytes(text: str | int | float, what: str = "a size") -> int:
    """Parse a size such as ``512MiB``, ``4GB``, ``4g``, ``1.5 GiB``, ``5e8`` or a plain number.

    Also accepts whole numbers of Python and NumPy, including the float ``5e8``.

    Raises
    ------
    InvalidArgument
        Not a size, or a negative number.
    """
    if not isinstance(text, str):
        number = real_number(text, what)
        if number != int(number):
            raise InvalidArgument(f"{what} is {shown(text)}; a whole number of bytes expected")
        # An int keeps all its digits, so it must not pass through float.
        return whole_number(text if hasattr(text, "__index__") else int(number), what, 0)
    match = _PATTERN.fullmatch(text)
    if match is None:
        percent = ": a percentage is not accepted" if "%" in text else ""
        raise InvalidArgument(
            f"{what} is {shown(text)}, which is not a number of bytes; as 512MiB, 4GB or 5e8 "
            f"expected{percent}"
        )
    suffix = (match[2] or "").upper().replace("I", "i")
    return int(Fraction(match[1]) * {**_SUFFIX, **_BINARY}[suffix])


def default_memory(root: Path = _ROOT) -> int:
    """Return the default limit in bytes: half of the memory available now, at most 4 GiB.

    Every call asks the system again, because a container's limit and other programs' memory
    change. 300 MiB stay free for the interpreter and its libraries.

    Parameters
    ----------
    root : Path
        Directory to look for ``proc`` and control groups in; tests pass another one.
    """
    bounds = [limit for limit, _ in _find_limits(root)]
    bounds += [size for size, _ in (*_find_address_limits(root), *_find_available(root))]
    least = min(bounds)
    return max(_SMALLEST_DEFAULT, min(_DEFAULT, least // 2, least - BESIDE_BYTES))


def granted_memory(memory: str | int | None, root: Path = _ROOT) -> int:
    """Return a user's limit in bytes, or the default for None.

    A limit above the memory of the machine or container is accepted with a warning.

    Raises
    ------
    InvalidArgument
        Not a number of bytes, or 0.
    """
    if memory is None:
        return default_memory(root)
    memory_bytes = parse_bytes(memory)
    if memory_bytes < 1:
        raise InvalidArgument(f"memory is {memory}; at least 1 expected")
    least, why = min([*_find_limits(root), *_find_address_limits(root)])
    if memory_bytes + BESIDE_BYTES > least:
        _warn_once(
            f"memory {memory} and {BESIDE_BYTES // MIB} MiB for the interpreter are more than the "
            f"{least // MIB:,} MiB that {why} allows; the system may end this process"
        )
    return memory_bytes


@cache
def _warn_once(text: str) -> None:
    log.warning(text)


def _find_limits(root: Path) -> Iterator[tuple[int, str]]:
    """Yield the hard limits on this process's memory, in bytes, each with its origin."""
    yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "this machine"
    for limit, path in memory_limits(root):
        yield limit, f"the container ({path})"
    resident = resource.getrlimit(resource.RLIMIT_RSS)[0]
    if resident != resource.RLIM_INFINITY:
        yield resident, "ulimit -m"


def _find_address_limits(root: Path) -> Iterator[tuple[int, str]]:
    """Yield the bytes that limits on addresses leave; libraries use more addresses than memory."""
    taken = _read_kilobytes(root / "proc/self/status")
    for kind, name, option in (
        (resource.RLIMIT_AS, "VmSize", "ulimit -v"),
        (resource.RLIMIT_DATA, "VmData", "ulimit -d"),
    ):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            # The addresses in use include the interpreter, which is added to every limit later.
            yield max(0, limit - taken.get(name, 0)) + BESIDE_BYTES, option


def _find_available(root: Path) -> Iterator[tuple[int, str]]:
    """Yield the machine's available memory, which includes what the page cache would give up."""
    available = _read_kilobytes(root / "proc/meminfo").get("MemAvailable")
    if available:
        yield available, "what other programs leave"


def _read_kilobytes(path: Path) -> dict[str, int]:
    """Parse lines like ``VmSize:  1234 kB`` of a file of proc, in bytes; empty without a file."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return {}
    found = re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)
    return {name: int(value) << 10 for name, value in found}


def require(needed_bytes: int, limit_bytes: int, what: str) -> None:
    """Raise MemoryLimitTooSmall unless ``needed_bytes`` fit in the limit."""
    if needed_bytes > limit_bytes:
        raise MemoryLimitTooSmall(
            f"{what} needs {needed_bytes / MIB:,.0f} MiB; "
            f"the memory limit is {limit_bytes / MIB:,.0f} MiB"
        )
