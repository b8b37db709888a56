"""Maintenance of the served index, beside searches: ``teravec maintain`` in a process of its own.

The process has the lowest priority of the processor, one thread, and a memory limit of its own, so
searches do not wait for it. Servers of one index take turns by a lock: one maintains at a time.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily

from teravec.errors import OutputExists, TeravecError
from teravec.index.manifest import Manifest
from teravec.serving.server.gauges import gauge
from teravec.storage.files import make_directory
from teravec.storage.output_lock import hold_file

__all__ = ["REST_S", "Maintenance", "MaintenanceOptions"]

log = logging.getLogger(__name__)

REST_S = 30.0
_LOWEST = 19
_STOP_S = 10.0  # for a maintenance to stop between two pieces of work


@dataclass(frozen=True)
class MaintenanceOptions:
    """How a served index is maintained.

    Parameters
    ----------
    budget_s : float
        Longest time of one maintenance; the next one goes on where it stopped.
    memory_bytes : int
        Its limit on memory, beside about 300 MiB for the interpreter and its libraries.
    rest_s : float
        Least time between two; also at least as long as the last one took.
    """

    budget_s: float
    memory_bytes: int = 512 << 20
    rest_s: float = REST_S


class Maintenance:
    """Runs maintenances when a new version may need one, until it is closed.

    An error is logged and counted, and never ends the server.

    Parameters
    ----------
    path : Path
        Index directory.
    options : MaintenanceOptions
    newest : callable
        Returns the manifest of the served version.
    """

    def __init__(
        self, path: Path, options: MaintenanceOptions, newest: Callable[[], Manifest]
    ) -> None:
        self._path, self._options, self._newest = path, options, newest
        self._closed, self._lock = threading.Event(), threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._done: tuple[int, str] | None = None  # the version that needs no maintenance
        self.outcomes = {"ok": 0, "failed": 0}
        self._thread = threading.Thread(target=self._run, name="teravec-maintain", daemon=True)
        self._thread.start()

    def gauges(self) -> Iterable[Metric]:
        """Yield whether it works now, and how many maintenances ended how."""
        running = self._process is not None
        yield gauge("maintenance_running", "Whether the index is being maintained.", running)
        ended = CounterMetricFamily(
            "teravec_maintenances", "Maintenances by outcome.", labels=["outcome"]
        )
        for outcome, count in self.outcomes.items():
            ended.add_metric([outcome], count)
        yield ended

    def close(self) -> None:
        """Stop a maintenance under way, which another one goes on with, and start no more."""
        self._closed.set()
        with self._lock:
            if self._process is not None:
                self._process.send_signal(signal.SIGINT)
        self._thread.join(_STOP_S)
        with self._lock:
            if self._process is not None:
                self._process.kill()
        self._thread.join()

    def _run(self) -> None:
        rest_s = min(1.0, self._options.rest_s)
        while not self._closed.wait(rest_s):
            started = time.monotonic()
            if self._may_need_it():
                try:
                    self._maintain_alone()
                except Exception as error:
                    self._fail(error, unexpected=not isinstance(error, TeravecError | OSError))
            rest_s = max(self._options.rest_s, time.monotonic() - started)

    def _may_need_it(self) -> bool:
        manifest = self._newest()
        several = len(manifest.layers) > 1 or bool(manifest.deletes)
        return several and self._done != (manifest.number, manifest.seal)

    def _maintain_alone(self) -> None:
        """Maintain unless another server does."""
        lock = self._path / "adding" / "maintenance"
        make_directory(lock.parent)
        try:
            with hold_file(lock):
                self._maintain()
        except OutputExists:
            log.debug("%s is maintained by another process", self._path)

    def _maintain(self) -> None:
        seen = self._newest()
        options = self._options
        limits = f"{options.budget_s}s", str(options.memory_bytes)
        arguments = ["maintain", str(self._path), "--budget", limits[0], "--memory", limits[1]]
        command = [sys.executable, "-m", "teravec", *arguments, "--threads", "1", "--json"]
        with self._lock:
            if self._closed.is_set():
                return
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        try:
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _LOWEST)
            out, err = self._process.communicate()
        finally:
            with self._lock:
                code, self._process = self._process.poll(), None
        if code:
            if not self._closed.is_set():
                last = err.strip().splitlines()[-1:] or [f"exit code {code}"]
                self._fail(TeravecError(last[0]))
            return
        self.outcomes["ok"] += 1
        self._note(seen, json.loads(out))

    def _note(self, seen: Manifest, result: dict[str, object]) -> None:
        """Log what was done; rest until another version if it was nothing."""
        steps = result["steps"]
        assert isinstance(steps, list)
        if not steps:
            self._done = seen.number, seen.seal
        for step in steps:
            outcome = step["left"] or f"version {step['version']}"
            log.info("maintained %s: %s, because %s", self._path, step["what"], step["why"])
            log.info("after %.1f s: %s", step["seconds"], outcome)

    def _fail(self, error: Exception, *, unexpected: bool = False) -> None:
        self.outcomes["failed"] += 1
        log.error("maintaining %s failed: %s", self._path, error, exc_info=unexpected)
