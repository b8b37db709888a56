"""A search server on each machine of a Ray cluster, until a signal ends them.

Ray starts the processes and reports when one dies. Each serves as ``teravec serve`` on its machine
would. A topology file lists the servers for coordinators, and is rewritten when a server moves.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from teravec.engines.options import EngineOptions
from teravec.engines.residents import Machine, Resident, Residents, open_residents
from teravec.errors import InvalidArgument, TeravecError
from teravec.index.opened import OpenedIndex
from teravec.memory import default_memory
from teravec.serving.coordinator.topology import ServerEntry, Topology, parse_ranges
from teravec.serving.deploy.launch import ServeOptions, launch
from teravec.serving.deploy.notify import Notifier
from teravec.serving.deploy.ownership import owned_lists
from teravec.serving.deploy.program import Server
from teravec.serving.server.logs import set_up_logs
from teravec.serving.server.served import index_version, ranges_text
from teravec.serving.server.signals import heeded
from teravec.serving.wire.security import Address
from teravec.storage.layout import absolute
from teravec.storage.output_lock import hold_file

__all__ = ["Deployment", "DeploymentOptions"]

log = logging.getLogger(__name__)

_ANY_HOST = ("0.0.0.0", "::")  # stands for each machine's own address
_WARN_S = 30.0
_END_S = 15.0  # after draining, to close ports and files


@dataclass(frozen=True)
class DeploymentOptions:
    """Options of ``teravec serve --engine ray``.

    Parameters
    ----------
    serve : ServeOptions
        Options of every server. The host of its addresses is 127.0.0.1, if all of Ray's nodes are
        on this machine, or 0.0.0.0, which stands for each machine's own address, as Ray knows it.
    engine : EngineOptions
    replicas : int
        Servers that own each list.
    topology : Path
        Where to write the topology file.
    """

    serve: ServeOptions
    engine: EngineOptions
    topology: Path
    replicas: int = 1

    def __post_init__(self) -> None:
        given = (self.serve.lists, self.serve.slices, self.serve.servers, self.serve.topology)
        if any(option is not None for option in given):
            raise InvalidArgument("engine ray chooses lists, slices and servers itself; give none")
        for address in (self.serve.listen, self.serve.http):
            if address is not None and not (address.is_loopback or address.host in _ANY_HOST):
                raise InvalidArgument(
                    f"{address} found; with engine ray the host is 127.0.0.1, or 0.0.0.0 for "
                    "each machine's own address"
                )


@dataclass(frozen=True)
class _Told:
    """A server's report about itself."""

    address: str
    version: str


@dataclass(frozen=True)
class _ServerMaker:
    """Makes a server in the process where it runs."""

    options: ServeOptions

    def make(self) -> Server:
        set_up_logs(self.options.log_format, access=self.options.access_log)
        return launch(self.options)


def _tell(server: Server) -> _Told:
    return _Told(str(server.address), server.service.backend.versions.current.version)


@dataclass(frozen=True)
class _Close:
    drain_s: float

    def __call__(self, server: Server) -> None:
        server.close(self.drain_s)


def _reload(server: Server) -> None:
    server.reload()


class Deployment:
    """The servers of one deployment; ``run`` starts them.

    Parameters
    ----------
    options : DeploymentOptions

    Raises
    ------
    TeravecError
        The index cannot be opened.
    """

    def __init__(self, options: DeploymentOptions) -> None:
        self._options = options
        for address in (options.serve.listen, options.serve.http):  # before Ray is started
            if address is not None:
                options.serve.security.check_address(address)
        self._topology = absolute(options.topology)
        with OpenedIndex(options.serve.path) as index:
            self._version, self._sizes = index_version(index.manifest), index.runs.list_sizes
        self._lists: list[str] = []
        self._written: tuple[ServerEntry, ...] = ()
        self._down: set[int] = set()

    def run(self, drain_s: float, ready: Callable[[list[Resident[_Told]]], None]) -> None:
        """Start all servers, call ``ready``, and serve until SIGTERM or SIGINT; SIGHUP reloads.

        Raises
        ------
        InvalidArgument
            Nothing answers at Ray's address; a machine has another index; or the machines could
            not reach each other's servers.
        OutputExists
            Another deployment is writing the same topology file.
        WorkerLost
        TeravecError
            A server's error at its start.
        """
        options, serve = self._options, self._options.serve
        memory_bytes = serve.memory_bytes or default_memory()
        # Start Ray before handling signals: Ray takes over SIGTERM when it connects.
        with (
            hold_file(self._topology),
            open_residents(
                options.engine, serve.threads, memory_bytes, self.maker_of, _tell
            ) as servers,
            heeded() as signals,
        ):
            self.assign_lists(servers)
            begun, waiting_since_s = False, time.monotonic()
            notifier = Notifier()
            while (number := signals.poll(0.0)) is None or number == signal.SIGHUP:
                if number == signal.SIGHUP:
                    servers.each(_reload, _END_S)
                servers.poll()
                if notifier.watchdog_s is not None:
                    notifier.beat()
                if begun:
                    self._look(servers)
                elif servers.up:
                    begun = True
                    self._check_version(servers)
                    self._look(servers)
                    ready(servers.all)
                    notifier.ready(f"{len(servers.all)} servers are ready")
                elif time.monotonic() - waiting_since_s > _WARN_S:
                    waiting_since_s = time.monotonic()
                    missing = [r.machine.host for r in servers.all if r.status is None]
                    log.warning("waiting for room, or servers, on %s", ", ".join(missing))
            notifier.stopping()
            log.info("draining %d servers for at most %.0f s", len(servers.all), drain_s)
            servers.each(_Close(drain_s), drain_s + _END_S)

    def lists_of(self, resident: Resident[_Told]) -> str:
        """Return a server's lists, as ``A:B,C:D``."""
        return self._lists[resident.number]

    def assign_lists(self, servers: Residents[Server, _Told]) -> None:
        """Decide which server owns which lists, once their number is known."""
        hosts = {resident.machine.host for resident in servers.all}
        if len(hosts) > 1 and self._options.serve.listen.is_loopback:
            raise InvalidArgument(
                f"servers on {len(hosts)} machines cannot be reached at "
                f"{self._options.serve.listen.host}: --listen 0.0.0.0:PORT takes each machine's "
                "own address, and needs TLS and tokens, or --insecure"
            )
        owned = owned_lists(self._sizes, len(servers.all), self._options.replicas)
        self._lists = [ranges_text(ranges) for ranges in owned]

    def maker_of(self, number: int, machine: Machine) -> _ServerMaker:
        """Return what makes the server of this number on a machine, with addresses of its own."""
        serve = self._options.serve

        def own(address: Address) -> Address:
            host = machine.address if address.host in _ANY_HOST else address.host
            return Address(host, address.port)

        return _ServerMaker(
            replace(
                serve,
                listen=own(serve.listen),
                http=serve.http and own(serve.http),
                lists=self._lists[number],
            )
        )

    def _check_version(self, servers: Residents[Server, _Told]) -> None:
        for resident in servers.all:
            if resident.status is not None and resident.status.version != self._version:
                raise InvalidArgument(
                    f"{resident.machine.host} has version {resident.status.version} of "
                    f"{self._options.serve.path}; {self._version} expected"
                )

    def _look(self, servers: Residents[Server, _Told]) -> None:
        """Log servers that were lost or are back, and write the topology if it has changed."""
        for resident in servers.all:
            number, lists = resident.number, self.lists_of(resident)
            if resident.status is None and number not in self._down:
                self._down.add(number)
                log.warning(
                    "the server of lists %s on %s was lost, and is started again: %s",
                    lists,
                    resident.machine.host,
                    resident.why,
                )
            elif resident.status is not None and number in self._down:
                self._down.discard(number)
                log.warning("the server of lists %s is back at %s", lists, resident.status.address)
        entries = tuple(
            ServerEntry(Address.parse(r.status.address), parse_ranges(self.lists_of(r)))
            for r in servers.all
            if r.status is not None
        )
        # A server that is down keeps its entry: it is likely to come back at the same address.
        if len(entries) == len(servers.all) and entries != self._written:
            try:
                Topology(entries).write(self._topology)
            except TeravecError as error:
                if not self._written:
                    raise
                log.warning("the topology is not written: %s", error)
                return
            self._written = entries
