"""What the authors of the pipeline that teravec replaces report of 1.5e12 vectors.

1.5e12 vectors of 144 dimensions, reduced to 72 by PCA, sq6, 10 million lists; 2,000 shards, 100
slices, 20 search servers. Faiss, ``benchs/distributed_ondisk/README.md``; the times of slicing
and merging are the ones quoted in this project's issue for the same run. The k-means is another
run of theirs: 50 million vectors to 1 million centroids, 20 iterations, 20 machines of 4 GPUs.
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
        In their words: time of one job, and how many jobs.
    reported_hours : tuple of float, or None
        Job hours in all, least and most; None where they do not compare.
    ours : str
    ours_hours : float or None
        Machine hours in all.
    """

    what: str
    reported: str
    reported_hours: tuple[float, float] | None
    ours: str
    ours_hours: float | None


def is_original(work: Workload) -> bool:
    """Whether this is the original's case: its numbers then stand beside ours."""
    train = work.train
    return (work.ntotal, train.d, train.nlist) == (1_500_000_000_000, 144, 10_000_000)


def beside_original(plan: Plan) -> list[Reported]:
    """What is reported of each stage, beside what we predict."""

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
