"""One search over many servers: send, wait, ask another where one is slow or fails, gather."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field

import numpy as np

from teravec.errors import DeadlineExceeded, InvalidArgument, ProtocolError, TeravecError
from teravec.serving.deadline import Deadline
from teravec.serving.fleet import Fleet
from teravec.serving.flight_client import Call
from teravec.serving.merging import Part
from teravec.serving.metrics import Metrics
from teravec.serving.rounds import Round
from teravec.serving.shares import Pairs, shared_out

__all__ = ["FanOut"]

_UNOWNED_WAIT_S = 1.5  # for a server to be noticed that has come, or come back
_UNOWNED_PAUSE_S = 0.05
_ALWAYS_HEDGE_S = 1.0  # a call this late is asked elsewhere, budget or not


@dataclass(eq=False)
class _Sent:
    """A call under way."""

    address: str
    pairs: Pairs
    size: int
    started_s: float
    call: Call = field(default_factory=Call)


@dataclass(eq=False)
class _Attempt:
    """Calls that together answer a task."""

    waiting: dict[Future[Part], _Sent]
    parts: list[Part] = field(default_factory=list)


@dataclass(eq=False)
class _Task:
    """Pairs to be answered once, by whichever attempt is first."""

    pairs: Pairs
    excluded: frozenset[str]
    attempts: list[_Attempt]
    hedge_at_s: float
    hedged: bool = False


class FanOut:
    """Searches pairs of queries and lists on the servers that own the lists.

    Parameters
    ----------
    fleet : Fleet
    metrics : Metrics
    round : Round
    deadline : Deadline
    """

    def __init__(self, fleet: Fleet, metrics: Metrics, round: Round, deadline: Deadline) -> None:
        self._fleet, self._metrics, self._version = fleet, metrics, round.version
        self._round, self._deadline = round, deadline
        self._tasks: list[_Task] = []
        self._unowned: list[Pairs] = []
        self._wait_until_s = time.monotonic() + min(_UNOWNED_WAIT_S, deadline.left_s / 2)
        self._parts: list[Part] = []

    def search(self, pairs: Pairs) -> tuple[list[Part], list[Pairs]]:
        """Parts of the answer, and the pairs that no live server could answer.

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
        """Share pairs out; each share is a task."""
        shares, left = shared_out(pairs, self._fleet.owners(self._version, excluded))
        for address, share in shares.items():
            attempt = _Attempt(self._send([(address, share)], hedge=False))
            hedge_s = self._fleet.hedge_after_s(share.total_bytes)
            self._tasks.append(_Task(share, excluded, [attempt], time.monotonic() + hedge_s))
        if len(left):
            self._unowned.append(left)

    def _retry_unowned(self) -> bool:
        """Try pairs without an owner again, for a moment; False when that is over."""
        if not self._unowned or time.monotonic() >= self._wait_until_s:
            return False
        time.sleep(_UNOWNED_PAUSE_S)
        unowned, self._unowned = self._unowned, []
        for pairs in unowned:
            self._begin(pairs, frozenset())
        return True

    def _advance(self) -> None:
        """Wait for the next answer, failure or overdue call, and act on it."""
        waiting = [f for task in self._tasks for a in task.attempts for f in a.waiting]
        if not waiting:
            return
        hedges = [task.hedge_at_s for task in self._tasks if not task.hedged]
        until = min([self._deadline.at_s, *hedges])
        wait(waiting, max(0.0, until - time.monotonic()), FIRST_COMPLETED)
        for task in list(self._tasks):
            self._collect(task)
        now_s = time.monotonic()
        for task in self._tasks:
            if not task.hedged and task.hedge_at_s <= now_s:
                self._hedge(task, now_s)

    def _collect(self, task: _Task) -> None:
        """Take in what a task's calls have brought."""
        for attempt in list(task.attempts):
            for future in [f for f in attempt.waiting if f.done()]:
                sent = attempt.waiting.pop(future)
                try:
                    attempt.parts.append(future.result())
                except InvalidArgument as error:
                    self._fleet.failed(sent.address, sent.size, error)
                    raise
                except TeravecError as error:
                    self._fleet.failed(sent.address, sent.size, error)
                    task.excluded |= {sent.address}
                    task.attempts.remove(attempt)
                    self._give_up([attempt])
                    break
                seconds = time.monotonic() - sent.started_s
                self._fleet.answered(sent.address, sent.size, seconds)
            else:
                if not attempt.waiting:
                    self._finish(task, attempt)
                    return
        if not task.attempts:
            self._tasks.remove(task)
            self._metrics.retry("failed")
            self._begin(task.pairs, task.excluded)

    def _finish(self, task: _Task, attempt: _Attempt) -> None:
        self._tasks.remove(task)
        self._parts += attempt.parts
        task.attempts.remove(attempt)
        self._give_up(task.attempts)

    def _give_up(self, attempts: Iterable[_Attempt]) -> None:
        for attempt in attempts:
            for sent in attempt.waiting.values():
                sent.call.give_up()
                seconds = time.monotonic() - sent.started_s
                self._fleet.given_up(sent.address, sent.size, seconds)
            attempt.waiting.clear()

    def _hedge(self, task: _Task, now_s: float) -> None:
        """Ask others too, where a task is overdue and others own its lists."""
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
            task.attempts.append(_Attempt(self._send(list(shares.items()), hedge=True)))

    def _send(
        self, shares: list[tuple[str, Pairs]], *, hedge: bool
    ) -> dict[Future[Part], _Sent]:  # fmt: skip
        waiting = {}
        for address, pairs in shares:
            sent = _Sent(address, pairs, pairs.total_bytes, time.monotonic())
            self._fleet.started(address, sent.size, hedge)
            waiting[self._fleet.pool.submit(self._call, sent)] = sent
        return waiting

    def _call(self, sent: _Sent) -> Part:
        """Ask one server, and check its answer."""
        rows, counts = np.unique(sent.pairs.rows, return_counts=True)
        if sent.call.given_up:
            raise DeadlineExceeded("given up")
        frame = self._round.frame(sent.pairs, rows, counts, max(0.001, self._deadline.left_s))
        self._metrics.moved("fanned-out", len(frame))
        answer, size = self._fleet.peer(sent.address).ask(
            self._round.method, frame, self._deadline, sent.call
        )
        self._metrics.moved("gathered", size)
        try:
            self._round.check(answer, sent.pairs, len(rows))
            if answer.version != self._version:
                raise ProtocolError(
                    f"index version {answer.version} answered, {self._version} asked for"
                )
        except ProtocolError as error:
            raise ProtocolError(f"{sent.address}: {error}") from None
        return Part(rows, answer)
