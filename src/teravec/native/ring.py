"""Opening a ring of io_uring, for which nothing stands in."""

from __future__ import annotations

import errno
from typing import Any

from teravec.native import extensions

__all__ = ["open_ring"]


def open_ring(depth: int) -> Any:
    """Open a ring for at most ``depth`` reads in flight.

    Raises
    ------
    OSError
        The kernel is older than Linux 5.6, or forbids io_uring; or the extension is missing.
    """
    if extensions.ringing is None:
        raise OSError(errno.ENOSYS, "not compiled")
    return extensions.ringing.Ring(depth)
