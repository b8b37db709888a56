"""The standard streams of this process, by their descriptors."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

__all__ = ["discard_output", "open_streams"]


def discard_output() -> None:
    """Redirect buffered output to nowhere; otherwise Python's exit would write it and fail again.

    References
    ----------
    Python's documentation of ``signal``, "Note on SIGPIPE".
    """
    with suppress(OSError, AttributeError):  # the stream is no file, as in a test
        number = sys.stdout.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def open_streams() -> None:
    """Open standard streams that the parent process closed, so that no file takes their numbers.

    Their output goes nowhere, so that errors never end up in standard output or in a data file.

    References
    ----------
    gnulib's ``stdopen``: the same for the GNU tools.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, mode)  # gets the lowest free number
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
