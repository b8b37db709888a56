"""What the order of lists saves: reads of a query, and servers that it asks.

    python -m benchmarks.locality FOLDER [--data long,large]

FOLDER has the indexes of ``benchmarks.vs_disk``. The lists that queries visit are counted in the
index's own order, where near lists have near numbers, and in one of chance, as k-means leaves it.
Nothing is timed.
"""

import argparse
from pathlib import Path

import numpy as np

import teravec
from benchmarks import data, measure, records
from benchmarks.vs_disk import CASES

RECALL, K, QUERIES, SERVERS = 0.9, 10, 300, 10
GAP_BYTES = 32 << 10  # as searches go by where bench-disk has measured nothing


def counted(lists: np.ndarray, sizes: np.ndarray, order: np.ndarray) -> tuple[float, float, float]:
    """Of a query, in means: reads, bytes read over the lists' own, and servers asked.

    Parameters
    ----------
    lists : ndarray of shape (nq, nprobe), int64
        Lists visited; -1 is none.
    sizes : ndarray of shape (nlist,), int64
        Bytes of codes of each list.
    order : ndarray of shape (nlist,), int64
        List at each place of the file.
    """
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    ends = np.cumsum(sizes[order])
    starts = ends - sizes[order]
    reads = read = wanted = servers = 0
    for row in lists:
        at = np.sort(place[row[row >= 0]])
        apart = np.flatnonzero(starts[at[1:]] - ends[at[:-1]] > GAP_BYTES) + 1
        firsts, lasts = np.append(0, apart), np.append(apart, len(at)) - 1
        reads += len(firsts)
        read += int((ends[at[lasts]] - starts[at[firsts]]).sum())
        wanted += int((ends[at] - starts[at]).sum())
        servers += len(np.unique(at * SERVERS // len(order)))
    return reads / len(lists), read / wanted, servers / len(lists)


def main() -> None:
    """Count for each data set, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", default=",".join(CASES))
    parser.add_argument("--shared", type=Path, default=records.ROOT.parent / "shared" / "data")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.data.split(","):
        case = CASES[name](name, arguments.folder, arguments.shared)
        queries: data.Floats = case.set.queries()[:QUERIES]
        with teravec.open(case.path("sq6")) as index:
            _, lists, _ = index.steps.nearest_lists(queries, index.effort(recall=RECALL, k=K))
            sizes = index.list_sizes * index.manifest.code_size
        random = np.random.default_rng(0).permutation(len(sizes))
        visited = np.count_nonzero(lists >= 0) / len(lists)
        for what, order in (("random", random), ("near lists together", np.arange(len(sizes)))):
            reads, more, servers = counted(lists, sizes, order)
            rows.append(
                [
                    name,
                    f"{len(sizes):,}",
                    what,
                    f"{visited:.1f}",
                    f"{reads:.1f}",
                    f"{more:.2f}",
                    f"{servers:.1f}",
                ]
            )
    head = ["set", "nlist", "order", "lists", "reads", "bytes over the lists'", "servers of ten"]
    section = (
        f"### The order of lists, recall {RECALL}, {QUERIES} queries\n\nMeans of a query; counted, "
        "not timed. Servers own as many lists each.\n\n" + measure.table(head, rows)
    )
    print(section)
    measure.write_section("locality", section)


if __name__ == "__main__":
    main()
