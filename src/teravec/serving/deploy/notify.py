"""Messages to the service manager: systemd's notification protocol, see sd_notify(3)."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

__all__ = ["Notifier", "Ping", "watching"]

log = logging.getLogger(__name__)

Ping = Callable[[Callable[[], None]], None]
"""Has an event loop call a function as soon as it runs."""

_SEND_S = 0.5  # a manager that does not read its socket must not hold up the server
_BEATS = 4  # per watchdog time, so that a slow one is not yet a late one


class Notifier:
    """Sends the state of this process to the manager that started it, if that asked for it.

    Parameters
    ----------
    environment : mapping of str
        ``NOTIFY_SOCKET`` names the manager's socket. ``WATCHDOG_USEC`` is the longest time between
        two beats in microseconds, for the process ``WATCHDOG_PID``.

    Attributes
    ----------
    watchdog_s : float or None
        Longest time between two beats. None: no beats are expected.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = _socket_name(environment.get("NOTIFY_SOCKET", ""))
        self.watchdog_s = _watchdog_s(environment) if self._address else None
        self._failed = False

    def ready(self, status: str) -> None:
        """Requests are answered from now on, or again."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload begins; ``ready`` ends it."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def stopping(self) -> None:
        """The process drains and ends."""
        self._send("STOPPING=1", "STATUS=draining")

    def beat(self) -> None:
        """The process is healthy."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        text = "\n".join(line.replace("\n", " ") for line in lines)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(_SEND_S)
                sender.sendto(text.encode(), self._address)
        except OSError as error:
            if not self._failed:
                log.warning("the service manager's socket takes no messages: %s", error)
            self._failed = True


def _socket_name(name: str) -> str:
    """Return the address of a socket; an @ stands for the zero byte of the abstract name space."""
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else ""


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Return the seconds between two beats; None if no beats are expected from this process."""
    try:
        microseconds = int(environment["WATCHDOG_USEC"])
        process = int(environment.get("WATCHDOG_PID", os.getpid()))
    except (KeyError, ValueError):
        return None
    return microseconds / 1e6 if microseconds > 0 and process == os.getpid() else None


@contextmanager
def watching(notifier: Notifier, loops: Mapping[str, Ping]) -> Iterator[None]:
    """Send beats while the body runs and all event loops run.

    A loop that hangs stops the beats, and the manager then restarts the process. A long search or
    reload does not: neither runs on a loop.

    Parameters
    ----------
    notifier : Notifier
    loops : mapping of Ping
        By name, for the log.
    """
    if notifier.watchdog_s is None:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(
        target=_beat, args=(notifier, loops, ended), name="teravec-watchdog", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _beat(notifier: Notifier, loops: Mapping[str, Ping], ended: threading.Event) -> None:
    assert notifier.watchdog_s is not None
    pause_s = notifier.watchdog_s / _BEATS
    silent: Sequence[str] = ()
    while not ended.is_set():
        started_s = time.monotonic()
        before, silent = silent, _silent(loops, pause_s)
        if not silent:
            notifier.beat()
        elif silent != before:
            log.error("no beat for the watchdog: the event loop of %s hangs", " and ".join(silent))
        ended.wait(max(0.0, pause_s - (time.monotonic() - started_s)))


def _silent(loops: Mapping[str, Ping], timeout_s: float) -> list[str]:
    """Return the loops that do not run within ``timeout_s``."""
    until_s = time.monotonic() + timeout_s
    answered = {name: threading.Event() for name in loops}
    for name, ping in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop has ended
            ping(answered[name].set)
    return [
        name
        for name, event in answered.items()
        if not event.wait(max(0.0, until_s - time.monotonic()))
    ]
