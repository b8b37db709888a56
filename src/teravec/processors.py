"""How many processors this process may use: of the machine, its affinity and its container."""

from __future__ import annotations

import math
import os
from pathlib import Path

from teravec.cgroups import processor_quotas
from teravec.errors import InvalidArgument, whole_number

__all__ = ["MOST_THREADS", "check_threads", "check_workers", "default_threads"]

MOST_THREADS = 4096
"""More threads than any machine has processors: a number above is a slip."""

_MOST_WORKERS = 1 << 16  # more than any cluster has: likewise


def default_threads(root: Path = Path("/")) -> int:
    """Processors that this process may use now: a quota of 1.5 processors gives 2 threads.

    Parameters
    ----------
    root : Path
        Where control groups are looked for; another one in tests.
    """
    try:
        processors = len(os.sched_getaffinity(0))
    except (OSError, AttributeError):  # a sandbox may forbid the question
        processors = os.cpu_count() or 1
    return max(1, min([processors, *map(math.ceil, processor_quotas(root))]))


def check_threads(threads: int | None) -> None:
    """Raise InvalidArgument unless ``threads`` is None or a number that a machine may have."""
    if threads is not None and not 1 <= whole_number(threads, "threads") <= MOST_THREADS:
        raise InvalidArgument(f"threads is {threads}; 1 to {MOST_THREADS:,} expected")


def check_workers(workers: int | None, what: str = "workers") -> None:
    """Raise InvalidArgument unless ``workers`` is None or a number that a cluster may have."""
    if workers is not None and not 1 <= whole_number(workers, what) <= _MOST_WORKERS:
        raise InvalidArgument(f"{what} is {workers}; 1 to {_MOST_WORKERS:,} expected")
