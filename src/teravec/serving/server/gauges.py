"""Gauges of a server's present state for Prometheus, computed when they are collected.

Label values are the topology's addresses, the states, and the open versions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

__all__ = ["GaugeSource", "PortLoad", "port_gauges", "server_gauges"]


class GaugeSource(Collector):
    """Collects gauges by calling functions.

    Parameters
    ----------
    *sources : callable
        Each returns gauges.
    """

    def __init__(self, *sources: Callable[[], Iterable[Metric]]) -> None:
        self._sources = sources

    def collect(self) -> Iterable[Metric]:
        """Return all gauges' present values."""
        for source in self._sources:
            yield from source()

    def describe(self) -> Iterable[Metric]:
        """Return nothing, because the gauges depend on the servers."""
        return []


def gauge(name: str, text: str, value: float) -> Metric:
    """Make a gauge without labels."""
    return GaugeMetricFamily(f"teravec_{name}", text, value=value)


def info(name: str, text: str, label: str, values: Iterable[str]) -> Metric:
    """Make a gauge that is 1 for each value of its label."""
    family = GaugeMetricFamily(f"teravec_{name}", text, labels=[label])
    for value in values:
        family.add_metric([value], 1.0)
    return family


@dataclass(frozen=True)
class PortLoad:
    """The load of one port now.

    Parameters
    ----------
    connections : int
    delay_s : float
        Longest delay of its event loop in the last minute.
    """

    connections: int
    delay_s: float


def port_gauges(ports: dict[str, PortLoad]) -> Iterable[Metric]:
    """Yield gauges of ports by name."""
    opened = GaugeMetricFamily("teravec_connections", "Open connections.", labels=["port"])
    late = GaugeMetricFamily(
        "teravec_loop_delay_seconds",
        "Longest delay of a port's event loop in the last minute; probes wait as long.",
        labels=["port"],
    )
    for port, load in ports.items():
        opened.add_metric([port], load.connections)
        late.add_metric([port], load.delay_s)
    return [opened, late]


def server_gauges(servers: list[dict[str, Any]], states: Iterable[str]) -> Iterable[Metric]:
    """Yield gauges of a coordinator's servers, from ``Fleet.describe``."""
    up = GaugeMetricFamily(
        "teravec_server_up",
        "Whether the coordinator asks a server as usual (1), or not.",
        labels=["address"],
    )
    state = GaugeMetricFamily(
        "teravec_server_state", "1 for the state that a server is in.", labels=["address", "state"]
    )
    damaged = GaugeMetricFamily(
        "teravec_server_damaged_lists", "Damaged lists that a server has met.", labels=["address"]
    )
    slow = GaugeMetricFamily(
        "teravec_server_slowness",
        "Times longer than usual that a server takes.",
        labels=["address"],
    )
    calls = CounterMetricFamily("teravec_server_calls", "Calls to a server.", labels=["address"])
    failures = CounterMetricFamily(
        "teravec_server_failures", "Calls and polls of a server that failed.", labels=["address"]
    )
    hedges = CounterMetricFamily(
        "teravec_server_hedges",
        "Calls to a server because another was overdue.",
        labels=["address"],
    )
    states = tuple(states)
    for server in servers:
        label = [server["address"]]
        up.add_metric(label, float(server["state"] == "live"))
        for each in states:
            state.add_metric([*label, each], float(server["state"] == each))
        damaged.add_metric(label, server["damaged_lists"])
        slow.add_metric(label, server["slowness"])
        calls.add_metric(label, server["calls"])
        failures.add_metric(label, server["failures"])
        hedges.add_metric(label, server["hedges"])
    counted = GaugeMetricFamily("teravec_servers", "Servers in a state.", labels=["state"])
    for each in states:
        counted.add_metric([each], sum(server["state"] == each for server in servers))
    return [counted, up, state, damaged, slow, calls, failures, hedges]
