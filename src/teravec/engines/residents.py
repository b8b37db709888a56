"""Residents: what a maker makes, kept in a process of its own on each machine of a Ray cluster.

Tasks go wherever there is room; a resident belongs to its machine, whose disk or page cache it
works with, until it is dismissed. Where its process dies it is made again there; where the
machine is gone, on one that came instead, or when one comes.
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
from teravec.engines.ray_cluster import Room, connected, fits
from teravec.engines.ray_crew import one_line
from teravec.engines.worker import Failed, ResidentWorker, raise_failure
from teravec.errors import InvalidArgument, WorkerLost

__all__ = ["Machine", "Resident", "Residents", "residents"]

log = logging.getLogger(__name__)

M = TypeVar("M")
R = TypeVar("R")

_LOOK_S = 0.2
_MOST_LOSSES_AT_FIRST = 3  # of one process, before any has come up: then something is wrong
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0  # before what died is made again


@dataclass(frozen=True)
class Machine:
    """A node of the cluster.

    Parameters
    ----------
    node_id : str
        Ray's; another one when it comes back.
    host, address : str
        Its name, and the address by which other nodes reach it.
    """

    node_id: str
    host: str
    address: str


@dataclass(eq=False)
class Resident(Generic[R]):
    """One of them, and how it is.

    Attributes
    ----------
    number : int
    machine : Machine
        Where it lives, or lived last.
    told : R or None
        What it tells of itself; None while it is not up.
    why : str
        Why it is not up.
    losses : int
        Times that it was lost.
    """

    number: int
    machine: Machine
    told: R | None = None
    why: str = "starting"
    losses: int = 0
    _actor: Any = field(default=None, repr=False)
    _asked: Any = field(default=None, repr=False)  # what it was asked last, until it answers
    _again_at_s: float = 0.0


MakerOf = Callable[[int, Machine], Maker[M]]


class Residents(Generic[M, R]):
    """One resident on each machine that has room for it.

    Parameters
    ----------
    ray : module
        Connected.
    room : Room
        What each may use.
    maker_of : callable
        Given a resident's number and its machine, what makes it.
    tell : callable
        Given what was made, what it tells of itself: plain values. Called again and again.
    """

    def __init__(self, ray: Any, room: Room, maker_of: MakerOf[M], tell: Callable[[M], R]) -> None:
        self._ray, self._room, self._maker_of, self._tell = ray, room, maker_of, tell
        found = self._machines()
        if not found:
            raise InvalidArgument(
                f"no machine of the Ray cluster has room for {room.threads} threads and "
                f"{room.memory_bytes:,} bytes"
            )
        self.all: list[Resident[R]] = [Resident(n, machine) for n, machine in enumerate(found)]
        self._begun = False  # all were up once

    def _machines(self) -> list[Machine]:
        """Machines that live and have room, in the order of their addresses."""
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        found = [
            Machine(node["NodeID"], node["NodeManagerHostname"], node["NodeManagerAddress"])
            for node in nodes
            if fits(self._room, node["Resources"])
        ]
        return sorted(found, key=lambda machine: (machine.address, machine.node_id))

    @property
    def up(self) -> bool:
        """Whether all are."""
        return all(resident.told is not None for resident in self.all)

    def tend(self) -> None:
        """Make what is not there, hear how all are; returns within moments.

        Until all have been up once, an error says that something is wrong with what was asked
        for, and is raised; later it is the machine's, and making is tried again.

        Raises
        ------
        TeravecError
            What making one raised.
        WorkerLost
            A process died again and again.
        """
        for resident in self.all:
            if resident._actor is None and resident._again_at_s <= time.monotonic():
                self._place(resident)
            elif resident._actor is not None and resident._asked is None:
                resident._asked = resident._actor.ask.remote(self._tell)
        asked = {r._asked: r for r in self.all if r._asked is not None}
        started = time.monotonic()
        if asked:
            ready, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=_LOOK_S)
            for reference in ready:
                self._hear(asked[reference])
        self._begun = self._begun or self.up
        time.sleep(max(0.0, started + _LOOK_S - time.monotonic()))

    def _place(self, resident: Resident[R]) -> None:
        """Begin to make it on its machine, or on another that has none if that is gone."""
        machines = self._machines()
        taken = {other.machine.node_id for other in self.all if other is not resident}
        free = [machine for machine in machines if machine.node_id not in taken]
        machine = next((m for m in free if m.node_id == resident.machine.node_id), None)
        machine = machine or next((m for m in free if m.address == resident.machine.address), None)
        machine = machine or next(iter(free), None)
        if machine is None:
            resident.why = f"{resident.machine.host} is gone, and no other machine is free"
            resident._again_at_s = time.monotonic() + _PAUSE_S
            return
        resident.machine = machine
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        kind = self._ray.remote(ResidentWorker).options(
            num_cpus=self._room.threads,
            memory=self._room.memory_bytes,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=strategies.NodeAffinitySchedulingStrategy(
                machine.node_id, soft=False
            ),
        )
        resident._actor = kind.remote(str(Path.cwd()), version("teravec"))
        maker = self._maker_of(resident.number, machine)
        resident._asked = resident._actor.settle.remote(maker, self._tell)

    def _hear(self, resident: Resident[R]) -> None:
        reference, resident._asked = resident._asked, None
        try:
            message = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._lose(resident, one_line(error))
            if not self._begun and resident.losses >= _MOST_LOSSES_AT_FIRST:
                raise WorkerLost(
                    f"the process on {resident.machine.host} died {resident.losses} times: "
                    f"{resident.why}"
                ) from None
            return
        if isinstance(message, Failed):
            if not self._begun:
                raise_failure(message, resident.machine.host)
            self._lose(resident, message.text)
            return
        resident.told, resident.why = message.result, ""

    def _lose(self, resident: Resident[R], why: str) -> None:
        self._ray.kill(resident._actor)
        resident._actor, resident.told, resident.why = None, None, why
        pause_s = min(_PAUSE_S * 2**resident.losses, _LONGEST_PAUSE_S)
        resident._again_at_s = time.monotonic() + pause_s
        resident.losses += 1

    def each(self, work: Callable[[M], Any], timeout_s: float) -> None:
        """Do something with every resident at once; wait for all, or until time is over."""
        asked = [r._actor.ask.remote(work) for r in self.all if r._actor is not None]
        if not asked:
            return
        ready, late = self._ray.wait(asked, num_returns=len(asked), timeout=timeout_s)
        for reference in ready:
            try:
                message = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                log.info("one was lost at work: %s", one_line(error))
                continue
            if isinstance(message, Failed):
                log.warning("%s", message.text)
        if late:
            log.warning("%d of %d did not end in time", len(late), len(asked))

    def dismiss(self) -> None:
        """End their processes."""
        for resident in self.all:
            if resident._actor is not None:
                self._ray.kill(resident._actor)
                resident._actor = resident.told = None


@contextmanager
def residents(
    options: EngineOptions,
    threads: int | None,
    memory_bytes: int,
    maker_of: MakerOf[M],
    tell: Callable[[M], R],
) -> Iterator[Residents[M, R]]:
    """Residents of the cluster that ``options`` name, until the body ends; none is up yet.

    Parameters
    ----------
    options : EngineOptions
    threads : int, optional
        Of each. Not given: those that every machine has.
    memory_bytes : int
        Of each.
    maker_of, tell
        As of ``Residents``.
    """
    with connected(options, threads, memory_bytes) as (ray, room):
        opened = Residents(ray, room, maker_of, tell)
        try:
            yield opened
        finally:
            opened.dismiss()
