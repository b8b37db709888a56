"""What all searches of a server cost, over all versions of its index, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily

from teravec.search.stats import SearchStats

__all__ = ["SearchCosts"]

_MOST_WATCHED = 64
_STEPS = {"coarse": "coarse_s", "wait": "wait_s", "scan": "scan_s", "refine": "refine_s"}


class SearchCosts:
    """Adds up the counts of every version that was opened; counts of closed ones stay."""

    def __init__(self) -> None:
        self._watched: list[SearchStats] = []

    def watch(self, stats: SearchStats) -> None:
        """Count the searches of one more version from now on; versions may share their counts."""
        if any(each is stats for each in self._watched):
            return
        if len(self._watched) > _MOST_WATCHED:  # the earlier half has been closed long since
            half = len(self._watched) // 2
            self._watched[:half] = [_sum(self._watched[:half])]
        self._watched.append(stats)

    def gauges(self) -> Iterable[Metric]:
        """Yield the counters."""
        total = _sum(self._watched)
        lists = CounterMetricFamily(
            "teravec_lists_read",
            "Lists that searches needed: from the cache (hits), or from files (misses).",
            labels=["source"],
        )
        lists.add_metric(["cache"], total.lists_cached)
        lists.add_metric(["files"], total.lists_read)
        yield lists
        yield _counter("disk_reads", "Reads of index files.", total.reads)
        yield _counter("disk_read_bytes", "Bytes read from index files.", total.bytes_read)
        yield _counter("codes_scanned", "Codes compared with queries.", total.codes_scanned)
        yield _counter("codes_refined", "Finer codes compared.", total.codes_refined)
        seconds = CounterMetricFamily(
            "teravec_search_seconds",
            "Time of searches by step; wait is for reads.",
            labels=["step"],
        )
        for step, name in _STEPS.items():
            seconds.add_metric([step], getattr(total, name))
        yield seconds


def _sum(many: Sequence[SearchStats]) -> SearchStats:
    total = SearchStats()
    for stats in many:
        total.add(stats)
    return total


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"teravec_{name}", text, value=value)
