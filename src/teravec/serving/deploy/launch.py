"""From options to a running server."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from teravec.errors import InvalidArgument
from teravec.memory import default_memory
from teravec.serving.coordinator.coordinator import Coordinator
from teravec.serving.coordinator.fleet import Fleet
from teravec.serving.coordinator.topology import Topology, parse_ranges
from teravec.serving.deploy.memory_bound import memory_bound
from teravec.serving.deploy.program import Server
from teravec.serving.server.local import LocalLists
from teravec.serving.server.lookup import VectorLookup
from teravec.serving.server.metrics import Metrics
from teravec.serving.server.service import Backend, SearchService
from teravec.serving.server.versions import IDLE_S
from teravec.serving.wire.limits import Limits, check_setting
from teravec.serving.wire.security import Address, ClientSecurity, ServerSecurity
from teravec.storage.files import allow_most_open_files

__all__ = ["ServeOptions", "launch"]

_COORDINATOR_BATCHES = 4  # at a time: while servers search one, the next is sent


@dataclass(frozen=True)
class ServeOptions:
    """What ``teravec serve`` is asked for.

    Parameters
    ----------
    path : Path
        Index directory.
    listen, http : Address
        Of the Flight port, and of the HTTP port if there is to be one.
    lists : str, optional
        Lists to own, as ``A:B,C:D``.
    slices : tuple of int, optional
        Slices whose lists to own.
    servers : str, optional
        Addresses to coordinate.
    topology : Path, optional
        File of servers to coordinate.
    security : ServerSecurity
    servers_tls : bool
        Speak TLS with the servers.
    servers_security : ClientSecurity
        What to show to the servers.
    limits : Limits
    vectors : str, optional
        The files that the index was built from, for queries by id.
    vector_column : str, optional
        Column of those files. Not given: that of the build.
    batch_rows : int
    memory_bytes, threads : int, optional
    idle_s : float
        Seconds after which the version before is closed if nobody wants it.
    """

    path: Path
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
    idle_s: float = IDLE_S

    def __post_init__(self) -> None:
        given = [self.lists, self.slices, self.servers, self.topology]
        if sum(option is not None for option in given) > 1:
            raise InvalidArgument("one of lists, slices, servers and topology expected")
        if self.vector_column is not None and self.vectors is None:
            raise InvalidArgument("vector_column is of vectors, and none are given: give both")
        check_setting("--batch-rows", self.batch_rows, 1, 1 << 20, 1024)
        if self.threads is not None:
            check_setting("--threads", self.threads, 1, 4096, os.cpu_count() or 1)
        if self.http == self.listen and self.listen.port:
            raise InvalidArgument(
                f"{self.listen} is given for both ports, Flight (--listen) and HTTP (--http); "
                "choose another for one of them"
            )

    @property
    def memory_bound(self) -> dict[str, int]:
        """Bytes that the server may take, by what takes them."""
        coordinates = self.servers is not None or self.topology is not None
        return memory_bound(
            self.limits, self.memory_bytes or default_memory(),
            batches=_COORDINATOR_BATCHES if coordinates else 1, http=self.http is not None,
        )  # fmt: skip


def launch(options: ServeOptions) -> Server:
    """Open the index and the ports; ``Server.close`` ends both.

    Raises
    ------
    TeravecError
        Options that do not go together, an index that cannot be opened, a port that is taken.
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
        backend, options.limits, metrics, workers=workers, batch_rows=options.batch_rows
    )
    try:
        options.limits.check_dimension(backend.versions.current.d)
        return Server(service, options.listen, options.http, options.security, lookup)
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
            options.path, options.limits, ranges=ranges, slices=options.slices,
            memory_bytes=options.memory_bytes, threads=options.threads, idle_s=options.idle_s,
        )  # fmt: skip
        return local, 1
    scheme = "grpc+tls" if options.servers_tls else "grpc"
    fleet = Fleet(topology, scheme, options.servers_security)
    try:
        coordinator = Coordinator(
            options.path, fleet, options.limits, metrics, memory_bytes=options.memory_bytes,
            threads=options.threads,
        )  # fmt: skip
    except BaseException:
        fleet.close()
        raise
    return coordinator, _COORDINATOR_BATCHES
