"""Connecting to a Ray cluster, or starting one on this machine, and how its room is shared.

A Ray that we start is for this process alone: it listens on the loopback interface only,
wants a token that only its own processes know, has no dashboard, and reports nothing to
anybody.
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
from teravec.engines.ray_lean import without_extras
from teravec.errors import InvalidArgument, WorkerLost
from teravec.memory import MIB
from teravec.processors import default_threads

__all__ = ["Room", "connected", "fits"]

log = logging.getLogger(__name__)

_SMALLEST_STORE = 80 * MIB  # Ray refuses less than 75 MiB
_LONGEST_FOLDER = 107 - 66  # of a socket's name, less "/session_.../sockets/plasma_store"
_KNOCK_S = 10.0
_LOOPBACK = "127.0.0.1"
_OWN_RAY = {
    # Read once, when Ray is first imported: without it Ray listens on every interface.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Else it starts a worker for each processor, and waits for them; a worker of ours has several.
    "RAY_prestart_worker_first_driver": "0",
}


@dataclass(frozen=True)
class Room:
    """How many workers there are, and what each may use.

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
def connected(
    options: EngineOptions, threads: int | None, memory_bytes: int
) -> Iterator[tuple[Any, Room]]:
    """Ray's module, connected, and the room it has, while the body runs.

    A connection that the caller's program has already is used, and left as it is.

    Raises
    ------
    InvalidArgument
        Nothing answers at the address, or no machine has room for one worker.
    """
    ours = dict(_OWN_RAY) if options.address is None else {}
    if options.address is None and "RAY_AUTH_MODE" not in os.environ:
        ours |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _token()}
    with _environment(ours):
        ray = importlib.import_module("ray")
        if ray.is_initialized():
            yield ray, _room_of_cluster(ray, options, threads, memory_bytes)
            return
        _silence(ray)
        own = options.address is None
        with _own_folder() if own else nullcontext() as folder, _sigterm() as take_sigterm:
            try:
                if own:
                    room = _start(ray, options, threads, memory_bytes, folder)
                else:
                    _connect(ray, str(options.address))
                    room = _room_of_cluster(ray, options, threads, memory_bytes)
                take_sigterm()
                yield ray, room
            finally:
                ray.shutdown()


@cache
def _token() -> str:
    """One for the life of this process: Ray remembers the first that it saw."""
    return secrets.token_hex(32)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
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
def _own_folder() -> Iterator[str | None]:
    """Where a Ray of our own keeps sockets, logs and what overflows; nothing stays of it.

    Ray's own choice, ``/tmp/ray``, grows by some megabytes for every Ray, and a file there says
    which one of this machine's others connect to: ours is not for them. None, which is Ray's
    choice, where the temporary directory's name is too long for a socket's.
    """
    with TemporaryDirectory(prefix="teravec-ray-", ignore_cleanup_errors=True) as name:
        yield name if len(name) <= _LONGEST_FOLDER else None


@contextmanager
def _sigterm() -> Iterator[Callable[[], None]]:
    """Gives what to call when Ray is connected: it has then set how SIGTERM is taken.

    The signal does what the caller's program set, or what Ctrl-C does: Ray would print a trace,
    and end with a code of its own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = signal.getsignal(signal.SIGTERM)
    ours = before if callable(before) else signal.default_int_handler
    try:
        yield lambda: _set_sigterm(ours)
    finally:
        _set_sigterm(before or signal.SIG_DFL)


def _set_sigterm(handler: Any) -> None:
    signal.signal(signal.SIGTERM, handler)


def _silence(ray: Any) -> None:
    """Keep Ray's own news off the terminal: ours tell what matters, once.

    Ray prints that a worker died to standard output, where --json goes, whatever
    ``log_to_driver`` says.
    """
    worker = ray._private.worker
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = _log_news


def _log_news(data: dict[str, Any], *_: Any, **__: Any) -> None:
    log.debug("Ray: %s", " ".join(map(str, data.get("lines", ()))))


def _start(
    ray: Any, options: EngineOptions, threads: int | None, memory_bytes: int, folder: str | None
) -> Room:
    workers = options.workers or 1
    store_bytes = max(_SMALLEST_STORE, memory_bytes // 4)
    share = max(1, (memory_bytes - store_bytes) // workers)
    room = Room(workers, threads or max(1, default_threads() // workers), share, options.gpus)
    try:
        with without_extras():
            _init_local(ray, room, store_bytes, folder)
    except (RuntimeError, OSError) as error:
        raise WorkerLost(f"Ray does not start: {str(error).split(chr(10))[0]}") from error
    found = ray.get_runtime_context().gcs_address
    if not found.startswith(_LOOPBACK):  # Ray was imported before, so it did not see our wish
        raise InvalidArgument(
            f"Ray listens at {found}, not only on this machine: import teravec's engine before "
            "ray, or start a cluster yourself and give its address"
        )
    log.info("Ray started at %s: %s", found, room)
    return room


def _init_local(ray: Any, room: Room, store_bytes: int, folder: str | None) -> None:
    ray.init(
        address="local",  # and not one that somebody else runs on this machine
        num_cpus=room.workers * room.threads,
        num_gpus=room.workers * room.gpus or None,
        _memory=room.workers * room.memory_bytes,
        object_store_memory=store_bytes,
        include_dashboard=False,
        _node_ip_address=_LOOPBACK,
        _temp_dir=folder,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def _connect(ray: Any, address: str) -> None:
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidArgument(f"no Ray cluster answers at {address!r}: {error}") from error


def _knock(address: str) -> None:
    """Fail at once where nobody listens: Ray would try for minutes, and write of each try."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


def _room_of_cluster(
    ray: Any, options: EngineOptions, threads: int | None, memory_bytes: int
) -> Room:
    machines = [n["Resources"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]
    if not machines:
        raise InvalidArgument("the Ray cluster has no machine with a processor to give")
    workers = options.workers or len(machines)
    each = -(-workers // len(machines))  # workers of one machine
    fewest = int(min(m["CPU"] for m in machines))
    room = Room(workers, threads or max(1, fewest // each), memory_bytes // each, options.gpus)
    if not any(fits(room, machine) for machine in machines):
        largest = max(machines, key=lambda m: (m["CPU"], m.get("memory", 0)))
        raise InvalidArgument(
            f"a worker of {room.threads} threads, {room.memory_bytes / MIB:,.0f} MiB and "
            f"{room.gpus:g} GPUs fits on no machine of the Ray cluster; the largest has "
            f"{largest['CPU']:g}, {largest.get('memory', 0) / MIB:,.0f} MiB and "
            f"{largest.get('GPU', 0):g}"
        )
    log.info("Ray cluster of %d machines: %s", len(machines), room)
    return room


def fits(room: Room, machine: dict[str, float]) -> bool:
    """Whether a machine of these resources has room for a worker."""
    return (
        room.threads <= machine["CPU"]
        and room.memory_bytes <= machine.get("memory", 0)
        and room.gpus <= machine.get("GPU", 0)
    )
