"""Residents: one long-lived process on each machine of a Ray cluster, such as a search server.

Tasks go wherever there is room. A resident stays on its machine, whose disk or page cache it
uses, until it is stopped. If its process dies, it is started again there. If its machine is
gone, it is started on a machine without a resident, as soon as there is one.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

from teravec.engines.engine import Maker
from teravec.engines.options import EngineOptions
from teravec.engines.ray_cluster import WorkerPlan, connect, fits
from teravec.engines.worker import Failed, ResidentWorker, raise_failure
from teravec.engines.worker_pool import one_line
from teravec.errors import InvalidArgument, WorkerLost

__all__ = ["Machine", "Resident", "Residents", "open_residents"]

log = logging.getLogger(__name__)

M = TypeVar("M")
R = TypeVar("R")

_POLL_S = 0.2
_MOST_LOSSES_AT_START = 3  # deaths of one process before all were up: the options are wrong
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0  # before a dead process is started again


@dataclass(frozen=True)
class Machine:
    """A node of the cluster.

    Parameters
    ----------
    node_id : str
        Ray's id of the node; a node that comes back has a new one.
    host, address : str
        Host name, and the address by which other nodes reach it.
    """

    node_id: str
    host: str
    address: str


@dataclass(eq=False)
class Resident(Generic[R]):
    """One resident and its state.

    Attributes
    ----------
    number : int
    machine : Machine
        Its present or last machine.
    status : R or None
        Its last report; None while it is not up.
    why : str
        Why it is not up.
    losses : int
        How often it was lost.
    """

    number: int
    machine: Machine
    status: R | None = None
    why: str = "starting"
    losses: int = 0
    _actor: Any = field(default=None, repr=False)
    _pending: Any = field(default=None, repr=False)  # the call that it has not answered yet
    _retry_at_s: float = 0.0


MakerOf = Callable[[int, Machine], Maker[M]]


class Residents(Generic[M, R]):
    """One resident on each machine that has room for it.

    Parameters
    ----------
    ray : module
        Ray, connected.
    plan : WorkerPlan
        What each resident may use.
    maker_of : callable
        Returns the maker of a resident, given its number and machine.
    report : callable
        Returns a resident's report, in plain values, given its object. Called at every poll.
    """

    def __init__(
        self, ray: Any, plan: WorkerPlan, maker_of: MakerOf[M], report: Callable[[M], R]
    ) -> None:
        self._ray, self._plan, self._maker_of, self._report = ray, plan, maker_of, report
        found = self._machines()
        if not found:
            raise InvalidArgument(
                f"no machine of the Ray cluster has room for {plan.threads} threads and "
                f"{plan.memory_bytes:,} bytes"
            )
        self.all: list[Resident[R]] = [Resident(n, machine) for n, machine in enumerate(found)]
        self._all_started = False  # whether all were up at the same time once

    def _machines(self) -> list[Machine]:
        """Live machines with room for a resident, in the order of their addresses."""
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        found = [
            Machine(node["NodeID"], node["NodeManagerHostname"], node["NodeManagerAddress"])
            for node in nodes
            if fits(self._plan, node["Resources"])
        ]
        return sorted(found, key=lambda machine: (machine.address, machine.node_id))

    @property
    def up(self) -> bool:
        """Whether all residents are up."""
        return all(resident.status is not None for resident in self.all)

    def poll(self) -> None:
        """Start missing residents and collect reports; returns within moments.

        Until all residents have been up once, an error means that the options are wrong, and is
        raised. Later it is a fault of one machine, and starting is tried again.

        Raises
        ------
        TeravecError
            The error of a resident's start.
        WorkerLost
            A process died several times.
        """
        for resident in self.all:
            if resident._actor is None and resident._retry_at_s <= time.monotonic():
                self._start(resident)
            elif resident._actor is not None and resident._pending is None:
                resident._pending = resident._actor.call.remote(self._report)
        pending = {r._pending: r for r in self.all if r._pending is not None}
        started = time.monotonic()
        if pending:
            ready, _ = self._ray.wait(list(pending), num_returns=len(pending), timeout=_POLL_S)
            for reference in ready:
                self._receive(pending[reference])
        self._all_started = self._all_started or self.up
        time.sleep(max(0.0, started + _POLL_S - time.monotonic()))

    def _start(self, resident: Resident[R]) -> None:
        """Start a resident on its machine; if that is gone, on a machine without a resident."""
        machines = self._machines()
        taken = {other.machine.node_id for other in self.all if other is not resident}
        free = [machine for machine in machines if machine.node_id not in taken]
        machine = next((m for m in free if m.node_id == resident.machine.node_id), None)
        machine = machine or next((m for m in free if m.address == resident.machine.address), None)
        machine = machine or next(iter(free), None)
        if machine is None:
            resident.why = f"{resident.machine.host} is gone, and no other machine is free"
            resident._retry_at_s = time.monotonic() + _PAUSE_S
            return
        resident.machine = machine
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        kind = self._ray.remote(ResidentWorker).options(
            num_cpus=self._plan.threads,
            memory=self._plan.memory_bytes,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=strategies.NodeAffinitySchedulingStrategy(
                machine.node_id, soft=False
            ),
        )
        resident._actor = kind.remote(str(Path.cwd()), version("teravec"))
        maker = self._maker_of(resident.number, machine)
        resident._pending = resident._actor.start.remote(maker, self._report)

    def _receive(self, resident: Resident[R]) -> None:
        reference, resident._pending = resident._pending, None
        try:
            message = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._retry_later(resident, one_line(error))
            if not self._all_started and resident.losses >= _MOST_LOSSES_AT_START:
                raise WorkerLost(
                    f"the process on {resident.machine.host} died {resident.losses} times: "
                    f"{resident.why}"
                ) from None
            return
        if isinstance(message, Failed):
            if not self._all_started:
                raise_failure(message, resident.machine.host)
            self._retry_later(resident, message.text)
            return
        resident.status, resident.why = message.result, ""

    def _retry_later(self, resident: Resident[R], why: str) -> None:
        self._ray.kill(resident._actor)
        resident._actor, resident.status, resident.why = None, None, why
        pause_s = min(_PAUSE_S * 2**resident.losses, _LONGEST_PAUSE_S)
        resident._retry_at_s = time.monotonic() + pause_s
        resident.losses += 1

    def each(self, work: Callable[[M], Any], timeout_s: float) -> None:
        """Call ``work`` on every resident at once; wait for all, but at most ``timeout_s``."""
        pending = [r._actor.call.remote(work) for r in self.all if r._actor is not None]
        if not pending:
            return
        ready, late = self._ray.wait(pending, num_returns=len(pending), timeout=timeout_s)
        for reference in ready:
            try:
                message = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                log.info("a resident was lost: %s", one_line(error))
                continue
            if isinstance(message, Failed):
                log.warning("%s", message.text)
        if late:
            log.warning("%d of %d did not end in time", len(late), len(pending))

    def stop(self) -> None:
        """End the processes of all residents."""
        for resident in self.all:
            if resident._actor is not None:
                self._ray.kill(resident._actor)
                resident._actor = resident.status = None


@contextmanager
def open_residents(
    options: EngineOptions,
    threads: int | None,
    memory_bytes: int,
    maker_of: MakerOf[M],
    report: Callable[[M], R],
) -> Iterator[Residents[M, R]]:
    """Plan residents on the cluster that ``options`` name, and stop them when the body ends.

    `Residents.poll` starts them.

    Parameters
    ----------
    options : EngineOptions
    threads : int, optional
        Threads of each. Not given: the processors that every machine has.
    memory_bytes : int
        Memory of each.
    maker_of, report
        As in ``Residents``.
    """
    with connect(options, threads, memory_bytes) as (ray, plan):
        opened = Residents(ray, plan, maker_of, report)
        try:
            yield opened
        finally:
            opened.stop()
