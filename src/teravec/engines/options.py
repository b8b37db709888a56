"""Options that choose an engine."""

from __future__ import annotations

from dataclasses import dataclass

from teravec.arguments import text
from teravec.errors import InvalidArgument, shown
from teravec.processors import check_workers

__all__ = ["CPU", "EngineOptions"]

CPU = "cpu"
"""Name of the device that runs the compiled kernels; PyTorch runs every other device."""


@dataclass(frozen=True)
class EngineOptions:
    """Where tasks run.

    Parameters
    ----------
    name : str
        ``local`` (this process) or ``ray``.
    workers : int, optional
        Worker processes of Ray. Not given: one on each machine.
    address : str, optional
        Address of a Ray cluster. Not given: start a private Ray on this machine, and stop it at
        the end.
    gpus : float
        GPUs of each worker.
    """

    name: str = "local"
    workers: int | None = None
    address: str | None = None
    gpus: float = 0

    def __post_init__(self) -> None:
        if text(self.name, "engine") not in ("local", "ray"):
            raise InvalidArgument(f"engine is {shown(self.name)}; local or ray expected")
        if self.name == "local" and (self.workers is not None or self.address is not None):
            raise InvalidArgument("workers and address are for engine ray; this one is local")
        check_workers(self.workers)
        if self.address is not None:
            text(self.address, "address")
