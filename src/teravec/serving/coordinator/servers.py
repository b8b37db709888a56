"""What a coordinator's requests have in common: servers to ask, bounds, and counts of filters."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from teravec.errors import Unavailable
from teravec.serving.coordinator.fanout import FanOut, wait_for_owners
from teravec.serving.coordinator.fleet import Fleet
from teravec.serving.coordinator.rounds import CountRound, Round
from teravec.serving.coordinator.shares import Pairs
from teravec.serving.server.merging import Part
from teravec.serving.server.metrics import Metrics
from teravec.serving.server.served import ServedIndex
from teravec.serving.server.step_sizes import StepSizes
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.filter_form import FilterForm, form_key
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.tracing import Tracing
from teravec.storage.listfile import ID_BYTES

__all__ = ["AskedServers", "FilterCounts", "Servers"]

Int64 = npt.NDArray[np.int64]

_COUNT_MASK = (1 << 32) - 1


@dataclass(frozen=True)
class Servers:
    """The servers that a coordinator asks.

    Parameters
    ----------
    fleet : Fleet
    limits : Limits
    metrics : Metrics
    steps : StepSizes
    counts : FilterCounts
    tracing : Tracing, optional
    """

    fleet: Fleet
    limits: Limits
    metrics: Metrics
    steps: StepSizes
    counts: FilterCounts
    tracing: Tracing | None

    def describe_missing(self, left: list[Pairs], missing: float) -> str:
        """Name the lists without a live owner, for an error."""
        list_nos = np.unique(np.concatenate([p.list_nos for p in left]))
        return (
            f"{len(list_nos):,} lists of {list_nos[0]} to {list_nos[-1]}, {100 * missing:.2f} % of "
            f"the bytes to scan, have no live owner ({self.fleet.why_missing()}); "
            "allow a partial answer to go without"
        )


@dataclass
class AskedServers:
    """The servers as one request asks them, and what could not be asked.

    Parameters
    ----------
    servers : Servers
    index : ServedIndex
    deadline : Deadline
    allow_partial : bool

    Attributes
    ----------
    sizes : ndarray of shape (nlist,), int64
        Vectors of each list.
    """

    servers: Servers
    index: ServedIndex
    deadline: Deadline
    allow_partial: bool
    sizes: Int64 = field(init=False)
    _scanned_bytes: int = 0
    _left_bytes: int = 0
    _left: list[Pairs] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sizes = self.servers.fleet.list_sizes(self.index.version)
        self._wait_until_s = wait_for_owners(self.deadline)

    @property
    def missing(self) -> float:
        """Share of the bytes to scan that no live server could."""
        return self._left_bytes / max(1, self._scanned_bytes)

    def ask(self, round: Round, pairs: Pairs) -> tuple[list[Part], list[Pairs]]:
        """Take a round; return the answers, and pairs that no live server could answer."""
        by = self.servers
        fan_out = FanOut(by.fleet, by.metrics, round, self.deadline, self._wait_until_s, by.tracing)
        return fan_out.search(pairs)

    def count(self, pairs: Pairs, left: list[Pairs]) -> None:
        """Add up the missing bytes; raise Unavailable unless partial answers are allowed."""
        self._scanned_bytes += pairs.total_bytes
        self._left_bytes += sum(p.total_bytes for p in left)
        self._left += left
        if left and not self.allow_partial:
            raise Unavailable(self.servers.describe_missing(self._left, self.missing))

    def every_list(self, list_nos: Int64 | None = None) -> Pairs:
        """Pairs of one query with all lists that hold rows, or with some of them."""
        if list_nos is None:
            list_nos = np.arange(len(self.sizes))
        list_nos = list_nos[self.sizes[list_nos] > 0]
        rows, far = np.zeros(len(list_nos), np.int64), np.zeros(len(list_nos), np.float32)
        return Pairs(rows, list_nos, far, ID_BYTES * self.sizes[list_nos])

    def passing_counts(self, form: FilterForm) -> Int64:
        """Rows of each list (nlist,) that pass a filter.

        In lists without a live owner, as large a share as in the others is expected to.
        """
        self.index.check_filter(form)
        kept = self.servers.counts.find(self.index.version, form)
        if kept is not None:
            return kept
        pairs = self.every_list()
        parts, left = self.ask(CountRound(self.index.version, form), pairs)
        counts = np.zeros(len(self.sizes), np.int64)
        for part in parts:
            counts[part.answer.ids >> 32] = part.answer.ids & _COUNT_MASK
        if not left:
            self.servers.counts.keep(self.index.version, form, counts)
            return counts
        if not self.allow_partial:
            self.count(pairs, left)
        lost = np.concatenate([each.list_nos for each in left])
        known = int(self.sizes.sum()) - int(self.sizes[lost].sum())
        share = int(counts.sum()) / max(1, known)
        counts[lost] = np.ceil(self.sizes[lost] * share)
        return counts


class FilterCounts:
    """Rows of each list that pass the filters of late, within a limit of memory.

    Parameters
    ----------
    most_bytes : int
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[tuple[str, str], Int64] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, version: str, form: FilterForm) -> Int64 | None:
        """Return the counts of a version, if they are known."""
        key = version, form_key(form)
        with self._lock:
            counts = self._kept.get(key)
            if counts is not None:
                self._kept.move_to_end(key)
            return counts

    def keep(self, version: str, form: FilterForm, counts: Int64) -> None:
        """Remember counts, and forget those that were wanted longest ago."""
        key = version, form_key(form)
        with self._lock:
            self._kept[key] = counts
            size = sum(each.nbytes + len(key[1]) for key, each in self._kept.items())
            while size > self._most_bytes and self._kept:
                (_, text), dropped = self._kept.popitem(last=False)
                size -= dropped.nbytes + len(text)
