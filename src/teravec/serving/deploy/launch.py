"""Starting a server from its options."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from teravec.errors import InvalidArgument
from teravec.memory import default_memory
from teravec.serving.coordinator.coordinator import Coordinator
from teravec.serving.coordinator.fleet import Fleet
from teravec.serving.coordinator.topology import Topology, parse_ranges
from teravec.serving.deploy.gauges import ProcessGauges
from teravec.serving.deploy.maintenance import Maintenance, MaintenanceOptions
from teravec.serving.deploy.memory_bound import memory_bound
from teravec.serving.deploy.program import Server
from teravec.serving.http.port import MOST_CONNECTIONS
from teravec.serving.server.following import FOLLOW_S
from teravec.serving.server.local import LocalLists
from teravec.serving.server.logs import LogFormat
from teravec.serving.server.lookup import VectorLookup
from teravec.serving.server.metrics import Metrics
from teravec.serving.server.port_times import PortTimes
from teravec.serving.server.service import Backend, SearchService
from teravec.serving.server.step_sizes import USUAL_STEPS, StepSizes
from teravec.serving.server.versions import IDLE_S
from teravec.serving.wire.limits import Limits, check_seconds, check_setting
from teravec.serving.wire.security import Address, ClientSecurity, ServerSecurity
from teravec.storage.files import allow_most_open_files
from teravec.storage.places import Place

__all__ = ["ServeOptions", "launch"]

_COORDINATOR_BATCHES = 4  # at a time, so that one is sent while servers search another


@dataclass(frozen=True)
class ServeOptions:
    """Options of ``teravec serve``.

    Parameters
    ----------
    path : Place
        Index directory.
    listen, http : Address
        Addresses of the Flight port, and of the HTTP port (None: no HTTP).
    lists : str, optional
        Lists to own, as ``A:B,C:D``.
    slices : tuple of int, optional
        Slices whose lists to own.
    servers : str, optional
        Addresses of servers to coordinate.
    topology : Path, optional
        Topology file of servers to coordinate.
    security : ServerSecurity
    servers_tls : bool
        Use TLS with the servers.
    servers_security : ClientSecurity
        Token and certificates for the servers.
    limits : Limits
    vectors : str, optional
        The files that the index was built from, for queries by id.
    vector_column : str, optional
        Vector column of those files. Not given: that of the build.
    batch_rows : int
    memory_bytes, threads : int, optional
    follow_s : float, optional
        Seconds between two looks for a newer version of the index. None: it stays until it is
        reloaded.
    maintenance : MaintenanceOptions, optional
        Maintain the index beside searches. Not given: it is left as it is.
    idle_s : float
        Seconds after which the version before is closed if nobody wants it.
    times : PortTimes
        How long both ports wait for their peers.
    steps : StepSizes
        How much of a request is worked on at a time.
    http_connections : int
        Connections of the HTTP port at a time.
    log_format : LogFormat
        For processes that serve only, which is for their starters to set up.
    access_log : bool
        Likewise: log each request.
    """

    path: Place
    listen: Address = field(default_factory=lambda: Address("127.0.0.1", 0))
    http: Address | None = None
    lists: str | None = None
    slices: tuple[int, ...] | None = None
    servers: str | None = None
    topology: Path | None = None
    security: ServerSecurity = field(default_factory=ServerSecurity)
    servers_tls: bool = False
    servers_security: ClientSecurity = field(default_factory=ClientSecurity)
    limits: Limits = field(default_factory=Limits)
    vectors: str | None = None
    vector_column: str | None = None
    batch_rows: int = 1024
    memory_bytes: int | None = None
    threads: int | None = None
    follow_s: float | None = FOLLOW_S
    maintenance: MaintenanceOptions | None = None
    idle_s: float = IDLE_S
    times: PortTimes = field(default_factory=PortTimes)
    http_connections: int = MOST_CONNECTIONS
    steps: StepSizes = USUAL_STEPS
    log_format: LogFormat = LogFormat.TEXT
    access_log: bool = False

    def __post_init__(self) -> None:
        given = [self.lists, self.slices, self.servers, self.topology]
        if sum(option is not None for option in given) > 1:
            raise InvalidArgument("one of lists, slices, servers and topology expected")
        if self.vector_column is not None and self.vectors is None:
            raise InvalidArgument("vector_column needs vectors: give both")
        check_setting("--batch-rows", self.batch_rows, 1, 1 << 20, 1024)
        if self.follow_s is not None:
            check_seconds("--follow-every", self.follow_s, FOLLOW_S, least=0.01)
        if self.threads is not None:
            check_setting("--threads", self.threads, 1, 4096, os.cpu_count() or 1)
        if self.http == self.listen and self.listen.port:
            raise InvalidArgument(
                f"{self.listen} is given for both ports, Flight (--listen) and HTTP (--http); "
                "choose another for one of them"
            )

    @property
    def memory_bound(self) -> dict[str, int]:
        """Return the most bytes that each part of the server may take."""
        coordinates = self.servers is not None or self.topology is not None
        return memory_bound(
            self.limits,
            self.memory_bytes or default_memory(),
            batches=_COORDINATOR_BATCHES if coordinates else 1,
            http=self.http is not None,
        )


def launch(options: ServeOptions) -> Server:
    """Open the index and the ports; ``Server.close`` closes both.

    Raises
    ------
    TeravecError
        The options contradict each other, the index cannot be opened, or a port is in use.
    """
    addresses = [options.listen, *([] if options.http is None else [options.http])]
    for address in addresses:  # before anything is opened
        options.security.check_address(address)
    allow_most_open_files()
    lookup = None
    if options.vectors is not None:
        lookup = VectorLookup(
            options.vectors, options.path, options.memory_bytes, options.vector_column
        )
    metrics = Metrics()
    backend, workers = _backend(options, metrics)
    service = SearchService(
        backend,
        options.limits,
        metrics,
        workers=workers,
        batch_rows=options.batch_rows,
        follow_s=options.follow_s,
    )
    try:
        options.limits.check_dimension(backend.versions.current.d)
        server = Server(
            service,
            options.listen,
            options.http,
            options.security,
            lookup,
            options.times,
            options.http_connections,
        )
        if options.maintenance is not None:
            versions = backend.versions
            place = versions.current.path
            if not isinstance(place, Path):
                raise InvalidArgument(
                    f"{place}: --maintain needs an index in a directory; for an object store run "
                    "teravec maintain as a job of its own"
                )
            maintenance = Maintenance(place, options.maintenance, lambda: versions.current.manifest)
            server.maintenance = maintenance
            metrics.collect_from(maintenance.gauges)
        bound = sum(options.memory_bound.values())
        metrics.collect_from(
            ProcessGauges(server, bound, options.security, options.servers_security)
        )
        return server
    except BaseException:
        service.close()
        raise


def _backend(options: ServeOptions, metrics: Metrics) -> tuple[Backend, int]:
    topology = None
    if options.servers is not None:
        topology = Topology.parse(options.servers)
    elif options.topology is not None:
        topology = Topology.read(options.topology)
    if topology is None:
        ranges = None if options.lists is None else parse_ranges(options.lists)
        local = LocalLists(
            options.path,
            options.limits,
            ranges=ranges,
            slices=options.slices,
            memory_bytes=options.memory_bytes,
            threads=options.threads,
            idle_s=options.idle_s,
            steps=options.steps,
        )
        return local, 1
    scheme = "grpc+tls" if options.servers_tls else "grpc"
    options.servers_security.warn_of_files()
    fleet = Fleet(topology, scheme, options.servers_security)
    try:
        coordinator = Coordinator(
            options.path,
            fleet,
            options.limits,
            metrics,
            memory_bytes=options.memory_bytes,
            threads=options.threads,
            steps=options.steps,
        )
    except BaseException:
        fleet.close()
        raise
    return coordinator, _COORDINATOR_BATCHES
