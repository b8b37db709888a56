"""A coordinator's knowledge of its servers: a state machine without clocks or connections.

Events go in, each with its time; decisions come out. Nothing here waits or sends.

::

    UNKNOWN --status--> LIVE --failure--> DOWN --status--> LIVE
       |                 |  ^
       |                 |  '-- not draining any more
       |                 |--draining or wrong index--> REFUSED
       '--wrong index    '--damaged files, several times--> DAMAGED --after a while--> LIVE

A status comes from polling, a failure from polling or from a search. A DAMAGED server is asked
only for lists that no other server has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from teravec.serving.server.served import Ranges
from teravec.serving.wire.overdue import HedgeBudget, Usual

__all__ = ["Change", "Replica", "Replicas", "State"]

_SLOW_FACTOR, _SLOW_HALF_LIFE_S = 2.0, 5.0
_QUARANTINE_S, _QUARANTINE_MOST_S = 2.0, 60.0
_UNANSWERED = 2  # returns of a server that each end in a failure, before it is quarantined
_BUSY_S = 0.05  # how long a busy server is asked last
# A server is damaged after this many searches that met damage. It is tried again after a pause,
# which grows each time. Damage is forgotten after the longest pause without any.
_DAMAGES, _DAMAGED_S, _DAMAGED_MOST_S = 3, 30.0, 600.0
_BUSY_PENALTY, _DAMAGED_PENALTY = 1e12, 1e15  # more than bytes to scan


class State(StrEnum):
    """Whether a server is asked."""

    UNKNOWN = "unknown"
    LIVE = "live"
    DOWN = "down"
    REFUSED = "refused"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Change:
    """A server's state changed.

    Parameters
    ----------
    address : str
    before, after : State
    why : str
        The reason; empty for a live server.
    """

    address: str
    before: State
    after: State
    why: str


@dataclass
class Replica:
    """One server, as the coordinator sees it.

    Attributes
    ----------
    state : State
    why : str
        The reason; empty for a live server.
    versions : dict of Ranges
        Lists owned, by version of the index.
    outstanding_bytes : int
        Bytes to scan of the calls under way.
    calls, failures, hedges : int
    damaged_lists : int
        The server's own count.
    slowness : float
        Time taken over time expected, smoothed; it fades towards 1.
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
    unanswered: int = 0
    damages: int = 0
    damaged_at_s: float = -math.inf
    damaged_until_s: float = -math.inf
    damaged_times: int = 0
    damaged_lists: int = 0
    damage: str = ""
    latency_s: float = 0.0
    seen_at_s: float = -math.inf

    def slowness_at(self, now_s: float) -> float:
        """Return the slowness now. It fades without new calls, so that the server gets some."""
        age = max(0.0, now_s - self.slowness_at_s)
        return float(1.0 + (self.slowness - 1.0) * 0.5 ** (age / _SLOW_HALF_LIFE_S))

    def load(self, now_s: float) -> float:
        """Return the load that decides between replicas: bytes to scan, more if slow or busy."""
        slow = self.slowness_at(now_s)
        penalty = _BUSY_PENALTY if self.busy_until_s > now_s else 0.0
        penalty += _DAMAGED_PENALTY if self.state is State.DAMAGED else 0.0
        turn = 1e-6 * self.turn  # among equals, choose the least recently asked
        return (
            turn
            + penalty
            + (self.outstanding_bytes + (1 << 20)) * (slow if slow > _SLOW_FACTOR else 1.0)
        )


class Replicas:
    """The states of all servers.

    Parameters
    ----------
    addresses : iterable of str
    """

    def __init__(self, addresses: Iterable[str]) -> None:
        self._replicas = {address: Replica(address) for address in addresses}
        self._usual, self._budget = Usual(), HedgeBudget()
        self._changes: list[Change] = []
        self._turn = 0

    def __getitem__(self, address: str) -> Replica:
        return self._replicas[address]

    def update(self, addresses: Iterable[str]) -> None:
        """Replace the set of servers: new ones are UNKNOWN, missing ones are forgotten."""
        self._replicas = {a: self._replicas.get(a) or Replica(a) for a in addresses}

    def changes(self) -> list[Change]:
        """Return the changes of state since the last call."""
        changes, self._changes = self._changes, []
        return changes

    def status(
        self,
        address: str,
        versions: dict[str, Ranges],
        refused: str,
        now_s: float,
        damaged_lists: int = 0,
    ) -> None:
        """Take a server's status; ``refused`` is the reason not to ask it, or empty."""
        replica = self._replicas.get(address)
        if replica is None:
            return
        replica.versions, replica.seen_at_s = versions, now_s
        if damaged_lists < replica.damaged_lists:  # its files were repaired or replaced
            replica.damages = replica.damaged_times = 0
            replica.damaged_until_s = now_s
        replica.damaged_lists = damaged_lists
        if refused:
            self._move(replica, State.REFUSED, refused)
        elif now_s < replica.quarantined_until_s:
            return
        elif now_s < replica.damaged_until_s:
            self._move(replica, State.DAMAGED, replica.damage)
        else:
            self._move(replica, State.LIVE, "")

    def failed(
        self, address: str, why: str, now_s: float, *, harmful: bool = False, polled: bool = False
    ) -> None:
        """Take a failure that the next call would meet too: the server is DOWN until its status.

        Parameters
        ----------
        address, why : str
        now_s : float
        harmful : bool
            The server sent garbage. Its status may be good all the same, so it is quarantined: for
            a pause that grows each time, until one of its answers is good. A server that returns
            several times and fails each time is quarantined too.
        polled : bool
            A poll failed, not a search.
        """
        replica = self._replicas.get(address)
        if replica is None:
            return
        replica.failures += 1
        if replica.state is State.LIVE and not polled:
            replica.unanswered += 1
            harmful = harmful or replica.unanswered > _UNANSWERED
        if harmful:
            pause_s = min(_QUARANTINE_MOST_S, _QUARANTINE_S * 2**replica.harms)
            replica.harms += 1
            replica.quarantined_until_s = now_s + pause_s
        self._move(replica, State.DOWN, why)

    def damaged(self, address: str, why: str, now_s: float) -> None:
        """Take a search that met a damaged file; after several, the server is DAMAGED."""
        replica = self._replicas.get(address)
        if replica is None:
            return
        replica.failures += 1
        if now_s - replica.damaged_at_s > _DAMAGED_MOST_S:
            replica.damages = replica.damaged_times = 0
        replica.damages, replica.damaged_at_s, replica.damage = replica.damages + 1, now_s, why
        if replica.state is State.LIVE and replica.damages >= _DAMAGES:
            pause_s = min(_DAMAGED_MOST_S, _DAMAGED_S * 2**replica.damaged_times)
            replica.damaged_times += 1
            replica.damaged_until_s = now_s + pause_s
            self._move(replica, State.DAMAGED, why)

    def _move(self, replica: Replica, state: State, why: str) -> None:
        if state is not replica.state:
            self._changes.append(Change(replica.address, replica.state, state, why))
        replica.state, replica.why = state, why

    def busy(self, address: str, now_s: float) -> None:
        """Take a refusal for want of room: for a moment the server is asked last."""
        if replica := self._replicas.get(address):
            replica.busy_until_s = now_s + _BUSY_S

    def started(self, address: str, size: int, hedge: bool = False) -> None:
        """Count a call that begins, with ``size`` bytes to scan."""
        self._budget.started(hedge=hedge)
        if replica := self._replicas.get(address):
            self._turn += 1
            replica.calls, replica.turn = replica.calls + 1, self._turn
            replica.hedges += hedge
            replica.outstanding_bytes += size

    def ended(self, address: str, size: int, seconds: float | None, now_s: float) -> None:
        """Count a call that ended: answered after ``seconds``, or given up (None)."""
        replica = self._replicas.get(address)
        if replica is None:
            return
        replica.outstanding_bytes = max(0, replica.outstanding_bytes - size)
        if seconds is None:
            return
        replica.harms = replica.unanswered = 0
        ratio = self._usual.ratio(size, seconds)
        if ratio is not None:
            before = replica.slowness_at(now_s)
            replica.slowness, replica.slowness_at_s = before + (ratio - before) / 4, now_s
        replica.latency_s += (seconds - replica.latency_s) / (1 if not replica.latency_s else 8)
        self._usual.learn(size, seconds, slow=replica.slowness > _SLOW_FACTOR)

    def overdue(self, address: str, size: int, seconds: float, now_s: float) -> None:
        """Count ``seconds`` without an answer as slowness."""
        replica, ratio = self._replicas.get(address), self._usual.ratio(size, seconds)
        if replica is None or ratio is None:
            return
        if ratio > (before := replica.slowness_at(now_s)):
            replica.slowness, replica.slowness_at_s = before + (ratio - before) / 4, now_s

    def hedge_after_s(self, size: int) -> float:
        """Return the seconds after which a call of this size also goes to another replica."""
        return self._usual.overdue_after_s(size)

    def may_hedge(self) -> bool:
        """Return whether one more call may be sent to a second server."""
        return self._budget.may_hedge

    def live(self, version: str) -> list[Replica]:
        """Return the servers that may be asked for this version, DAMAGED ones included."""
        asked = State.LIVE, State.DAMAGED
        return [r for r in self._replicas.values() if r.state in asked and version in r.versions]

    def answering(self) -> list[Replica]:
        """Return the servers whose last poll succeeded, REFUSED ones included."""
        return [r for r in self._replicas.values() if r.state not in (State.DOWN, State.UNKNOWN)]

    def describe(self, now_s: float) -> list[dict[str, Any]]:
        """Describe all servers for statistics and console."""
        return [
            {
                "address": r.address,
                "state": str(r.state),
                "why": r.why,
                "versions": {v: [list(x) for x in ranges] for v, ranges in r.versions.items()},
                "outstanding_bytes": r.outstanding_bytes,
                "calls": r.calls,
                "failures": r.failures,
                "damaged_lists": r.damaged_lists,
                "hedges": r.hedges,
                "latency_s": r.latency_s,
                "slowness": r.slowness_at(now_s),
                "slow": r.slowness_at(now_s) > _SLOW_FACTOR,
                "seen_s_ago": None if math.isinf(r.seen_at_s) else now_s - r.seen_at_s,
            }
            for r in self._replicas.values()
        ]
