"""Opening the engine that a user's options name."""

from __future__ import annotations

from importlib.util import find_spec

from teravec.arguments import install
from teravec.engines.engine import Engine
from teravec.engines.local import LocalEngine
from teravec.engines.options import EngineOptions
from teravec.errors import InvalidArgument
from teravec.processors import default_threads

__all__ = ["open_engine"]


def open_engine(options: EngineOptions, threads: int | None, memory_bytes: int) -> Engine:
    """Open an engine. Ray starts, or is connected to, when the first task needs it.

    Parameters
    ----------
    options : EngineOptions
    threads : int, optional
        Threads of each worker. Not given: a machine's processors, divided among its workers.
    memory_bytes : int
        Memory limit of all workers of one machine together.

    Raises
    ------
    InvalidArgument
        The options name Ray, and Ray is not installed.
    """
    if options.name == "local":
        return LocalEngine(threads or default_threads(), memory_bytes)
    if find_spec("ray") is None:
        raise InvalidArgument(f"engine ray needs Ray, which is not here: {install('ray')}")
    from teravec.engines.ray_engine import RayEngine

    return RayEngine(options, threads, memory_bytes)
