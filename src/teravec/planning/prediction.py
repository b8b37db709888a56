"""The form of a prediction: the stages of a build, and a query."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Plan", "QueryPlan", "Stage"]

_CALIBRATING = ("true neighbours", "calibrating searches")


@dataclass(frozen=True)
class Stage:
    """A predicted stage. Bytes are totals of all machines; memory is that of one process.

    Parameters
    ----------
    name : str
    seconds : float
        Duration of the stage.
    parts : dict
        Busy seconds of each resource on the busiest machine, by the resource's name. Resources
        that work at the same time add up to more than ``seconds``.
    read_bytes, written_bytes, sent_bytes : int
    memory_bytes : int
        Memory of the largest process, without about 300 MiB for the interpreter and its libraries.
    disk_bytes : int
        Bytes on all disks at the end of the stage.
    machines : int
        Number of busy machines.
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
        """The resource that is busy for the longest time."""
        return max(self.parts, key=lambda name: self.parts[name]) if self.parts else ""


@dataclass(frozen=True)
class QueryPlan:
    """A predicted query without a cache, and the rate of many queries.

    Parameters
    ----------
    latency_s : float
        Latency of a single query whose lists are read from all servers at once.
    parts : dict
        Its seconds by resource.
    read_bytes, lists : float
        Bytes and lists that it reads.
    cold_qps, warm_qps : float
        Queries per second on all servers: limited by disks; limited by processors, with every
        list in memory.
    cached : float
        Share of the index that the memory of all servers keeps: half of what an open index leaves
        of it, as a search shares its memory out.
    cached_qps : float
        Queries per second with that share in memory.
    memory_bytes : int
        Memory of one server, without cached lists.
    warm_memory_bytes : int
        Memory of one server that keeps every list it holds.
    disk_bytes : int
        Bytes of one server's lists.
    """

    latency_s: float
    parts: dict[str, float]
    read_bytes: int
    lists: int
    cold_qps: float
    warm_qps: float
    cached: float
    cached_qps: float
    memory_bytes: int
    warm_memory_bytes: int
    disk_bytes: int

    @property
    def limit(self) -> str:
        """The resource that a single query waits for the longest time."""
        return max(self.parts, key=lambda name: self.parts[name])


@dataclass(frozen=True)
class Plan:
    """A predicted build, stage by stage, and a query.

    Parameters
    ----------
    stages : tuple of Stage
    query : QueryPlan
    build_cost, month_cost : float
        Cost of the machines during the build, and of a month of disk for the finished index.
    index_bytes, source_bytes : int
        Bytes of the finished index, and of the vectors it is built from.
    machines : int
    """

    stages: tuple[Stage, ...]
    query: QueryPlan
    build_cost: float
    month_cost: float
    index_bytes: int = 0
    source_bytes: int = 0
    machines: int = 1

    @property
    def seconds(self) -> float:
        """Duration of all stages, one after another."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def calibration_s(self) -> float:
        """Duration of the stages that ``build --no-calibrate`` leaves out."""
        return sum(stage.seconds for stage in self.stages if stage.name in _CALIBRATING)

    @property
    def disk_bytes(self) -> int:
        """Most bytes on all disks at a time, without the source."""
        return max(stage.disk_bytes for stage in self.stages)

    @property
    def memory_bytes(self) -> int:
        """Memory of the largest process of the build."""
        return max(stage.memory_bytes for stage in self.stages)

    def stage(self, name: str) -> Stage:
        """Return the stage of this name."""
        return next(stage for stage in self.stages if stage.name == name)
