"""What all searches of a server cost, over all versions of its index, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily

from teravec.search.stats import SearchStats
from teravec.storage.cache_counts import all_counts

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
        yield from _disk_caches()


def _disk_caches() -> Iterable[Metric]:
    """Yield what caches on local disks did, over all of them."""
    caches = list(all_counts().values())
    if not caches:
        return
    for name, what in (("blocks", "Blocks"), ("bytes", "Bytes of blocks")):
        family = CounterMetricFamily(
            f"teravec_disk_cache_{name}",
            f"{what} of index files: from the cache on disk (hits), or from the store (misses).",
            labels=["source"],
        )
        found = ("hits", "misses") if name == "blocks" else ("hit_bytes", "miss_bytes")
        for source, field in zip(("cache", "store"), found, strict=True):
            family.add_metric([source], sum(getattr(counts, field) for counts in caches))
        yield family
    damaged = sum(counts.damaged for counts in caches)
    yield _counter("disk_cache_damaged", "Blocks of the cache that were damaged.", damaged)
    kept = sum(counts.kept_bytes for counts in caches)
    yield _counter("disk_cache_kept_bytes", "Bytes written to the cache on disk.", kept)


def _sum(many: Sequence[SearchStats]) -> SearchStats:
    total = SearchStats()
    for stats in many:
        total.add(stats)
    return total


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"teravec_{name}", text, value=value)
