"""What is predicted: stages of a build, and a query."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Plan", "QueryPlan", "Stage"]


@dataclass(frozen=True)
class Stage:
    """A stage as predicted. Bytes are of all machines together, memory is one process's.

    Parameters
    ----------
    name : str
    seconds : float
        From its beginning to its end.
    parts : dict
        Seconds that each resource is busy on the busiest machine, by its name; resources that
        work at the same time add up to more than ``seconds``.
    read_bytes, written_bytes, sent_bytes : int
    memory_bytes : int
        Of the largest process, beside about 300 MiB for the interpreter and its libraries.
    disk_bytes : int
        On the disks at the stage's end, in all.
    machines : int
        Machines at work.
    """

    name: str
    seconds: float
    parts: dict[str, float] = field(default_factory=dict)
    read_bytes: int = 0
    written_bytes: int = 0
    sent_bytes: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    machines: int = 1

    @property
    def limit(self) -> str:
        """The resource that is busy longest."""
        return max(self.parts, key=lambda name: self.parts[name]) if self.parts else ""


@dataclass(frozen=True)
class QueryPlan:
    """What one query takes when nothing is cached, and how many are answered in a second.

    Parameters
    ----------
    latency_s : float
        Of one query alone, its lists read from all servers at once.
    parts : dict
        Its seconds by resource.
    read_bytes, lists : float
        That it reads.
    cold_qps, warm_qps : float
        Queries a second on all servers, limited by disks, and by processors where every list
        is in memory.
    memory_bytes : int
        Of one server, beside lists that it keeps.
    disk_bytes : int
        Of one server's lists.
    """

    latency_s: float
    parts: dict[str, float]
    read_bytes: int
    lists: int
    cold_qps: float
    warm_qps: float
    memory_bytes: int
    disk_bytes: int

    @property
    def limit(self) -> str:
        """The resource that a single query waits for longest."""
        return max(self.parts, key=lambda name: self.parts[name])


@dataclass(frozen=True)
class Plan:
    """A build, stage by stage, and a query.

    Parameters
    ----------
    stages : tuple of Stage
    query : QueryPlan
    build_cost, month_cost : float
        Of the machines for the build's time, and of a month of disk for the finished index.
    """

    stages: tuple[Stage, ...]
    query: QueryPlan
    build_cost: float
    month_cost: float

    @property
    def seconds(self) -> float:
        """Of all stages, one after another."""
        return sum(stage.seconds for stage in self.stages)

    def stage(self, name: str) -> Stage:
        """The stage of this name."""
        return next(stage for stage in self.stages if stage.name == name)
