"""The reported times of the pipeline that teravec replaces, for 1.5e12 vectors.

The run had 1.5e12 vectors of 144 dimensions, reduced to 72 by PCA, sq6, 10 million lists, 2,000
shards, 100 slices and 20 search servers: Faiss, ``benchs/distributed_ondisk/README.md``. The
times of slicing and merging are quoted in this project's issue for the same run. The k-means is
another run of the same authors: 50 million vectors to 1 million centroids, 20 iterations, on 20
machines of 4 GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass

from teravec.planning.prediction import Plan
from teravec.planning.workload import Workload

__all__ = ["Reported", "beside_original", "is_original"]

_HOUR = 3600.0
_THEIR_KMEANS = "899 s for 50M to 1M, 20 iterations, on 20 machines of 4 GPUs"


@dataclass(frozen=True)
class Reported:
    """One line of the comparison.

    Parameters
    ----------
    what : str
    reported : str
        The authors' words: time of one job, and number of jobs.
    reported_hours : tuple of float, or None
        Total job hours, least and most; None if the runs are not comparable.
    ours : str
    ours_hours : float or None
        Total machine hours.
    """

    what: str
    reported: str
    reported_hours: tuple[float, float] | None
    ours: str
    ours_hours: float | None


def is_original(work: Workload) -> bool:
    """Whether this is the original's workload, so that its times can be compared."""
    train = work.train
    return (work.ntotal, train.d, train.nlist) == (1_500_000_000_000, 144, 10_000_000)


def beside_original(plan: Plan) -> list[Reported]:
    """Compare the reported time of each stage with our prediction."""

    def line(what: str, reported: str, hours: tuple[float, float] | None, name: str) -> Reported:
        stage = plan.stage(name)
        text = f"{stage.seconds / _HOUR:,.1f} h on {stage.machines:,} machines"
        return Reported(what, reported, hours, text, stage.seconds / _HOUR * stage.machines)

    query = plan.query
    return [
        line("k-means", _THEIR_KMEANS, None, "k-means"),
        line("slices (our shards)", "7.5 h x 2,000 jobs", (15000, 15000), "shard"),
        line("re-slicing (our slices)", "24 to 33 h x 100 jobs, at 10 MB/s", (2400, 3300), "merge"),
        Reported("query", "1 to 20 s", None, f"{query.latency_s:,.2f} s, cold", None),
    ]
