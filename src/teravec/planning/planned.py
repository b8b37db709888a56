"""A prediction with what it was made from: printed with the headline first, or as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
from rich.table import Table

from teravec.bars import counted
from teravec.planning.machines import Machine
from teravec.planning.model import predict
from teravec.planning.original import beside_original, is_original
from teravec.planning.prediction import Plan
from teravec.planning.workload import Cluster, Prices, Queries, Workload
from teravec.report import table_text

__all__ = ["Planned", "machines_within", "make_plan"]

_UNITS = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_TIMES = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))
_MOST_MACHINES = 1 << 14


@dataclass(frozen=True, repr=False)
class Planned:
    """A predicted build and query.

    Parameters
    ----------
    work : Workload
    cluster : Cluster
    queries : Queries
    prices : Prices
    machine : Machine
    plan : Plan
    """

    work: Workload
    cluster: Cluster
    queries: Queries
    prices: Prices
    machine: Machine
    plan: Plan

    def __repr__(self) -> str:
        return "\n".join((*self.headline(), "", table_text(self.table()), *self._notes()))

    def to_arrow(self) -> Any:
        """Return the stages as a pyarrow.Table."""
        stages = [{**asdict(stage), "limit": stage.limit} for stage in self.plan.stages]
        for stage in stages:
            del stage["parts"]
        return pa.Table.from_pylist(stages)

    def content(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        work, plan = self.work, self.plan
        content = {
            "machine": self.machine.name,
            "machines": self.cluster.machines,
            "threads": self.cluster.threads,
            "memory_limit_bytes": self.cluster.memory_bytes,
            "nlist": work.train.nlist,
            "sample": work.train.sample,
            "code_size": work.code_size,
            "index_bytes": plan.index_bytes,
            "source_bytes": plan.source_bytes,
            "disk_bytes": plan.disk_bytes,
            "memory_bytes": plan.memory_bytes,
            "seconds": plan.seconds,
            "calibration_s": plan.calibration_s,
            "stages": [{**asdict(stage), "limit": stage.limit} for stage in plan.stages],
            "recall": self.queries.recall,
            "lists_from": self.queries.origin,
            "query": {**asdict(plan.query), "limit": plan.query.limit},
            "build_cost": plan.build_cost,
            "month_cost": plan.month_cost,
        }
        if is_original(work):
            content["reported"] = [asdict(line) for line in beside_original(plan)]
        return content

    def headline(self) -> list[str]:
        """Return what one wants to know first, a line each."""
        work, plan, cluster, machine = self.work, self.plan, self.cluster, self.machine
        query, train, recall = plan.query, work.train, self.queries.recall
        at = "" if recall is None else f" for recall@{self.queries.k} {recall:g}"
        short = ""
        if plan.calibration_s > plan.seconds / 5:
            short = f"; {_time(plan.seconds - plan.calibration_s)} with --no-calibrate"
        count = counted(cluster.machines, "machines")
        rows = {
            "machines": f"{count} of {counted(cluster.threads, 'threads')}, "
            f"{_bytes(cluster.memory_bytes)} for each process",
            "speeds": f"{machine.name}: {machine.about}",
            "index": f"{_bytes(plan.index_bytes)}, "
            f"{plan.index_bytes / work.ntotal:,.1f} bytes a vector",
            "disk": f"{_bytes(plan.disk_bytes)} at the most while it is built, beside "
            f"{_bytes(plan.source_bytes)} of vectors",
            "build": f"{_time(plan.seconds)}, {_bytes(plan.memory_bytes)} of memory a "
            f"process{short}",
            "query": f"{query.lists:,} lists{at} ({self.queries.origin})",
            "": f"{_bytes(query.read_bytes)}, {_time(query.latency_s)} alone and cold, limited by "
            f"{query.limit}",
            "serve": f"a server takes {_bytes(query.memory_bytes)} of memory without lists: "
            f"{query.cold_qps:,.1f} queries/s",
            " ": f"with {_bytes(cluster.memory_bytes)} it keeps {100 * query.cached:,.1f} % of its "
            f"lists: {query.cached_qps:,.1f} queries/s",
            "  ": f"with {_bytes(query.warm_memory_bytes)} all of them: {query.warm_qps:,.1f} "
            "queries/s",
        }
        if plan.build_cost or plan.month_cost:
            month = f"{plan.month_cost:,.2f} a month of disk"
            rows["cost"] = f"{plan.build_cost:,.2f} for the build, {month}"
        first = f"{work.ntotal:,} x {train.d}, {train.codec.name}, {train.nlist:,} lists"
        return [first, *(f"{name.strip():>10}  {value}" for name, value in rows.items())]

    def table(self) -> Table:
        """Return the stages as a table."""
        table = Table("stage", "time", "limited by", "read", "written", "sent", "memory", "disk")
        for stage in self.plan.stages:
            table.add_row(
                stage.name,
                _time(stage.seconds),
                stage.limit,
                *(
                    _bytes(size)
                    for size in (
                        stage.read_bytes,
                        stage.written_bytes,
                        stage.sent_bytes,
                        stage.memory_bytes,
                        stage.disk_bytes,
                    )
                ),
            )
        return table

    def _notes(self) -> list[str]:
        notes = ["memory is that of a process, the rest of all machines together"]
        if is_original(self.work):
            notes += ["", table_text(reported_table(self.plan))]
        return notes

    def on(self, machines: int) -> Planned:
        """Predict the same with so many machines."""
        cluster = replace(self.cluster, machines=machines)
        return make_plan(self.work, cluster, self.queries, self.prices, self.machine)


def make_plan(
    work: Workload, cluster: Cluster, queries: Queries, prices: Prices, machine: Machine
) -> Planned:
    """Predict a build and a query on machines of a kind."""
    plan = predict(work, cluster, queries, prices, machine.constants)
    return Planned(work, cluster, queries, prices, machine, plan)


def machines_within(planned: Planned, seconds: float) -> Planned | None:
    """Find the fewest machines that build within a time; None if none suffice."""

    def fits(count: int) -> bool:
        return planned.on(count).plan.seconds <= seconds

    high = 1
    while not fits(high):
        high *= 2
        if high > _MOST_MACHINES:
            return None
    return planned.on(_least(high // 2 + 1, high, fits))


def _least(low: int, high: int, fits: Callable[[int], bool]) -> int:
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return high


def reported_table(plan: Plan) -> Table:
    """Return what the authors of the original pipeline report, beside the prediction."""
    table = Table("", "as reported", "job hours", "predicted", "machine hours")
    for line in beside_original(plan):
        hours = "" if line.reported_hours is None else f"{line.reported_hours[1]:,.0f}"
        ours = "" if line.ours_hours is None else f"{line.ours_hours:,.0f}"
        table.add_row(line.what, line.reported, hours, line.ours, ours)
    return table


def _bytes(count: float) -> str:
    unit, name = next((u for u in _UNITS if count >= u[0]), (1.0, "B"))
    return f"{count / unit:,.1f} {name}" if name != "B" else f"{count:,.0f} B"


def _time(seconds: float) -> str:
    if 0 < seconds < 1:
        return f"{1e3 * seconds:,.1f} ms"
    unit, name = next((u for u in _TIMES if seconds >= u[0]), (1.0, "s"))
    return f"{seconds / unit:,.1f} {name}"
