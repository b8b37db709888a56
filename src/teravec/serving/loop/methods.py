"""What a port can be asked, apart from how it is asked: methods, replies and refusals."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from teravec.serving.server.port_times import PortTimes

__all__ = ["Asking", "Bounds", "Caller", "Method"]


@dataclass(frozen=True)
class Bounds:
    """Bounds of a port.

    Parameters
    ----------
    workers : int
        Messages answered at a time.
    calls : int
        Open calls.
    connections : int
        Open connections. One more is accepted if an idle one can be closed for it.
    times : PortTimes
        How long callers may take.
    """

    workers: int
    calls: int
    connections: int = 4096
    times: PortTimes = field(default_factory=PortTimes)


@dataclass(frozen=True)
class Method:
    """The behaviour of one path.

    Parameters
    ----------
    most_bytes : int
        Largest message.
    answer : callable
        Takes the call and a message (None if the caller ended without one). Returns the reply or
        raises the protocol's refusal. Runs on its own thread.
    refuse : callable
        Makes the reply that reports a call's error.
    refuse_unread : callable
        Makes the reply that reports a call's error before a message was read to its end.
    gather : callable, optional
        Reads a message on the event loop. Returns a key and what was read if the message can be
        answered together with others of this key.
    answer_together : callable
        Takes calls and what was read of their messages; returns their replies. Runs on a worker.
    """

    most_bytes: int
    answer: Callable[[Any, memoryview | None], Any]
    refuse: Callable[[Exception, Any], Any]
    refuse_unread: Callable[[Exception, Any], Any]
    gather: Callable[[Any, memoryview], tuple[Hashable, Any] | None] | None = None
    answer_together: Callable[[Sequence[tuple[Any, Any]]], Sequence[Any]] | None = None


class Caller(Protocol):
    """Who opened a call."""

    @property
    def share(self) -> str:
        """Its name for fairness; empty if it has no share of its own."""


class Asking(Protocol):
    """A call, as the workers see it."""

    method: Method
    connection: Any

    def run(self, message: memoryview | None) -> Any:
        """Compute the reply to a message, on a worker."""

    def answered(self, reply: Any) -> None:
        """Send a worker's reply; on the loop."""

    def refuse_busy(self) -> Any:
        """Make the reply for a message that no worker takes."""
