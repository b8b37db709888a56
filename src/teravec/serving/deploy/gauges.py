"""Gauges of a server process: its ports, its memory bound, its certificates, its release."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from teravec.errors import TeravecError
from teravec.serving.deploy.program import Server
from teravec.serving.server.gauges import gauge, info, port_gauges
from teravec.serving.wire.certificates import expiry_of
from teravec.serving.wire.rotation import FileStamps
from teravec.serving.wire.security import ClientSecurity, ServerSecurity

__all__ = ["ProcessGauges"]


class ProcessGauges:
    """Gauges of one server process, computed when they are collected.

    Parameters
    ----------
    server : Server
    memory_bound_bytes : int
        Most memory that the server takes, by its options.
    security : ServerSecurity
    servers_security : ClientSecurity
    """

    def __init__(
        self,
        server: Server,
        memory_bound_bytes: int,
        security: ServerSecurity,
        servers_security: ClientSecurity,
    ) -> None:
        self._server, self._memory_bound_bytes = server, memory_bound_bytes
        named = {
            "tls-cert": security.certificate,
            "client-ca": security.client_ca,
            "servers-ca": servers_security.files.get("ca"),
            "servers-cert": servers_security.files.get("certificate"),
        }
        self._certificates = {name: path for name, path in named.items() if path is not None}
        self._stamps = FileStamps([*self._certificates.values()])
        self._expiries: dict[str, float] | None = None

    def __call__(self) -> Iterable[Metric]:
        """Return all gauges' present values."""
        yield info("build_info", "The release of this server.", "version", [version("teravec")])
        yield gauge(
            "memory_bound_bytes",
            "Most memory that the server takes, as it printed at its start.",
            self._memory_bound_bytes,
        )
        yield from port_gauges(self._server.loads)
        yield gauge("flight_calls", "Open calls over Flight.", self._server.open_calls)
        yield self._expiry()

    def _expiry(self) -> Metric:
        if self._expiries is None or self._stamps.changed():
            self._expiries = dict(_expiries(self._certificates))
        family = GaugeMetricFamily(
            "teravec_certificate_expiry_timestamp_seconds",
            "When the first certificate of a file expires, by the option that names the file.",
            labels=["file"],
        )
        for name, at in self._expiries.items():
            family.add_metric([name], at)
        return family


def _expiries(certificates: dict[str, Path]) -> Iterable[tuple[str, float]]:
    for name, path in certificates.items():
        try:
            at = expiry_of(path)
        except TeravecError:  # the file is being replaced
            continue
        if at is not None:
            yield name, at.timestamp()
