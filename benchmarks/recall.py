"""Recall asked for against recall measured, and what adaptive probing saves.

    python -m benchmarks.recall FOLDER [--shared FOLDER] [--only NAME]

Each index calibrates itself while it is built, on vectors of its own source; the queries here are
fresh ones, with which nothing was tuned. What a recall costs is compared with the fixed nprobe that
gives the fresh queries the same recall, found by trying: lists, codes and bytes a query, each
query searched alone, lists not kept.
"""

import argparse
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import teravec
from benchmarks import data, measure
from teravec.evaluation.evaluation import recall_at
from teravec.search.effort import Effort
from teravec.search.index import Index

ASKED = (0.8, 0.9, 0.95, 0.98)
K = 10


class StageTimes:
    """Seconds of each stage of a build."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def stage(self, name: str, total: int, unit: str) -> "_Stage":
        """Time a stage while the body runs."""
        return _Stage(self.seconds, name.partition(",")[0])


class _Stage:
    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds, self._name = seconds, name

    def __enter__(self) -> "_Stage":
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._seconds[self._name] = time.perf_counter() - self._started

    def advance(self, amount: int) -> None:
        """Count nothing."""


@dataclass(frozen=True)
class Cost:
    """What an effort gives and takes: recall, then lists, codes and bytes a query."""

    recall: float
    lists: float
    codes: float
    bytes: float


def cost(index: Index, queries: data.Floats, truth: data.Ids, effort: Effort) -> Cost:
    """Search all queries in one call, for recall; 100 alone, for bytes."""
    before = (index.stats.lists_wanted, index.stats.codes_scanned)
    _, ids = index.search_at(queries, K, effort)
    lists, codes = index.stats.lists_wanted - before[0], index.stats.codes_scanned - before[1]
    read, some = index.stats.bytes_read, queries[:: max(1, len(queries) // 100)]
    for query in some:
        index.search_at(query[None], K, effort)
    read = index.stats.bytes_read - read
    nq = len(queries)
    return Cost(recall_at(ids, truth, K), lists / nq, codes / nq, read / len(some))


def fixed_nprobe(index: Index, queries: data.Floats, truth: data.Ids, recall: float) -> int:
    """The smallest nprobe that gives these queries this recall, or nlist."""
    low, high = 1, index.nlist
    while low < high:
        middle = (low + high) // 2
        _, ids = index.search(queries, K, middle)
        low, high = (low, middle) if recall_at(ids, truth, K) >= recall else (middle + 1, high)
    return low


def measured(dataset: data.Dataset, folder: Path, nlist: int | None, codec: str) -> str:
    """Build, ask for recalls, and say what came of it."""
    root = folder / "recall-index"
    shutil.rmtree(root, ignore_errors=True)
    stages = StageTimes()
    started = time.perf_counter()
    teravec.build(dataset.base, root, nlist=nlist, codec=codec, memory="1GiB", progress=stages)
    seconds = time.perf_counter() - started
    queries, (_, truth) = dataset.queries(), dataset.neighbours()
    rows = []
    with teravec.open(root, memory="1GiB", keep_lists=False) as index:
        for asked in ASKED:
            try:
                effort = index.effort(recall=asked, k=K)
            except teravec.InvalidArgument as error:
                rows.append([asked, str(error).split(":")[1].split(",")[0].strip(), *[""] * 6])
                continue
            ours = cost(index, queries, truth, effort)
            nprobe = fixed_nprobe(index, queries, truth, ours.recall)
            plain = cost(index, queries, truth, Effort(nprobe))
            rows.append(
                [
                    asked,
                    f"{ours.recall:.4f}",
                    effort.nprobe,
                    f"{ours.lists:.1f}",
                    nprobe,
                    f"{ours.lists / plain.lists:.2f}",
                    f"{ours.codes / plain.codes:.2f}",
                    f"{ours.bytes / plain.bytes:.2f}",
                ]
            )
        nlist = index.nlist
    shutil.rmtree(root)
    truth_s, search_s = stages.seconds["groundtruth"], stages.seconds["calibrate"]
    header = (
        "asked",
        "measured",
        "nprobe, at most",
        "lists, mean",
        "fixed nprobe of that recall",
        "lists / fixed",
        "codes / fixed",
        "bytes / fixed",
    )
    return (
        f"{dataset.name}, nlist {nlist:,}, {codec}; recall@{K} of {len(queries):,} fresh queries. "
        f"The build took {seconds:.1f} s, {truth_s:.1f} of it for the exact neighbours of the "
        f"1,000 held-out vectors and {search_s:.1f} for searching them.\n\n"
        + measure.table(header, rows)
    )


def main() -> None:
    """Run every case, or those whose name holds a word."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, help="for data and indexes")
    parser.add_argument("--shared", type=Path, required=True, help="folder of the real sets")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    synthetic = data.Synthetic(nb=1_000_000, nq=2000)
    makers: dict[str, Callable[[], data.Dataset]] = {
        "sift-photos": lambda: data.sift_photos(arguments.shared),
        "minilm-sentences": lambda: data.minilm_sentences(arguments.shared),
        "synthetic": lambda: data.synthetic(arguments.folder, synthetic),
    }
    cases = [
        (name, nlist, codec) for name in makers for nlist, codec in ((None, "sq8"), (256, "sq8"))
    ]
    for name, nlist, codec in cases:
        case = f"recall {name} {'auto' if nlist is None else nlist}"
        if arguments.only in case:
            body = measured(makers[name](), arguments.folder, nlist, codec)
            measure.write_section(case, f"### {case}\n\n{body}")
            print(body)


if __name__ == "__main__":
    main()
