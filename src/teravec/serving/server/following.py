"""Going over to new versions of an index as they are committed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from teravec.errors import TeravecError

__all__ = ["FOLLOW_S", "Follower"]

log = logging.getLogger(__name__)

FOLLOW_S = 0.25
"""Between two looks for a newer version."""


class Follower:
    """A thread that looks for a newer version, again and again, or when it is told to.

    An error changes nothing: it is logged once as long as it stays the same, and the next look
    tries again.

    Parameters
    ----------
    look : callable
        Looks, and goes over to a newer version.
    interval_s : float

    Attributes
    ----------
    failures : int
        Looks that failed.
    """

    def __init__(self, look: Callable[[], object], interval_s: float) -> None:
        self._look, self._interval_s = look, interval_s
        self._wake, self._closed = threading.Event(), False
        self.failures, self._failed = 0, ""
        self._thread = threading.Thread(target=self._run, name="teravec-follow", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look now."""
        self._wake.set()

    def close(self) -> None:
        """End the thread, after a look under way."""
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(self._interval_s)
            self._wake.clear()
            if not self._closed:
                self._look_once()

    def _look_once(self) -> None:
        try:
            self._look()
            self._failed = ""
        except Exception as error:
            self.failures += 1
            if str(error) != self._failed:
                self._failed = str(error)
                unexpected = not isinstance(error, TeravecError)
                log.error("cannot follow the index: %s", error, exc_info=unexpected)
