"""serve: a search server, or the coordinator of several."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from teravec import changing
from teravec.arguments import install
from teravec.cli import options as o
from teravec.cli.deploying import deploy, warn_if_open
from teravec.cli.running import command, parse_numbers, print_json
from teravec.engines.options import EngineOptions
from teravec.errors import InvalidArgument, shown
from teravec.granting import resources

if TYPE_CHECKING:
    from teravec.serving.deploy.launch import ServeOptions

__all__ = ["add_serve_commands"]


def add_serve_commands(app: typer.Typer) -> None:
    """Register ``serve``."""
    command(app, "serve")(serve)


def serve(
    index: o.IndexDir,
    listen: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT for Arrow Flight.  [default: 127.0.0.1:7400, with --engine ray "
            "127.0.0.1:0]",
            show_default=False,
        ),
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT for health, metrics, JSON and console, or none.  [default: "
            "127.0.0.1:7480, with --engine ray none]",
            show_default=False,
        ),
    ] = None,
    lists: Annotated[
        str | None,
        typer.Option(
            help="Own only these lists, as A:B, A: (to the last) or A:B,C:D.", show_default=False
        ),
    ] = None,
    slices: Annotated[
        str | None,
        typer.Option(help="Own only the lists of these slices, as 0,3,7.", show_default=False),
    ] = None,
    servers: Annotated[
        str | None,
        typer.Option(help="Coordinate these servers: HOST:PORT,HOST:PORT,...", show_default=False),
    ] = None,
    topology: Annotated[
        Path | None,
        typer.Option(
            help="Coordinate the servers in this JSON file, which is read again when it changes. "
            "With --engine ray: where to write it.  [default: topology.json]",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="local: this process; or ray: a server on each machine of a Ray cluster, each "
            "with a part of the lists."
        ),
    ] = "local",
    address: o.Address = None,
    replicas: Annotated[int, typer.Option(help="Servers of each list, with --engine ray.")] = 1,
    tls_cert: Annotated[
        Path | None, typer.Option(help="PEM certificate: serve TLS.", show_default=False)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="PEM key of the certificate.", show_default=False)
    ] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(help="PEM authority that callers' certificates need.", show_default=False),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="Callers need a token: one of this file's lines.", show_default=False),
    ] = None,
    admin_token_file: Annotated[
        Path | None,
        typer.Option(help="Tokens that may also do the action reload.", show_default=False),
    ] = None,
    servers_ca: Annotated[
        Path | None,
        typer.Option(
            help="PEM authority of the servers' certificates; use TLS with them.",
            show_default=False,
        ),
    ] = None,
    servers_token_file: Annotated[
        Path | None, typer.Option(help="Token file for the servers.", show_default=False)
    ] = None,
    servers_cert: Annotated[
        Path | None, typer.Option(help="PEM certificate for the servers.", show_default=False)
    ] = None,
    servers_key: Annotated[
        Path | None, typer.Option(help="PEM key of that certificate.", show_default=False)
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine without TLS or tokens.")
    ] = False,
    open_probes: Annotated[
        bool, typer.Option("--open-probes", help="Answer /healthz and /readyz without a token.")
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Another host name that HTTP requests may use for a server without tokens, in "
            "addition to localhost and 127.0.0.1. May be repeated.",
            show_default=False,
        ),
    ] = None,
    vectors: Annotated[
        str | None,
        typer.Option(
            help="For queries by id: the files that the index was built from.", show_default=False
        ),
    ] = None,
    vector_column: o.VectorColumn = None,
    queue: Annotated[int, typer.Option(help="Requests that may wait; more get 'busy'.")] = 512,
    max_k: Annotated[int, typer.Option(help="Most results per query.")] = 10_000,
    max_nprobe: Annotated[int, typer.Option(help="Most lists per query.")] = 65_536,
    max_queries: Annotated[int, typer.Option(help="Most queries per request.")] = 16_384,
    max_request: Annotated[str, typer.Option(help="Most bytes of a request.")] = "64MiB",
    max_answer: Annotated[str, typer.Option(help="Most bytes of an answer.")] = "256MiB",
    max_waiting: Annotated[str, typer.Option(help="Most bytes of waiting requests.")] = "256MiB",
    batch_rows: Annotated[
        int, typer.Option(help="Queries joined into a batch; 1 joins nothing.")
    ] = 1024,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow/--no-follow",
            help="Go over to new versions of the index as they are committed, or when reloaded.",
        ),
    ] = True,
    follow_every: Annotated[
        float, typer.Option(help="Seconds between two looks for a new version.")
    ] = 0.25,
    maintain: Annotated[
        str | None,
        typer.Option(
            help="Maintain the index beside searches, at most so long at once, as 10min. In a "
            "process of its own, of the lowest priority.",
            show_default=False,
        ),
    ] = None,
    maintain_memory: Annotated[
        str, typer.Option(help="Memory of that process, beside about 300 MiB for the interpreter.")
    ] = "512MiB",
    drain: Annotated[float, typer.Option(help="Seconds for requests to end after SIGTERM.")] = 30.0,
    log_format: Annotated[
        str, typer.Option(help="Log lines as text, or as JSON objects: text or json.")
    ] = "text",
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Log one line for each request.")
    ] = False,
    memory: o.Memory = None,
    threads: o.Threads = None,
    json: o.Json = False,
) -> None:
    """Serve an index, serve some of its lists, or coordinate such servers."""
    engine_options = EngineOptions(engine, address=address)
    if engine == "local" and replicas != 1:
        raise InvalidArgument("replicas need engine ray; the engine is local")
    on_ray = engine == "ray"
    try:
        from teravec.serving.deploy.launch import ServeOptions, launch
    except ModuleNotFoundError as error:
        raise InvalidArgument(
            f"{error.name} is not installed; serving needs {install('serve')}"
        ) from error
    from teravec.memory import parse_bytes
    from teravec.serving.deploy.maintenance import MaintenanceOptions
    from teravec.serving.server.logs import LogFormat, set_up_logs
    from teravec.serving.wire.limits import Limits, check_seconds, check_setting
    from teravec.serving.wire.security import Address, ClientSecurity, ServerSecurity

    if log_format not in tuple(LogFormat):
        raise InvalidArgument(f"--log-format is {shown(log_format)}; text or json expected")
    check_seconds("--drain", drain, 30.0)
    check_setting("--replicas", replicas, 1, 1024, 1)
    if threads is not None:
        check_setting("--threads", threads, 1, 4096, os.cpu_count() or 1)
    allowed = resources(memory, threads, None)
    http = http or ("none" if on_ray else "127.0.0.1:7480")
    options = ServeOptions(
        index,
        listen=Address.parse(listen or f"127.0.0.1:{0 if on_ray else 7400}"),
        http=None if http == "none" else Address.parse(http),
        lists=lists,
        slices=None if slices is None else tuple(parse_numbers(slices, "slices")),
        servers=servers,
        topology=None if on_ray else topology,
        security=ServerSecurity(
            tls_cert,
            tls_key,
            client_ca,
            token_file,
            insecure,
            open_probes,
            tuple(allow_host or ()),
            admin_token_file,
        ),
        servers_tls=servers_ca is not None,
        servers_security=ClientSecurity.read(
            token_file=servers_token_file,
            ca=servers_ca,
            certificate=servers_cert,
            key=servers_key,
            insecure=insecure,
        ),
        limits=Limits(
            request_bytes=parse_bytes(max_request),
            queries=max_queries,
            k=max_k,
            nprobe=max_nprobe,
            answer_bytes=parse_bytes(max_answer),
            queue=queue,
            queue_bytes=parse_bytes(max_waiting),
        ),
        vectors=vectors,
        vector_column=vector_column,
        batch_rows=batch_rows,
        follow_s=follow_every if follow else None,
        maintenance=None
        if maintain is None
        else MaintenanceOptions(
            changing.parse_age(maintain).total_seconds(), parse_bytes(maintain_memory)
        ),
        memory_bytes=allowed.memory_bytes,
        threads=threads if on_ray else allowed.threads or None,
        log_format=LogFormat(log_format),
        access_log=access_log,
    )
    set_up_logs(options.log_format, access=access_log)
    if on_ray:
        deploy(options, engine_options, replicas, topology, drain, as_json=json)
        return
    server = launch(options)
    server.run(drain, ready=lambda: _tell(options, server.address, server.http_address, json))


def _tell(options: ServeOptions, address: object, http_address: object, as_json: bool) -> None:
    from teravec.serving.deploy.memory_bound import memory_line

    secure = "s" if options.security.certificate is not None else ""
    url = f"grpc{'+tls' if secure else ''}://{address}"
    http_url = None if http_address is None else f"http{secure}://{http_address}/"
    if as_json:
        bound = sum(options.memory_bound.values())
        print_json(
            {"index": str(options.path), "url": url, "http": http_url, "memory_bound_bytes": bound}
        )
    else:
        print(f"{options.path}: serving on {url}")
        if http_url is not None:
            print(f"console on {http_url}")
        print(memory_line(options.memory_bound))
    sys.stdout.flush()
    warn_if_open(options)
    logging.getLogger("teravec.serving").setLevel(logging.INFO)
