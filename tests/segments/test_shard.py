"""What sharding takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import teravec


def test_long_vectors_want_no_more_memory_than_short_ones(tmp_path: Path) -> None:
    # Codes of 16 KiB: 65,536 of them, which are not there, would take a gibibyte.
    vectors = np.random.default_rng(1).standard_normal((300, 4096)).astype(np.float32)
    np.save(tmp_path / "x.npy", vectors)
    teravec.build(
        tmp_path / "x.npy", tmp_path / "i", nlist=2, codec="flat", memory="192MiB", calibrate=False
    )
    with teravec.open(tmp_path / "i", memory="192MiB") as index:
        distances, ids = index.search(vectors, 1, nprobe=2)
    np.testing.assert_array_equal(ids[:, 0], np.arange(300))
    assert distances.max() == 0
