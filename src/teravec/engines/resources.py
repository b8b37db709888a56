"""What a stage is granted: memory, threads, workers, a device; and whom it tells how far it is."""

from __future__ import annotations

from teravec.arguments import whole_number
from teravec.engines.engine import Engine
from teravec.engines.local import LocalEngine
from teravec.engines.options import CPU
from teravec.memory import default_memory
from teravec.processors import default_threads
from teravec.progress import Progress, as_progress

__all__ = ["Resources"]


class Resources:
    """What a stage may use. Leaving it as a context lets the engine's workers go.

    Parameters
    ----------
    memory_bytes : int
        Limit on this process's memory, beside about 300 MiB for the interpreter and its
        libraries. 0: see ``teravec.memory.default_memory``.
    threads : int
        Of this process. 0: the processors that it may use.
    progress : Progress or bool, optional
        True: bars. Not given: nothing is shown.
    engine : Engine, optional
        Where tasks run, each in its share of the limit. Not given: in this process.
    device : str
        What finds vectors' lists in training and sharding: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    InvalidArgument
        A negative number.
    """

    def __init__(
        self,
        memory_bytes: int = 0,
        threads: int = 0,
        progress: Progress | bool | None = None,
        engine: Engine | None = None,
        device: str = CPU,
    ) -> None:
        memory_bytes = whole_number(memory_bytes, "memory_bytes", 0)
        threads = whole_number(threads, "threads", 0)
        self.memory_bytes = memory_bytes or default_memory()
        self.threads = threads or default_threads()
        self.progress = as_progress(progress)
        self.engine = engine or LocalEngine(self.threads, self.memory_bytes)
        self.device = device

    def __enter__(self) -> Resources:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()
