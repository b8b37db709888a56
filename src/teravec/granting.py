"""What a call of the package may use: its memory, threads and workers, checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from teravec.arguments import instance
from teravec.engines.opening import open_engine
from teravec.engines.options import CPU, EngineOptions
from teravec.engines.resources import Resources
from teravec.kernels.device import open_torch, parse_device
from teravec.memory import granted_memory
from teravec.processors import check_threads
from teravec.progress import Progress

__all__ = ["granted", "resources"]


def resources(
    memory: str | int | None,
    threads: int | None,
    progress: Progress | bool | None,
    engine: EngineOptions | None = None,
    device: str = CPU,
) -> Resources:
    """Check a user's memory, threads, progress, engine and device, and return them as Resources.

    Use the result as a context manager: the engine's workers end with the body. On a cluster with a
    GPU device, each worker has its own GPU.
    """
    memory_bytes = granted_memory(memory)
    check_threads(threads)
    chosen = engine or EngineOptions()
    if parse_device(device) != CPU:
        if chosen.name == "local":
            open_torch(device)  # fail early; on a cluster each worker opens its own
        elif device.startswith("cuda"):
            chosen = replace(chosen, gpus=max(1, chosen.gpus))
    opened = open_engine(chosen, threads, memory_bytes)
    # This process works alone only while its workers wait, so it may use their threads.
    here = chosen.workers or 1 if chosen.address is None else 1
    return Resources(memory_bytes, (threads or 0) * here, progress, opened, device)


@contextmanager
def granted(
    given: Resources | None,
    memory: str | int | None,
    threads: int | None,
    progress: Progress | bool | None,
    engine: EngineOptions,
    device: str = CPU,
) -> Iterator[Resources]:
    """Yield the caller's Resources and leave them open, or make them from the other arguments."""
    if given is not None:
        yield instance(given, Resources, "resources")
        return
    with resources(memory, threads, progress, engine, device) as made:
        yield made
