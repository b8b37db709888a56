"""One search over many servers: send, wait, ask another if one is slow or fails, and gather."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from queue import Empty
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument, ProtocolError, TeravecError
from teravec.serving.coordinator.fleet import Fleet
from teravec.serving.coordinator.rounds import Round
from teravec.serving.coordinator.shares import Pairs, shared_out
from teravec.serving.server.merging import Part
from teravec.serving.server.metrics import Metrics
from teravec.serving.wire.calls import Arrivals, Call
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.peer import answer_of
from teravec.serving.wire.protocol import error_code
from teravec.serving.wire.tracing import Tracing

__all__ = ["FanOut", "wait_for_owners"]

_UNOWNED_WAIT_S = 1.5  # time for polling to notice a server that has come or returned
_UNOWNED_PAUSE_S = 0.05
_ALWAYS_HEDGE_S = 1.0  # a call this late goes to another owner, whatever the budget


@dataclass(eq=False)
class _Sent:
    """A call under way, for the queries ``rows``."""

    address: str
    pairs: Pairs
    rows: npt.NDArray[np.int64]
    size: int
    started_s: float
    attempt: _Attempt
    span: Any = None  # of its trace


@dataclass(eq=False)
class _Attempt:
    """Calls that answer a task together."""

    task: _Task
    waiting: dict[Call, _Sent] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)


@dataclass(eq=False)
class _Task:
    """Pairs that need one answer, from the first attempt that is complete."""

    pairs: Pairs
    excluded: frozenset[str]
    hedge_at_s: float
    attempts: list[_Attempt] = field(default_factory=list)
    hedged: bool = False


def wait_for_owners(deadline: Deadline) -> float:
    """Return the monotonic time until which one request waits for owners of lists to come."""
    return time.monotonic() + min(_UNOWNED_WAIT_S, deadline.left_s / 2)


class FanOut:
    """Searches pairs of queries and lists on the servers that own the lists.

    Parameters
    ----------
    fleet : Fleet
    metrics : Metrics
    round : Round
    deadline : Deadline
    wait_until_s : float
        Monotonic time until which lists without an owner are tried again; see ``wait_for_owners``.
    tracing : Tracing, optional
    """

    def __init__(
        self,
        fleet: Fleet,
        metrics: Metrics,
        round: Round,
        deadline: Deadline,
        wait_until_s: float,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self._fleet, self._metrics, self._version = fleet, metrics, round.version
        self._round, self._deadline = round, deadline
        self._tasks: list[_Task] = []
        self._arrivals = Arrivals()
        self._sent: dict[Call, _Sent] = {}
        self._unowned: list[Pairs] = []
        self._wait_until_s = wait_until_s
        self._parts: list[Part] = []

    def search(self, pairs: Pairs) -> tuple[list[Part], list[Pairs]]:
        """Return the parts of the answer, and the pairs that no live server could answer.

        Raises
        ------
        DeadlineExceeded
        InvalidArgument
            A server has a narrower bound than this one.
        """
        try:
            self._begin(pairs, frozenset())
            while self._tasks or self._retry_unowned():
                self._deadline.check()
                self._advance()
            return self._parts, self._unowned
        finally:
            for task in self._tasks:
                self._give_up(task.attempts)

    def _begin(self, pairs: Pairs, excluded: frozenset[str]) -> None:
        """Divide pairs among their owners; each share is a task."""
        shares, left = shared_out(pairs, self._fleet.owners(self._version, excluded))
        for address, share in shares.items():
            hedge_s = self._fleet.hedge_after_s(share.total_bytes)
            task = _Task(share, excluded, time.monotonic() + hedge_s)
            self._tasks.append(task)
            self._attempt(task, {address: share}, hedge=False)
        if len(left):
            self._unowned.append(left)

    def _retry_unowned(self) -> bool:
        """Try pairs without an owner again; False when their time is over."""
        if not self._unowned or time.monotonic() >= self._wait_until_s:
            return False
        time.sleep(_UNOWNED_PAUSE_S)
        unowned, self._unowned = self._unowned, []
        for pairs in unowned:
            self._begin(pairs, frozenset())
        return True

    def _advance(self) -> None:
        """Wait for the next answer, failure or overdue call, and act on it."""
        if not self._sent:
            return
        hedges = [task.hedge_at_s for task in self._tasks if not task.hedged]
        until_s = min([self._deadline.at_s, *hedges])
        try:
            call = self._arrivals.get(timeout=max(0.0, until_s - time.monotonic()))
        except Empty:
            now_s = time.monotonic()
            for task in self._tasks:
                if not task.hedged and task.hedge_at_s <= now_s:
                    self._hedge(task, now_s)
        else:
            if (sent := self._sent.pop(call, None)) is not None:  # else it was given up
                del sent.attempt.waiting[call]
                self._collect(call, sent)

    def _collect(self, call: Call, sent: _Sent) -> None:
        """Take the answer or the error of a call that has ended."""
        attempt, task = sent.attempt, sent.attempt.task
        try:
            attempt.parts.append(self._part(call, sent))
            self._end(sent, "ok")
        except InvalidArgument as error:
            self._end(sent, error_code(error))
            self._fleet.failed(sent.address, sent.size, error)
            raise
        except TeravecError as error:
            self._end(sent, error_code(error))
            self._fleet.failed(sent.address, sent.size, error)
            task.excluded |= {sent.address}
            task.attempts.remove(attempt)
            self._give_up([attempt])
            if not task.attempts:
                self._tasks.remove(task)
                self._metrics.retry("failed")
                self._begin(task.pairs, task.excluded)
            return
        self._fleet.answered(sent.address, sent.size, call.ended_s - sent.started_s)
        if not attempt.waiting:
            self._finish(task, attempt)

    def _finish(self, task: _Task, attempt: _Attempt) -> None:
        self._tasks.remove(task)
        self._parts += attempt.parts
        task.attempts.remove(attempt)
        self._give_up(task.attempts)

    def _give_up(self, attempts: Iterable[_Attempt]) -> None:
        for attempt in attempts:
            for call, sent in attempt.waiting.items():
                del self._sent[call]
                call.give_up()
                self._end(sent, "given-up")
                seconds = time.monotonic() - sent.started_s
                self._fleet.given_up(sent.address, sent.size, seconds)
            attempt.waiting.clear()

    def _hedge(self, task: _Task, now_s: float) -> None:
        """Send an overdue task to other owners of its lists too."""
        late_s = now_s - min(s.started_s for a in task.attempts for s in a.waiting.values())
        if not self._fleet.may_hedge() and late_s < _ALWAYS_HEDGE_S:
            task.hedge_at_s = now_s + min(_ALWAYS_HEDGE_S, 2 * late_s)
            return
        slow = {s.address for a in task.attempts for s in a.waiting.values()}
        owners = self._fleet.owners(self._version, task.excluded | slow)
        shares, left = shared_out(task.pairs, owners)
        task.hedged = True
        if not len(left):
            self._metrics.retry("slow")
            self._attempt(task, shares, hedge=True)

    def _attempt(self, task: _Task, shares: dict[str, Pairs], *, hedge: bool) -> None:
        """Send a task's pairs to servers, as another attempt."""
        attempt = _Attempt(task)
        task.attempts.append(attempt)
        for address, pairs in shares.items():
            rows, counts = pairs.by_query()
            size, now_s = pairs.total_bytes, time.monotonic()
            with self._traced(address, size, hedge) as span:
                left_s = max(0.001, self._deadline.at_s - now_s)
                frame = self._round.frame(pairs, rows, counts, left_s)
            call = self._fleet.send(address, self._round.method, frame, self._arrivals)
            self._fleet.started(address, size, hedge)
            self._metrics.moved("fanned-out", len(frame))
            sent = _Sent(address, pairs, rows, size, now_s, attempt, span)
            attempt.waiting[call] = self._sent[call] = sent

    def _traced(self, address: str, size: int, hedge: bool) -> AbstractContextManager[Any]:
        """Begin the span of a call, if there is a trace."""
        if self._tracing is None:
            return nullcontext()
        return self._tracing.call(self._round.method, address, hedge=hedge, size=size)

    def _end(self, sent: _Sent, code: str) -> None:
        if self._tracing is not None:
            self._tracing.end(sent.span, code)

    def _part(self, call: Call, sent: _Sent) -> Part:
        """Return the checked answer of a call."""
        answer, size = answer_of(call, sent.address)
        self._metrics.moved("gathered", size)
        try:
            self._round.check(answer, sent.pairs, len(sent.rows))
            if answer.version != self._version:
                raise ProtocolError(
                    f"index version {answer.version} answered, {self._version} asked for"
                )
        except ProtocolError as error:
            raise ProtocolError(f"{sent.address}: {error}") from None
        return Part(sent.rows, answer)
