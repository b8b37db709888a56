"""What a coordinator knows of its servers: a state machine without clocks or connections.

Events go in with the time they happened; decisions come out. Nothing here waits or sends.

::

    UNKNOWN --status--> LIVE --failure--> DOWN --status--> LIVE
       |                 |  ^
       |                 |  '-- not draining any more
       '--wrong index    '--draining or wrong index--> REFUSED

A status comes from polling; a failure from polling or from a search.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from teravec.serving.overdue import HedgeBudget, Usual
from teravec.serving.served import Ranges

__all__ = ["Replica", "Replicas", "State"]

_SLOW_FACTOR, _SLOW_HALF_LIFE_S = 2.0, 5.0
_QUARANTINE_S, _QUARANTINE_MOST_S = 2.0, 60.0
_BUSY_S = 0.05  # how long one that said 'busy' is asked last


class State(StrEnum):
    """Whether a server is asked."""

    UNKNOWN = "unknown"
    LIVE = "live"
    DOWN = "down"
    REFUSED = "refused"


@dataclass
class Replica:
    """One server, as seen from here.

    Attributes
    ----------
    state : State
    why : str
        What is wrong, where something is.
    versions : dict of Ranges
        Lists owned, by version of the index.
    outstanding_bytes : int
        To scan, of the calls that are under way.
    calls, failures, hedges : int
    slowness : float
        How many times longer than expected it takes, smoothed; it fades with time.
    """

    address: str
    state: State = State.UNKNOWN
    why: str = "not asked yet"
    versions: dict[str, Ranges] = field(default_factory=dict)
    outstanding_bytes: int = 0
    calls: int = 0
    turn: int = 0
    failures: int = 0
    hedges: int = 0
    slowness: float = 1.0
    slowness_at_s: float = 0.0
    busy_until_s: float = 0.0
    quarantined_until_s: float = -math.inf
    harms: int = 0
    latency_s: float = 0.0
    seen_at_s: float = -math.inf

    def slowness_at(self, now_s: float) -> float:
        """Slowness now: what is not measured again fades, so that it is tried again."""
        age = max(0.0, now_s - self.slowness_at_s)
        return float(1.0 + (self.slowness - 1.0) * 0.5 ** (age / _SLOW_HALF_LIFE_S))

    def load(self, now_s: float) -> float:
        """What decides between replicas: bytes to scan, more where it is slow or busy."""
        slow = self.slowness_at(now_s)
        penalty = 1e12 if self.busy_until_s > now_s else 0.0
        turn = 1e-6 * self.turn  # of equals, the one that was not asked for longest
        return (
            turn
            + penalty
            + (self.outstanding_bytes + (1 << 20)) * (slow if slow > _SLOW_FACTOR else 1.0)
        )


class Replicas:
    """All servers.

    Parameters
    ----------
    addresses : iterable of str
    """

    def __init__(self, addresses: Iterable[str]) -> None:
        self._replicas = {address: Replica(address) for address in addresses}
        self._usual, self._budget = Usual(), HedgeBudget()
        self._turn = 0

    def __getitem__(self, address: str) -> Replica:
        return self._replicas[address]

    def update(self, addresses: Iterable[str]) -> None:
        """Know these servers from now on: what joined is unknown, what left is forgotten."""
        self._replicas = {a: self._replicas.get(a) or Replica(a) for a in addresses}

    def status(self, address: str, versions: dict[str, Ranges], refused: str, now_s: float) -> None:
        """A server told its state; ``refused`` says why it is not to be asked, or is empty."""
        replica = self._replicas.get(address)
        if replica is None:
            return
        replica.versions, replica.seen_at_s = versions, now_s
        if refused:
            replica.state, replica.why = State.REFUSED, refused
        elif now_s >= replica.quarantined_until_s:
            replica.state, replica.why = State.LIVE, ""

    def failed(self, address: str, why: str, now_s: float, *, harmful: bool = False) -> None:
        """A call failed in a way that the next would too: not asked until it tells its state.

        One that sent garbage (``harmful``) may well tell a good state: it stays out for a
        while, longer each time, until an answer of it was good.
        """
        replica = self._replicas.get(address)
        if replica is None:
            return
        replica.failures += 1
        replica.state, replica.why = State.DOWN, why
        if harmful:
            pause_s = min(_QUARANTINE_MOST_S, _QUARANTINE_S * 2**replica.harms)
            replica.harms += 1
            replica.quarantined_until_s = now_s + pause_s

    def busy(self, address: str, now_s: float) -> None:
        """A server had no room: it is asked last for a moment."""
        if replica := self._replicas.get(address):
            replica.busy_until_s = now_s + _BUSY_S

    def started(self, address: str, size: int, hedge: bool = False) -> None:
        """A call of ``size`` bytes to scan is under way."""
        self._budget.started(hedge=hedge)
        if replica := self._replicas.get(address):
            self._turn += 1
            replica.calls, replica.turn = replica.calls + 1, self._turn
            replica.hedges += hedge
            replica.outstanding_bytes += size

    def ended(self, address: str, size: int, seconds: float | None, now_s: float) -> None:
        """It ended: answered after ``seconds``, or None where it was given up."""
        replica = self._replicas.get(address)
        if replica is None:
            return
        replica.outstanding_bytes = max(0, replica.outstanding_bytes - size)
        if seconds is None:
            return
        replica.harms = 0
        ratio = self._usual.ratio(size, seconds)
        if ratio is not None:
            before = replica.slowness_at(now_s)
            replica.slowness, replica.slowness_at_s = before + (ratio - before) / 4, now_s
        replica.latency_s += (seconds - replica.latency_s) / (1 if not replica.latency_s else 8)
        self._usual.learn(size, seconds, slow=replica.slowness > _SLOW_FACTOR)

    def overdue(self, address: str, size: int, seconds: float, now_s: float) -> None:
        """A call has taken ``seconds`` and is not answered: that counts as slowness too."""
        replica, ratio = self._replicas.get(address), self._usual.ratio(size, seconds)
        if replica is None or ratio is None:
            return
        if ratio > (before := replica.slowness_at(now_s)):
            replica.slowness, replica.slowness_at_s = before + (ratio - before) / 4, now_s

    def hedge_after_s(self, size: int) -> float:
        """Seconds after which a call of this size is overdue, and another replica is asked."""
        return self._usual.overdue_after_s(size)

    def may_hedge(self) -> bool:
        """Whether one more call may be asked twice."""
        return self._budget.may_hedge

    def live(self, version: str) -> list[Replica]:
        """Servers that are asked, and have this version."""
        return [
            r for r in self._replicas.values() if r.state is State.LIVE and version in r.versions
        ]

    def describe(self, now_s: float) -> list[dict[str, Any]]:
        """For statistics and console."""
        return [
            {
                "address": r.address, "state": str(r.state), "why": r.why,
                "versions": {v: [list(x) for x in ranges] for v, ranges in r.versions.items()},
                "outstanding_bytes": r.outstanding_bytes, "calls": r.calls,
                "failures": r.failures, "hedges": r.hedges, "latency_s": r.latency_s,
                "slowness": r.slowness_at(now_s), "slow": r.slowness_at(now_s) > _SLOW_FACTOR,
                "seen_s_ago": None if math.isinf(r.seen_at_s) else now_s - r.seen_at_s,
            }
            for r in self._replicas.values()
        ]  # fmt: skip
