"""serve --engine ray: a search server on each machine, and the output about them."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teravec.arguments import install
from teravec.cli.running import print_json
from teravec.engines.options import EngineOptions
from teravec.errors import InvalidArgument

if TYPE_CHECKING:
    from teravec.serving.deploy.launch import ServeOptions

__all__ = ["deploy", "warn_if_open"]

_TOPOLOGY = Path("topology.json")


def deploy(
    options: ServeOptions,
    engine: EngineOptions,
    replicas: int,
    topology: Path | None,
    drain_s: float,
    *,
    as_json: bool,
) -> None:
    """Start the servers, print where they are, and serve until a signal."""
    from teravec.serving.deploy.deployment import Deployment, DeploymentOptions

    if find_spec("ray") is None:
        raise InvalidArgument(f"engine ray needs Ray, which is not installed: {install('ray')}")
    path = topology or _TOPOLOGY
    deployment = Deployment(DeploymentOptions(options, engine, path, replicas))

    def ready(servers: list[Any]) -> None:
        described = [
            {
                "address": server.status.address,
                "host": server.machine.host,
                "lists": deployment.lists_of(server),
            }
            for server in servers
        ]
        if as_json:
            print_json({"index": str(options.path), "topology": str(path), "servers": described})
        else:
            count = "1 server is" if len(servers) == 1 else f"{len(servers)} servers are"
            print(f"{options.path}: {count} ready; topology in {path}")
            for server in described:
                print(f"{server['address']}\tlists {server['lists']}\ton {server['host']}")
        sys.stdout.flush()
        warn_if_open(options)

    deployment.run(drain_s, ready)


def warn_if_open(options: ServeOptions) -> None:
    """Warn on standard error if callers need neither token nor certificate."""
    if options.security.insecure:
        print(
            "teravec: --insecure: anyone who reaches the port may search",
            file=sys.stderr,
            flush=True,
        )
