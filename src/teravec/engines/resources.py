"""The resources of a stage: memory, threads, engine, device, and a progress callback."""

from __future__ import annotations

from teravec.arguments import whole_number
from teravec.engines.block_sizes import USUAL_SIZES, BlockSizes
from teravec.engines.engine import Engine
from teravec.engines.local import LocalEngine
from teravec.engines.options import CPU
from teravec.memory import default_memory
from teravec.processors import default_threads
from teravec.progress import Progress, as_progress

__all__ = ["Resources"]


class Resources:
    """What a stage may use. As a context manager, it closes its engine on leaving.

    Parameters
    ----------
    memory_bytes : int
        Memory limit of this process, without about 300 MiB for the interpreter and its
        libraries. 0: see ``teravec.memory.default_memory``.
    threads : int
        Threads of this process. 0: the processors that it may use.
    progress : Progress or bool, optional
        True shows bars. Not given: nothing is shown.
    engine : Engine, optional
        Runs the tasks, each within its share of the limit. Not given: this process does.
    device : str
        Device that assigns vectors to lists in training and sharding: ``cpu``, ``cuda`` or
        ``cuda:N``.
    sizes : BlockSizes
        How large the pieces are in which stages work.
    checkpoint_s : float
        Seconds of work between checkpoints of an exact search.

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
        sizes: BlockSizes = USUAL_SIZES,
        checkpoint_s: float = 30.0,
    ) -> None:
        memory_bytes = whole_number(memory_bytes, "memory_bytes", 0)
        threads = whole_number(threads, "threads", 0)
        self.memory_bytes = memory_bytes or default_memory()
        self.threads = threads or default_threads()
        self.progress = as_progress(progress)
        self.engine = engine or LocalEngine(self.threads, self.memory_bytes)
        self.device, self.sizes, self.checkpoint_s = device, sizes, checkpoint_s

    def with_progress(self, progress: Progress) -> Resources:
        """Return the same resources, engine included, with another progress."""
        return Resources(
            self.memory_bytes,
            self.threads,
            progress,
            self.engine,
            self.device,
            self.sizes,
            self.checkpoint_s,
        )

    def __enter__(self) -> Resources:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()
