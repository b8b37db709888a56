"""Writes the golden indexes of one format version, with what searches of them found.

    python -m tests.golden.make tests/golden/format-1

Run once for each version of the format, by the release that introduces it, and never again: the
files are the memory of what that release wrote. ``test_golden.py`` reads them.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import teravec
from teravec.training.options import TrainOptions
from tests.conftest import clustered

__all__ = ["ID_STEP", "INDEXES", "NPROBE", "RECALL", "K", "answers"]

K, NPROBE, RECALL = 10, 4, 0.6
ID_STEP = 7
"""The id of row r of ``ids.parquet`` is ``ID_STEP * r + 3``."""

INDEXES: dict[str, dict[str, Any]] = {
    "l2-sq8": {"codec": "sq8", "slices": 3},
    "l2-sq6-rotation": {"codec": "sq6", "transform": "rotation"},
    "cosine-two-stages": {"codec": "rabitq2+sq8", "metric": "cosine", "slices": 2},
    "l2-two-stages-fp16": {"codec": "rabitq1+fp16", "slices": 2},
    "ip-pca-fp16": {"codec": "fp16", "metric": "ip", "transform": "pca16"},
    "l2-pq": {"codec": "pq12", "calibrate": False},
    "cosine-rabitq4": {"codec": "rabitq4", "metric": "cosine", "calibrate": False},
    "ids-flat": {"codec": "flat", "id_column": "id"},
}
"""Name of each index, and what ``teravec.build`` was asked for beside the data."""

ROWS, D, QUERIES = 2500, 24, 40


def answers(index: teravec.Index, queries: np.ndarray) -> dict[str, Any]:
    """What the searches of one golden index find, by name of the array in ``answers.npz``."""
    distances, ids = index.search(queries, K, NPROBE)
    found = {"D": distances, "I": ids}
    radius = np.median(distances)
    limits, distances, ids = index.range_search(queries, float(radius), NPROBE)
    found |= {"radius": radius, "lims": limits, "range_D": distances, "range_I": ids}
    if index.calibration is not None:
        distances, ids = index.search(queries, K, recall=RECALL)
        found |= {"recall_D": distances, "recall_I": ids}
    return found


def _write_sources(root: Path) -> None:
    vectors = clustered(ROWS + QUERIES, D, seed=20261126).astype(np.float16)
    base = vectors[:ROWS]
    np.save(root / "base.npy", base)
    np.save(root / "queries.npy", vectors[ROWS:].astype(np.float32))
    ids = pa.array(np.arange(ROWS) * ID_STEP + 3)
    column = pa.FixedSizeListArray.from_arrays(pa.array(base.reshape(-1)), D)
    pq.write_table(pa.table({"id": ids, "v": column}), root / "ids.parquet", compression="zstd")


def _build(root: Path, name: str, options: dict[str, Any]) -> None:
    source = root / ("ids.parquet" if "id_column" in options else "base.npy")
    teravec.build(source, root / name, nlist=32, **options)
    with teravec.open(root / name) as index:
        np.savez(root / f"{name}.answers.npz", **answers(index, np.load(root / "queries.npy")))


def _leave_unfinished(root: Path) -> None:
    """A build that was stopped after its first shard."""
    out = root / "unfinished"
    teravec.train(root / "base.npy", out, options=TrainOptions(nlist=32, codec="sq8"))
    teravec.shard(root / "base.npy", out, rows=(0, 1000))


def main(root: Path) -> None:
    """Write everything into an empty directory."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    _write_sources(root)
    for name, options in INDEXES.items():
        _build(root, name, options)
    _leave_unfinished(root)
    written_by = {"teravec": "0.1.0", "commit": "d1eee1b", "indexes": INDEXES}
    (root / "made.json").write_text(json.dumps(written_by, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
