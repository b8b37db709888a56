"""How many processors this process may use, given its machine, affinity and container."""

from __future__ import annotations

import math
import os
from pathlib import Path

from teravec.cgroups import processor_quotas
from teravec.errors import InvalidArgument, whole_number

__all__ = ["MOST_THREADS", "check_threads", "check_workers", "default_threads"]

MOST_THREADS = 4096
"""More than the processors of any machine; a larger number of threads is a typing error."""

_MOST_WORKERS = 1 << 16  # more than any cluster has


def default_threads(root: Path = Path("/")) -> int:
    """Count the processors that this process may use now; a quota of 1.5 gives 2 threads.

    Parameters
    ----------
    root : Path
        Directory to look for control groups in; tests pass another one.
    """
    try:
        processors = len(os.sched_getaffinity(0))
    except (OSError, AttributeError):  # a sandbox may forbid the call
        processors = os.cpu_count() or 1
    return max(1, min([processors, *map(math.ceil, processor_quotas(root))]))


def check_threads(threads: int | None) -> None:
    """Raise InvalidArgument unless ``threads`` is None or a plausible number for a machine."""
    if threads is not None and not 1 <= whole_number(threads, "threads") <= MOST_THREADS:
        raise InvalidArgument(f"threads is {threads}; 1 to {MOST_THREADS:,} expected")


def check_workers(workers: int | None, what: str = "workers") -> None:
    """Raise InvalidArgument unless ``workers`` is None or a plausible number for a cluster."""
    if workers is not None and not 1 <= whole_number(workers, what) <= _MOST_WORKERS:
        raise InvalidArgument(f"{what} is {workers}; 1 to {_MOST_WORKERS:,} expected")
