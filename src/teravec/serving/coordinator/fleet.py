"""A coordinator's servers: connections, and states that polling keeps up to date."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.errors import (
    AccessDenied,
    Busy,
    DeadlineExceeded,
    InvalidArgument,
    OtherIndex,
    ProtocolError,
    TeravecError,
    Unavailable,
)
from teravec.serving.coordinator.replicas import Replicas, State
from teravec.serving.coordinator.shares import Owner
from teravec.serving.coordinator.topology import ServerEntry, Topology
from teravec.serving.server.served import Ranges, close_end, ranges_text
from teravec.serving.wire.calls import Arrivals, Call
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.peer import ServerPeer
from teravec.serving.wire.rotation import FileStamps
from teravec.serving.wire.security import ClientSecurity

__all__ = ["Fleet"]

log = logging.getLogger(__name__)

_POLL_S = 0.5
_SOON_S, _SOON_FOR_S = 0.1, 2.0  # between polls for a while after another version is wanted
_POLL_TIMEOUT_S = 1.5


class Fleet:
    """The servers of a topology.

    Parameters
    ----------
    topology : Topology
        Read again when its file changes.
    scheme : str
        ``grpc`` or ``grpc+tls``.
    security : ClientSecurity
        Token and certificate for the servers; read again when the files change.
    """

    def __init__(self, topology: Topology, scheme: str, security: ClientSecurity) -> None:
        self._topology, self._scheme, self._security = topology, scheme, security
        self._secrets = FileStamps([*security.files.values()])
        self._lock = threading.Lock()
        self._peers: dict[str, ServerPeer] = {}
        self._replicas = Replicas(())
        self._wanted: dict[str, npt.NDArray[np.int64]] = {}  # list sizes, by version
        self._known: dict[str, npt.NDArray[np.bool_]] = {}
        self._names: dict[str, str] = {}  # of directories, by version wanted
        self._told_names: dict[str, str] = {}  # by version that servers have
        self._closed, self._hurry_until_s = threading.Event(), 0.0
        self._follow(topology)
        self._poller = threading.Thread(target=self._poll, name="teravec-poll", daemon=True)
        self._polls = ThreadPoolExecutor(32, thread_name_prefix="teravec-poll")
        self._watchers: list[Callable[[], None]] = []

    def start(self, watcher: Callable[[], None]) -> None:
        """Poll all servers once, then in the background; call ``watcher`` after each round."""
        self._watchers.append(watcher)
        self._ask_all()
        if len(self._wanted) > 1:  # after the first answers, another version is wanted too
            self._ask_all()
        self._poller.start()

    def want(self, version: str, nlist: int, mean_size: float, name: str) -> None:
        """Want a version: ask servers for its list sizes, and use the mean size until they answer.

        Parameters
        ----------
        version : str
        nlist : int
        mean_size : float
            Vectors in a list, on average.
        name : str
            Name of the version's directory. Servers open it if it lies beside their own.
        """
        with self._lock:
            self._names[version] = name
            if version not in self._wanted:
                self._hurry_until_s = time.monotonic() + _SOON_FOR_S
                self._wanted[version] = np.full(nlist, max(1, round(mean_size)), np.int64)
                self._known[version] = np.zeros(nlist, bool)

    def forget(self, versions: set[str]) -> None:
        """Forget all other versions."""
        with self._lock:
            for version in set(self._wanted) - versions:
                del self._wanted[version], self._known[version], self._names[version]

    def others(self) -> dict[str, tuple[str, Ranges]]:
        """Return versions that servers have but nobody wants: directory name, and lists."""
        with self._lock:
            told = [r.versions for r in self._replicas.answering()]
            known = {version for versions in told for version in versions}
            self._told_names = {v: n for v, n in self._told_names.items() if v in known}
            others = known - set(self._wanted)
            return {
                version: (
                    self._told_names.get(version, ""),
                    tuple(r for versions in told for r in versions.get(version, ())),
                )
                for version in others
            }

    def list_sizes(self, version: str) -> npt.NDArray[np.int64]:
        """Return the vectors of each list, as its owners reported, or the mean."""
        with self._lock:
            return self._wanted[version]

    def owners(self, version: str, excluded: frozenset[str] = frozenset()) -> list[Owner]:
        """Return the servers that may be asked for lists of a version."""
        now_s = time.monotonic()
        with self._lock:
            return [
                Owner(r.address, r.versions[version], r.load(now_s))
                for r in self._replicas.live(version)
                if r.address not in excluded
            ]

    def covered(self, version: str) -> float:
        """Return the share of the lists that have an owner to ask."""
        return float((self._counted_owners(version, damaged=True) > 0).mean())

    def at_risk(self, version: str) -> float:
        """Return the share of the lists that have an owner, but not two live ones."""
        owned = self._counted_owners(version, damaged=True) > 0
        return float((owned & (self._counted_owners(version, damaged=False) < 2)).mean())

    def _counted_owners(self, version: str, *, damaged: bool) -> npt.NDArray[np.int64]:
        """Return the number of owners of each list."""
        with self._lock:
            owners = np.zeros(len(self._wanted[version]), np.int64)
            for replica in self._replicas.live(version):
                if damaged or replica.state is State.LIVE:
                    for start, stop in replica.versions[version]:
                        owners[start:stop] += 1
        return owners

    def peer(self, address: str) -> ServerPeer:
        """Return the connection to a server.

        Raises
        ------
        Unavailable
            The server has left the topology.
        """
        with self._lock:
            if address not in self._peers:
                raise Unavailable(f"{address}: left the topology")
            return self._peers[address]

    def send(self, address: str, method: str, frame: bytes, arrivals: Arrivals) -> Call:
        """Send a request to a server: see ``ServerPeer.send``."""
        try:
            return self.peer(address).send(method, frame, arrivals)
        except Unavailable as left:
            return Call.failed(frame, left, arrivals)

    def started(self, address: str, size: int, hedge: bool) -> None:
        """Note that a call begins, with ``size`` bytes to scan."""
        with self._lock:
            self._replicas.started(address, size, hedge)

    def answered(self, address: str, size: int, seconds: float) -> None:
        """Note that a call got a good answer."""
        with self._lock:
            self._replicas.ended(address, size, seconds, time.monotonic())

    def given_up(self, address: str, size: int, seconds: float) -> None:
        """Note that a call was given up, because another server had answered."""
        now_s = time.monotonic()
        with self._lock:
            self._replicas.overdue(address, size, seconds, now_s)
            self._replicas.ended(address, size, None, now_s)

    def failed(self, address: str, size: int, error: Exception) -> None:
        """Note that a call failed; the kind of error decides whether the server is asked again."""
        now_s, why = time.monotonic(), _why(address, error)
        with self._lock:
            self._replicas.ended(address, size, None, now_s)
            if isinstance(error, Busy):
                self._replicas.busy(address, now_s)
            elif isinstance(error, Unavailable | AccessDenied | OtherIndex | ProtocolError):
                harmful = isinstance(error, ProtocolError)
                self._replicas.failed(address, why, now_s, harmful=harmful)
            elif not isinstance(error, DeadlineExceeded | InvalidArgument):
                self._replicas.damaged(address, why, now_s)
        self._log_changes()

    def hedge_after_s(self, size: int) -> float:
        """Return the seconds after which a call of this size is overdue."""
        with self._lock:
            return self._replicas.hedge_after_s(size)

    def may_hedge(self) -> bool:
        """Return whether one more call may be sent to a second server."""
        with self._lock:
            return self._replicas.may_hedge()

    def describe(self) -> list[dict[str, Any]]:
        """Return state and load of every server."""
        with self._lock:
            return self._replicas.describe(time.monotonic())

    def why_missing(self) -> str:
        """Return the servers that are not live, with the reasons, as text."""
        down = [r for r in self.describe() if r["state"] != State.LIVE]
        return "; ".join(f"{r['address']} is {r['state']}: {r['why']}" for r in down)[:1000]

    def _follow(self, topology: Topology) -> None:
        """Connect to servers that joined, and close connections to those that left."""
        self._topology = topology
        addresses = [str(entry.address) for entry in topology.entries]
        with self._lock:
            left = {a: self._peers.pop(a) for a in set(self._peers) - set(addresses)}
            for address in set(addresses) - set(self._peers):
                url = f"{self._scheme}://{address}"
                self._peers[address] = ServerPeer(url, self._security)
            self._replicas.update(addresses)
        for peer in left.values():
            peer.close()

    @property
    def security(self) -> ClientSecurity:
        """What servers are shown now."""
        return self._security

    def _show(self, security: ClientSecurity) -> None:
        """Reconnect with another token or certificate; calls under way keep the old one."""
        with self._lock:
            before, self._security = self._peers, security
            self._peers = {a: ServerPeer(f"{self._scheme}://{a}", security) for a in before}
        log.info("read token and certificate for the servers again")
        for peer in before.values():
            peer.close()

    def _wait(self) -> bool:
        """Wait until the next poll; True if there is none, because this was closed."""
        until_s = time.monotonic() + _POLL_S
        while (left_s := until_s - time.monotonic()) > 0:
            hurry = time.monotonic() < self._hurry_until_s
            if self._closed.wait(min(_SOON_S, left_s)):
                return True
            if hurry:
                break
        return False

    def _poll(self) -> None:
        while not self._wait():
            try:
                if (changed := self._topology.changed()) is not None:
                    log.info("the topology has %d servers now", len(changed.entries))
                    self._follow(changed)
            except TeravecError as error:
                log.warning("the topology stays as it was: %s", error)
            try:
                if self._secrets.changed():
                    self._show(self._security.read_again())
            except TeravecError as error:
                log.warning("token and certificate for the servers stay as they were: %s", error)
            self._ask_all()
            self._log_changes()

    def _ask_all(self) -> None:
        for future in [self._polls.submit(self._ask, e) for e in self._topology.entries]:
            future.result()
        for watcher in self._watchers:
            watcher()

    def _ask(self, entry: ServerEntry) -> None:
        """Poll one server."""
        address, deadline = str(entry.address), Deadline.after(_POLL_TIMEOUT_S)
        try:
            peer = self.peer(address)
            with self._lock:
                wanted = json.dumps({"wanted": self._names}).encode()
            statistics = peer.tell("statistics", deadline, wanted)
            versions, refused, damaged = _state(statistics)
            names = {version: _name(statistics, version) for version in versions}
            refused = refused or self._mismatch(entry, versions)
            for version in set(versions) & set(self._wanted):
                self._learn_sizes(peer, version, versions[version], deadline)
            with self._lock:
                self._told_names |= names
                self._replicas.status(address, versions, refused, time.monotonic(), damaged)
        except Exception as error:
            if not isinstance(error, TeravecError):
                log.exception("asking %s for its state", address)
            with self._lock:
                now_s = time.monotonic()
                self._replicas.failed(address, _why(address, error), now_s, polled=True)

    def _log_changes(self) -> None:
        """Log one line for each change of a server's state, except its first ``live``."""
        with self._lock:
            changes = self._replicas.changes()
        for change in changes:
            if change.after is not State.LIVE:
                log.warning("server %s is %s: %s", change.address, change.after, change.why)
            elif change.before is not State.UNKNOWN:
                log.warning("server %s is live again, after %s", change.address, change.before)

    def _mismatch(self, entry: ServerEntry, versions: dict[str, Ranges]) -> str:
        """Return why a server is not one of ours; empty if it is."""
        wanted = set(self._wanted)
        if wanted and not wanted & set(versions):
            return f"serves index version {', '.join(versions)}; {', '.join(wanted)} expected"
        if entry.lists is not None:
            for version in wanted & set(versions):
                if versions[version] != close_end(entry.lists, len(self._wanted[version])):
                    return (
                        f"owns lists {ranges_text(versions[version])}; the topology says "
                        f"{ranges_text(entry.lists)}"
                    )
        return ""

    def _learn_sizes(
        self, peer: ServerPeer, version: str, ranges: Ranges, deadline: Deadline
    ) -> None:
        with self._lock:
            known = self._known.get(version)
        if known is None or all(known[start:stop].all() for start, stop in ranges):
            return
        if any(stop > len(known) for _, stop in ranges):
            raise ProtocolError(f"{peer.address}: owns lists that the index does not have")
        sizes = peer.list_sizes(version, len(known), deadline)
        with self._lock:
            if version in self._wanted:
                updated = self._wanted[version].copy()  # searches still use the old array
                for start, stop in ranges:
                    updated[start:stop] = sizes[start:stop]
                    known[start:stop] = True
                self._wanted[version] = updated

    def close(self) -> None:
        """Stop polling and close connections."""
        self._closed.set()
        if self._poller.is_alive():
            self._poller.join()
        self._polls.shutdown()
        for peer in self._peers.values():
            peer.close()


def _why(address: str, error: Exception) -> str:
    """Return the reason of an error, without the server's address."""
    known = isinstance(error, TeravecError)
    return str(error).removeprefix(f"{address}: ") if known else type(error).__name__


def _name(statistics: dict[str, Any], version: str) -> str:
    """Return the name of a version's directory; empty if the server does not report it."""
    names = statistics.get("names")
    return str(names.get(version, "")) if isinstance(names, dict) else ""


def _state(statistics: dict[str, Any]) -> tuple[dict[str, Ranges], str, int]:
    """Return versions with their lists, why not to ask the server, and its damaged lists.

    Raises
    ------
    ProtocolError
        The statistics lack one of these.
    """
    try:
        versions = {
            str(version): tuple((int(start), int(stop)) for start, stop in ranges)
            for version, ranges in statistics["versions"].items()
        }
        ready, draining = bool(statistics["ready"]), bool(statistics["draining"])
        damaged = int(statistics.get("damaged_lists", 0))  # older releases do not count them
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(f"statistics without {error}") from None
    if any(start < 0 or start > stop for ranges in versions.values() for start, stop in ranges):
        raise ProtocolError("statistics with impossible ranges of lists")
    refused = "shutting down" if draining else "" if ready else "not ready"
    return versions, refused, damaged
