"""Connecting to a Ray cluster or starting one on this machine, and sizing the workers.

A Ray that we start is private to this process. It listens on the loopback interface only,
demands a token that only its own processes know, has no dashboard and reports no usage.
"""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

from teravec.engines.options import EngineOptions
from teravec.engines.ray_startup import leave_out_extras
from teravec.errors import InvalidArgument, WorkerLost
from teravec.memory import MIB
from teravec.processors import default_threads

__all__ = ["WorkerPlan", "connect", "fits"]

log = logging.getLogger(__name__)

_SMALLEST_STORE = 80 * MIB  # Ray refuses less than 75 MiB
_LONGEST_FOLDER = 107 - 66  # longest socket path, less "/session_.../sockets/plasma_store"
_CONNECT_S = 10.0
_LOOPBACK = "127.0.0.1"
_OWN_RAY = {
    # Ray reads this once, on its first import. Without it Ray listens on every interface.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Otherwise Ray starts one process per processor and waits for them all. Our workers are
    # fewer, because each uses several processors.
    "RAY_prestart_worker_first_driver": "0",
}


@dataclass(frozen=True)
class WorkerPlan:
    """The number of workers, and what each of them may use.

    Parameters
    ----------
    workers, threads : int
    memory_bytes : int
    gpus : float
    """

    workers: int
    threads: int
    memory_bytes: int
    gpus: float


@contextmanager
def connect(
    options: EngineOptions, threads: int | None, memory_bytes: int
) -> Iterator[tuple[Any, WorkerPlan]]:
    """Connect to Ray while the body runs; yield Ray's module and the plan of the workers.

    If the caller's program is already connected to Ray, that connection is used and left open.

    Raises
    ------
    InvalidArgument
        No cluster answers at the address, or no machine has room for one worker.
    """
    settings = dict(_OWN_RAY) if options.address is None else {}
    if options.address is None and "RAY_AUTH_MODE" not in os.environ:
        settings |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _make_token()}
    with _setting_environment(settings):
        ray = importlib.import_module("ray")
        if ray.is_initialized():
            yield ray, _plan_on_cluster(ray, options, threads, memory_bytes)
            return
        _silence(ray)
        own = options.address is None
        with (
            _make_folder() if own else nullcontext() as folder,
            _restoring_sigterm() as take_sigterm,
        ):
            try:
                if own:
                    plan = _start(ray, options, threads, memory_bytes, folder)
                else:
                    _connect(ray, str(options.address))
                    plan = _plan_on_cluster(ray, options, threads, memory_bytes)
                take_sigterm()
                yield ray, plan
            finally:
                ray.shutdown()


@cache
def _make_token() -> str:
    """Make one token for the life of this process: Ray remembers the first token that it saw."""
    return secrets.token_hex(32)


@contextmanager
def _setting_environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _make_folder() -> Iterator[str | None]:
    """Make a temporary folder for the sockets, logs and spilled objects of a private Ray.

    Ray's default, ``/tmp/ray``, grows by some megabytes with every Ray. It also holds a file that
    tells other programs which Ray to connect to, and ours is private. Yields None, which means
    Ray's default, if the folder's name is too long for the path of a socket.
    """
    with TemporaryDirectory(prefix="teravec-ray-", ignore_cleanup_errors=True) as name:
        yield name if len(name) <= _LONGEST_FOLDER else None


@contextmanager
def _restoring_sigterm() -> Iterator[Callable[[], None]]:
    """Yield a function that undoes Ray's SIGTERM handler; call it once Ray is connected.

    Ray's handler prints a trace and exits with a code of its own. Ours is the handler that the
    caller's program set, or else the behaviour of Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = signal.getsignal(signal.SIGTERM)
    handler = before if callable(before) else signal.default_int_handler
    try:
        yield lambda: _set_sigterm(handler)
    finally:
        _set_sigterm(before or signal.SIG_DFL)


def _set_sigterm(handler: Any) -> None:
    signal.signal(signal.SIGTERM, handler)


def _silence(ray: Any) -> None:
    """Keep Ray's messages off the terminal; our log reports what matters, once.

    Whatever ``log_to_driver`` says, Ray prints the death of a worker to standard output, which
    carries the result of ``--json``.
    """
    worker = ray._private.worker
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = _log_news


def _log_news(data: dict[str, Any], *_: Any, **__: Any) -> None:
    log.debug("Ray: %s", " ".join(map(str, data.get("lines", ()))))


def _start(
    ray: Any, options: EngineOptions, threads: int | None, memory_bytes: int, folder: str | None
) -> WorkerPlan:
    workers = options.workers or 1
    store_bytes = max(_SMALLEST_STORE, memory_bytes // 4)
    share = max(1, (memory_bytes - store_bytes) // workers)
    plan = WorkerPlan(workers, threads or max(1, default_threads() // workers), share, options.gpus)
    try:
        with leave_out_extras():
            _init_local(ray, plan, store_bytes, folder)
    except (RuntimeError, OSError) as error:
        raise WorkerLost(f"Ray does not start: {str(error).split(chr(10))[0]}") from error
    found = ray.get_runtime_context().gcs_address
    if not found.startswith(_LOOPBACK):  # Ray was imported before our variables were set
        raise InvalidArgument(
            f"Ray listens at {found}, not only on this machine: import teravec's engine before "
            "ray, or start a cluster yourself and give its address"
        )
    log.info("Ray started at %s: %s", found, plan)
    return plan


def _init_local(ray: Any, plan: WorkerPlan, store_bytes: int, folder: str | None) -> None:
    ray.init(
        address="local",  # never another user's Ray on this machine
        num_cpus=plan.workers * plan.threads,
        num_gpus=plan.workers * plan.gpus or None,
        _memory=plan.workers * plan.memory_bytes,
        object_store_memory=store_bytes,
        include_dashboard=False,
        _node_ip_address=_LOOPBACK,
        _temp_dir=folder,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def _connect(ray: Any, address: str) -> None:
    try:
        _check_reachable(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidArgument(f"no Ray cluster answers at {address!r}: {error}") from error


def _check_reachable(address: str) -> None:
    """Fail at once if nothing listens there: Ray would retry for minutes and print each try."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()


def _plan_on_cluster(
    ray: Any, options: EngineOptions, threads: int | None, memory_bytes: int
) -> WorkerPlan:
    machines = [n["Resources"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]
    if not machines:
        raise InvalidArgument("the Ray cluster has no machine with a processor to give")
    workers = options.workers or len(machines)
    each = -(-workers // len(machines))  # workers on one machine
    fewest = int(min(m["CPU"] for m in machines))
    plan = WorkerPlan(
        workers, threads or max(1, fewest // each), memory_bytes // each, options.gpus
    )
    if not any(fits(plan, machine) for machine in machines):
        largest = max(machines, key=lambda m: (m["CPU"], m.get("memory", 0)))
        raise InvalidArgument(
            f"a worker of {plan.threads} threads, {plan.memory_bytes / MIB:,.0f} MiB and "
            f"{plan.gpus:g} GPUs fits on no machine of the Ray cluster; the largest has "
            f"{largest['CPU']:g}, {largest.get('memory', 0) / MIB:,.0f} MiB and "
            f"{largest.get('GPU', 0):g}"
        )
    log.info("Ray cluster of %d machines: %s", len(machines), plan)
    return plan


def fits(plan: WorkerPlan, machine: dict[str, float]) -> bool:
    """Whether a machine with these resources has room for a worker."""
    return (
        plan.threads <= machine["CPU"]
        and plan.memory_bytes <= machine.get("memory", 0)
        and plan.gpus <= machine.get("GPU", 0)
    )
