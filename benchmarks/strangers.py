"""Recall asked for against recall found, by queries that are like the vectors and by others.

    python -m benchmarks.strangers FOLDER --shared FOLDER [--only NAME] [--rows N]

Each index calibrates itself while it is built. The queries are fresh ones, and kinds that no
calibration has seen: moved away from the mean of all vectors, or towards it; means of two vectors;
with noise; and vectors of another set, cut or repeated to the dimension and scaled to the mean and
deviation of each. ``gaps alone`` is the rule without hardness, calibrated on the same queries.
"""

import argparse
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np

import teravec
from benchmarks import data, measure
from teravec.evaluation.evaluation import recall_at
from teravec.evaluation.keeping import known_queries
from teravec.evaluation.measuring import KnownQueries, measure_effort
from teravec.index.calibration import Calibration, read_kept
from teravec.kernels.metric import Metric
from teravec.search.effort import Effort, calibrated_effort
from teravec.search.index import Index
from teravec.search.probing import CROWD, list_gaps, prune_weight

ASKED = (0.8, 0.9, 0.95)
K = 10
QUERIES = 1000


def kinds(base: data.Floats, queries: data.Floats, other: data.Floats) -> dict[str, data.Floats]:
    """Make each kind of query; ``other`` are queries of another set."""
    rng = np.random.default_rng(1)
    mean, deviation = base.mean(0), base.std(0)
    apart = float(np.sqrt(2 * (deviation**2).mean()))
    pairs = rng.integers(0, len(base), (QUERIES, 2))
    noise = rng.standard_normal(queries.shape, np.float32) * apart
    repeated = np.tile(other, (1, -(-base.shape[1] // other.shape[1])))[:, : base.shape[1]]
    strangers = (repeated - repeated.mean(0)) / np.maximum(repeated.std(0), 1e-6)
    made = {
        "like the vectors": queries,
        "1.5 times as far": mean + 1.5 * (queries - mean),
        "2.5 times as far": mean + 2.5 * (queries - mean),
        "half as far": mean + 0.5 * (queries - mean),
        "between two vectors": base[pairs].mean(1),
        "some noise": queries + 0.2 * noise,
        "much noise": queries + 0.5 * noise,
        "another set": mean + deviation * strangers,
    }
    return {name: np.ascontiguousarray(x, np.float32) for name, x in made.items()}


def without_hardness(index: Index) -> Calibration:
    """Calibrate as before hardness, with the queries that the index keeps."""
    paths, metric = index.steps.opened.paths, Metric(index.metric)
    kept = read_kept(paths, index.manifest)
    assert kept is not None
    found = known_queries(paths, index.manifest, kept, (K,))
    assert found is not None
    known: KnownQueries = found[0]
    some = Effort(min(CROWD, index.nlist))
    prepared, _, distances = index.steps.nearest_lists(known.vectors, some)
    prune = prune_weight(list_gaps(distances, prepared, metric))
    sign = -1.0 if metric.larger_is_closer else 1.0
    points = []
    for step in range(2 * int(np.log2(index.nlist)) + 1):
        effort = Effort(min(index.nlist, round(2 ** (step / 2))), prune)
        points.append(measure_effort(index, known, effort, (K,), [], sign))
        if points[-1].recall[0] > 0.985:
            break
    made = index.calibration
    assert made is not None
    return replace(made, ks=(K,), radii=(), points=tuple(points), hardness=None)


def measured(
    dataset: data.Dataset, other: data.Dataset, folder: Path, codec: str, rows: int
) -> str:
    """Build, ask for recalls with every kind of query, and say what came of it."""
    root = folder / "strangers-index"
    shutil.rmtree(root, ignore_errors=True)
    base = np.ascontiguousarray(dataset.matrix()[:rows], np.float32)
    teravec.build(base, root, codec=codec, memory="1GiB")
    sets = kinds(base, dataset.queries()[:QUERIES], other.queries()[:QUERIES])
    exact = faiss.IndexFlatL2(base.shape[1])
    exact.add(base)
    table = []
    with teravec.open(root, memory="1GiB", keep_lists=False) as index:
        before, now = without_hardness(index), index.calibration
        assert now is not None
        for name, queries in sets.items():
            _, truth = exact.search(queries, K)
            for asked in ASKED:
                row = [name, asked]
                for calibration in (before, now):
                    effort = calibrated_effort(
                        calibration, asked, K, None, Metric(index.metric), index.nlist
                    )
                    lists, codes = index.stats.lists_wanted, index.stats.codes_scanned
                    _, ids = index.search_at(queries, K, effort)
                    lists, codes = (
                        index.stats.lists_wanted - lists,
                        index.stats.codes_scanned - codes,
                    )
                    nq = len(queries)
                    row += [
                        f"{recall_at(ids, truth, K):.3f}",
                        f"{lists / nq:.1f}",
                        f"{codes / nq:,.0f}",
                    ]
                table.append(row)
        nlist = index.nlist
    shutil.rmtree(root)
    header = ("queries", "asked", "gaps alone", "lists", "codes", "got", "lists now", "codes now")
    return (
        f"{dataset.name}, {len(base):,} vectors, nlist {nlist:,}, {codec}; recall@{K} of "
        f"{QUERIES:,} queries of each kind; lists and codes a query, on average.\n\n"
        + measure.table(header, table)
    )


def main() -> None:
    """Run every case, or those whose name holds a word."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, help="for data and indexes")
    parser.add_argument("--shared", type=Path, required=True, help="folder of the real sets")
    parser.add_argument("--only", default="")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each set, at most")
    arguments = parser.parse_args()
    sift, minilm = data.sift_photos(arguments.shared), data.minilm_sentences(arguments.shared)
    spec = data.Synthetic(nb=min(arguments.rows, 200_000), nq=QUERIES)
    cases: dict[str, Callable[[], tuple[data.Dataset, data.Dataset]]] = {
        "sift-photos": lambda: (sift, minilm),
        "minilm-sentences": lambda: (minilm, sift),
        "synthetic": lambda: (data.synthetic(arguments.folder, spec), sift),
    }
    for name, make in cases.items():
        case = f"strangers {name}"
        if arguments.only in case:
            body = measured(*make(), arguments.folder, "sq8", arguments.rows)
            measure.write_section(case, f"### {case}\n\n{body}")
            print(body)


if __name__ == "__main__":
    main()
