"""The routes: each builds the same index from the same file in a different way."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from teravec import api, staging
from teravec.arguments import install
from teravec.engines.resources import Resources
from teravec.errors import TeravecError
from teravec.kernels.device import found_gpus
from teravec.progress import Bar, NoProgress
from teravec.training.options import TrainOptions

__all__ = ["Route", "Task", "build_whole", "routes"]

_PROCESSES = 2


@dataclass(frozen=True)
class Task:
    """The build that every route does.

    Parameters
    ----------
    data : Path
    n : int
        Number of vectors in ``data``.
    nlist, niter, seed, threads : int
    """

    data: Path
    n: int
    nlist: int
    niter: int
    seed: int
    threads: int

    @property
    def options(self) -> TrainOptions:
        """The options of the train stage; all vectors are in the sample."""
        return TrainOptions(self.nlist, sample=self.n, niter=self.niter, seed=self.seed)


@dataclass(frozen=True)
class Route:
    """One way to build.

    Parameters
    ----------
    name : str
    build : callable
        Builds the task's index at a path; returns the seconds of its k-means.
    missing : str
        Why this installation lacks the route; empty if it has it.
    """

    name: str
    build: Callable[[Task, Path], float]
    missing: str = ""


def routes(engine: str, workers: int, address: str | None) -> list[Route]:
    """List every route; a route that cannot run here states why.

    Parameters
    ----------
    engine : str
        With ``ray``, a missing Ray is an error instead of a line in the table.
    workers : int
        Workers of the Ray route.
    address : str, optional
        Address of a Ray cluster. Not given: one is started on this machine.
    """
    missing = ""
    if find_spec("ray") is None and engine != "ray":
        missing = f"Ray is not installed: {install('ray')}"
    arguments = {"engine": "ray", "workers": workers, "address": address}
    gpus, no_gpu = found_gpus()
    return [
        Route("in process", lambda task, out: build_whole(task, out)),
        Route("one thread", lambda task, out: build_whole(task, out, threads=1)),
        Route(f"{_PROCESSES} processes", _build_in_processes),
        Route(f"ray, {workers} workers", lambda t, o: build_whole(t, o, **arguments), missing),
        *(Route(gpu, partial(build_whole, device=gpu), no_gpu) for gpu in gpus or ["cuda"]),
    ]


@dataclass
class _Stopwatch(NoProgress):
    """Seconds of each stage, by its name."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Bar]:
        started = time.perf_counter()
        with super().stage(name, total, unit) as bar:
            yield bar
        plain = name.partition(",")[0]
        self.seconds[plain] = self.seconds.get(plain, 0) + time.perf_counter() - started


def build_whole(task: Task, out: Path, **more: Any) -> float:
    """Build by one call of ``build``, with these options more; return the seconds of k-means."""
    watch = _Stopwatch()
    arguments: dict[str, Any] = {"threads": task.threads, **more}
    api.build(
        task.data,
        out,
        nlist=task.nlist,
        sample=task.n,
        niter=task.niter,
        seed=task.seed,
        progress=watch,
        **arguments,
    )
    return watch.seconds["k-means"]


def _build_in_processes(task: Task, out: Path) -> float:
    """Train in this process, shard in several processes at once, and merge in this process."""
    watch = _Stopwatch()
    resources = Resources(threads=task.threads, progress=watch)
    staging.train(task.data, out, options=task.options, resources=resources)
    bounds = [task.n * i // _PROCESSES for i in range(_PROCESSES + 1)]
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "teravec",
                *("shard", str(task.data), "--out", str(out), "--rows", f"{start}:{stop}"),
                *("--threads", "1", "--quiet"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for start, stop in pairwise(bounds)
    ]
    ends = [(process.communicate()[1], process.returncode) for process in started]
    for messages, code in ends:
        if code:
            raise TeravecError(f"a shard process ended with {code}: {messages.strip()[-500:]}")
    staging.merge(out, resources=resources)
    return watch.seconds["k-means"]
