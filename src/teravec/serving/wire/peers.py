"""Several addresses of the same index: the client asks another one when the first is overdue."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty
from typing import Any

from teravec.errors import (
    Busy,
    DeadlineExceeded,
    InvalidArgument,
    OtherIndex,
    TeravecError,
    Unavailable,
)
from teravec.serving.wire.calls import Arrivals, Call
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.overdue import HedgeBudget, Usual
from teravec.serving.wire.peer import ServerPeer, answer_of
from teravec.serving.wire.protocol import Answer

__all__ = ["Peers", "Question"]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0
_SLACK_S = 0.25  # for a server's own 'deadline exceeded' to arrive
# A coordinator asks a second server after 0.02 s at the earliest; its answer is not overdue then.
_OVERDUE_LEAST_S, _OVERDUE_MOST_S, _OVERDUE_UNKNOWN_S = 0.1, 2.0, 0.25
_OVERDUE_SHARE = 1 / 3  # of the time left: another address needs time as well
_ALWAYS_HEDGE_S = 1.0  # a call this late is asked elsewhere, budget or not
_PATIENCE_S = 0.5  # with an action, before the next address is asked
_AVOID_S, _AVOID_MOST_S = 1.0, 60.0
_AGAIN = (Busy, Unavailable, OtherIndex, DeadlineExceeded)  # may pass; other errors stay


@dataclass(frozen=True)
class Question:
    """A request that may be asked twice.

    Parameters
    ----------
    method : str
    frame : callable
        Makes the request's frame; called for each address, since it holds the seconds left.
    size : int
        Bytes to scan, roughly: requests of about the same size take about the same time.
    check : callable
        Raises ProtocolError where an answer cannot be the answer to this.
    of_one_version : bool
        It names the version that must answer: an address that has another one stays so.
    """

    method: str
    frame: Callable[[], bytes]
    size: int
    check: Callable[[Answer], None]
    of_one_version: bool = False


@dataclass
class _Remembered:
    """What the last requests showed of one address."""

    faults: int = 0
    avoid_until_s: float = 0.0


class Peers:
    """Addresses of the same index, for any number of threads.

    Requests go to the address that answered last. One that was slow or failed is avoided for
    a while, longer each time, until it answers again.

    Parameters
    ----------
    peers : sequence of ServerPeer
        Closed with these.
    """

    def __init__(self, peers: Sequence[ServerPeer]) -> None:
        self._peers = tuple(peers)
        self._lock = threading.Lock()
        self._first = 0  # the one that answered last
        self._remembered = [_Remembered() for _ in self._peers]
        self._usual = Usual(_OVERDUE_LEAST_S, _OVERDUE_MOST_S, _OVERDUE_UNKNOWN_S)
        self._budget = HedgeBudget()

    @property
    def addresses(self) -> list[str]:
        """All addresses."""
        return [str(peer.address) for peer in self._peers]

    def ask(self, question: Question, deadline: Deadline) -> tuple[Answer, int]:
        """The first good answer of any address, and the bytes that were sent and received.

        Raises
        ------
        TeravecError
            DeadlineExceeded, or what the addresses said last.
        """
        return _Asking(self, question, deadline).answer()

    def tell(self, action: str, deadline: Deadline, body: bytes = b"") -> dict[str, Any]:
        """What an action tells at the first address that answers; raises as ``ask``.

        Each address gets some time, then the next one has its turn; more in each round.
        """
        patience_s, rounds = _PATIENCE_S, _Rounds(deadline)
        while True:
            for number in self.order():
                least = Deadline.after(patience_s)
                try:
                    content = self._peers[number].tell(
                        action, min(least, deadline) if len(self._peers) > 1 else deadline, body
                    )
                except InvalidArgument:
                    raise
                except TeravecError as error:
                    self.failed(number, error)
                    rounds.failed(error)
                else:
                    self.answered(number)
                    return content
            rounds.pause()
            patience_s *= 2

    def order(self) -> list[int]:
        """Numbers of the addresses, the one to ask first at the beginning."""
        count, now_s = len(self._peers), time.monotonic()
        if count == 1:
            return [0]
        with self._lock:
            ring = [(self._first + n) % count for n in range(count)]
            return sorted(ring, key=lambda n: self._remembered[n].avoid_until_s > now_s)

    def send(self, number: int, question: Question, arrivals: Arrivals, *, hedge: bool) -> Call:
        """Send a question to one address."""
        with self._lock:
            self._budget.started(hedge=hedge)
        return self._peers[number].send(question.method, question.frame(), arrivals)

    def take(self, number: int, call: Call) -> tuple[Answer, int]:
        """The answer that a call brought from an address, and its bytes; or its error."""
        return answer_of(call, self._peers[number].address)

    def overdue_after_s(self, size: int) -> float:
        """Seconds after which a question of this size is overdue."""
        with self._lock:
            return self._usual.overdue_after_s(size)

    def may_hedge(self) -> bool:
        """Whether one more question may be asked twice."""
        return self._budget.may_hedge

    def answered(self, number: int, size: int = 0, seconds: float | None = None) -> None:
        """An address answered, to a question of ``size`` after ``seconds``."""
        with self._lock:
            self._first = number
            self._remembered[number].faults = 0
            self._remembered[number].avoid_until_s = 0.0
            if seconds is not None:
                self._usual.learn(size, seconds)

    def failed(self, number: int, error: Exception | None = None) -> None:
        """An address failed, or (without an error) is overdue: ask it after the others."""
        if isinstance(error, Busy | OtherIndex):
            return
        with self._lock:
            remembered, now_s = self._remembered[number], time.monotonic()
            if remembered.avoid_until_s > now_s:
                return  # one of many requests that met the same fault
            remembered.avoid_until_s = now_s + min(_AVOID_MOST_S, _AVOID_S * 2**remembered.faults)
            remembered.faults += 1

    def close(self) -> None:
        """Close the connections."""
        for peer in self._peers:
            peer.close()


class _Rounds:
    """Rounds over all addresses, until the deadline.

    Pauses between them grow, and are random, so that clients do not come back all at once.
    """

    def __init__(
        self, deadline: Deadline, passing: tuple[type[TeravecError], ...] = _AGAIN
    ) -> None:
        self._deadline, self._pause_s = deadline, _FIRST_PAUSE_S
        self._passing = passing
        self._errors: list[Exception] = []  # of this round
        self._reason: Exception | None = None  # why earlier rounds failed

    def failed(self, error: Exception) -> None:
        """An address failed."""
        self._errors.append(error)
        if self._reason is None or not isinstance(error, DeadlineExceeded):
            self._reason = error
        if not self._deadline.left_s:
            raise self._reason from None

    def pause(self) -> None:
        """Pause before the next round; raise what failed where that is of no use."""
        lasting = [error for error in self._errors if not isinstance(error, self._passing)]
        wait_s = self._pause_s * random.uniform(0.5, 1.0)
        if len(lasting) == len(self._errors) or self._deadline.left_s <= wait_s:
            raise (lasting or [self._reason or Unavailable("no server was asked")])[0]
        self._errors = []
        time.sleep(wait_s)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def over(self, error: Exception) -> Exception:
        """What to raise when the deadline is over: the reason, where one is known."""
        return self._reason or error


@dataclass
class _UnderWay:
    number: int
    started_s: float
    frame_bytes: int


class _Asking:
    """One question, asked until one address has answered well."""

    def __init__(self, peers: Peers, question: Question, deadline: Deadline) -> None:
        self._peers, self._question, self._deadline = peers, question, deadline
        self._arrivals = Arrivals()
        self._under_way: dict[Call, _UnderWay] = {}
        again = tuple(kind for kind in _AGAIN if kind is not OtherIndex)
        self._rounds = _Rounds(deadline, again if question.of_one_version else _AGAIN)
        self._hedge_at_s = 0.0

    def answer(self) -> tuple[Answer, int]:
        """The first good answer; what is still under way then is given up."""
        try:
            while True:
                waiting = self._peers.order()
                while waiting or self._under_way:
                    if not self._under_way:
                        self._send(waiting.pop(0), hedge=False)
                    found = self._next(waiting)
                    if found is not None:
                        return found
                self._rounds.pause()
        finally:
            for call in self._under_way:
                call.give_up()

    def _send(self, number: int, *, hedge: bool) -> None:
        self._deadline.check()
        call = self._peers.send(number, self._question, self._arrivals, hedge=hedge)
        now_s = time.monotonic()
        self._under_way[call] = _UnderWay(number, now_s, len(call.frame))
        overdue_s = self._peers.overdue_after_s(self._question.size)
        self._hedge_at_s = now_s + min(overdue_s, _OVERDUE_SHARE * self._deadline.left_s)

    def _next(self, waiting: list[int]) -> tuple[Answer, int] | None:
        """Wait for an answer, or until the call is overdue and others wait for their turn."""
        timeout_s = self._deadline.left_s + _SLACK_S
        if waiting:
            timeout_s = min(timeout_s, max(0.0, self._hedge_at_s - time.monotonic()))
        try:
            call = self._arrivals.get(timeout=timeout_s)
        except Empty:
            if not self._deadline.left_s:
                asked = ", ".join(self._peers.addresses)
                late = DeadlineExceeded(f"{asked}: no answer in time")
                raise self._rounds.over(late) from None
            self._hedge(waiting)
            return None
        sent = self._under_way.pop(call)
        try:
            answer, size = self._peers.take(sent.number, call)
            self._question.check(answer)
        except InvalidArgument:
            raise
        except TeravecError as error:
            self._peers.failed(sent.number, error)
            self._rounds.failed(error)
            return None
        self._peers.answered(sent.number, self._question.size, call.ended_s - sent.started_s)
        return answer, size + sent.frame_bytes

    def _hedge(self, waiting: list[int]) -> None:
        """Ask the next address too."""
        now_s = time.monotonic()
        late_s = now_s - min(sent.started_s for sent in self._under_way.values())
        left_s = self._deadline.left_s
        if not self._peers.may_hedge() and late_s < min(_ALWAYS_HEDGE_S, _OVERDUE_SHARE * left_s):
            self._hedge_at_s = now_s + min(_ALWAYS_HEDGE_S, _OVERDUE_SHARE * left_s) - late_s
            return
        for sent in self._under_way.values():
            self._peers.failed(sent.number)
        self._send(waiting.pop(0), hedge=True)
