"""Splitting lists above a cap: what it promises, what it leaves, that it repeats itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import teravec
from teravec.engines.block_sizes import BlockSizes
from teravec.engines.local import LocalEngine
from teravec.errors import InvalidArgument, MemoryLimitTooSmall
from teravec.kernels.assignment import CentroidAssigner
from teravec.model.list_sizes import ListsEstimate
from teravec.progress import NoProgress
from teravec.training.splitting import MOST_ROUNDS, SplitOptions, split_large_lists
from teravec.training.training_set import TrainingSet
from tests.conftest import clustered, write_fbin
from tests.training.sets import training_set

OPTIONS = SplitOptions(max_vectors=100, ntotal=4000, seed=1, spherical=False)


def lopsided(n: int = 4000, d: int = 8) -> np.ndarray:
    """Sorted: first one dense cluster with half of all vectors, then the rest."""
    x = clustered(n, d)
    x[: n // 2] = 0.3 * clustered(n // 2, d, seed=5) + 20
    return x


def make(centroids: np.ndarray) -> CentroidAssigner:
    return CentroidAssigner.exact(centroids)


def split(
    vectors: TrainingSet, centroids: np.ndarray, options: SplitOptions, memory: int = 1 << 30
) -> tuple[np.ndarray, np.ndarray, int]:
    engine = LocalEngine(2, memory)
    return split_large_lists(vectors, centroids, options, make, engine, NoProgress())


def sizes(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    list_nos, _ = make(centroids).assign(x, threads=1)
    return np.bincount(list_nos, minlength=len(centroids))


def test_no_list_stays_above_the_cap(tmp_path: Path) -> None:
    x = lopsided()
    first = x[::80].copy()
    assert sizes(x, first).max() > 100
    found, counts, rounds = split(training_set(tmp_path, x), first.copy(), OPTIONS)
    assert len(found) > len(first)
    np.testing.assert_array_equal(counts, sizes(x, found))
    assert counts.max() <= 100
    assert 1 <= rounds < MOST_ROUNDS
    again, *_ = split(training_set(tmp_path, x), first.copy(), OPTIONS)
    assert again.tobytes() == found.tobytes()


def test_lists_below_the_cap_are_left_alone(tmp_path: Path) -> None:
    x = clustered(2000, 6)
    centroids = x[::40].copy()
    options = SplitOptions(int(sizes(x, centroids).max()), 2000, 1, False)
    found, _, rounds = split(training_set(tmp_path, x), centroids, options)
    assert found.tobytes() == centroids.tobytes()
    assert rounds == 0


def test_the_sample_is_scaled_to_the_source(tmp_path: Path) -> None:
    """A list of 60 of 2,000 sample vectors has 600 of 20,000."""
    x = lopsided(2000)
    options = SplitOptions(600, 20000, 1, False)
    found, counts, *_ = split(training_set(tmp_path, x), x[::50].copy(), options)
    assert counts.max() <= 60
    assert len(found) > 40
    estimate = ListsEstimate.of(counts, 20000, 16, max_bytes=9600)
    assert estimate.largest == 10 * counts.max()
    assert estimate.largest_bytes == 160 * counts.max()
    assert estimate.largest_bytes <= 9600
    assert estimate.above == 0


def test_copies_of_one_vector_cannot_be_split(tmp_path: Path) -> None:
    x = clustered(1000, 4)
    x[300:] = 7
    found, counts, rounds = split(training_set(tmp_path, x), x[::20].copy(), OPTIONS)
    assert counts.max() >= 700
    assert rounds <= 3
    assert np.isfinite(found).all()
    assert ListsEstimate.of(counts, 1000, 10, max_bytes=1000).above == 1


def test_spherical_parts_are_unit_vectors(tmp_path: Path) -> None:
    x = lopsided()
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    options = SplitOptions(100, 4000, 1, True)
    found, *_ = split(training_set(tmp_path, x), x[::80].copy(), options)
    assert len(found) > 50
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_tasks_do_not_matter(tmp_path: Path) -> None:
    """Counted in one task or in many, of blocks that end elsewhere."""
    vectors, first = training_set(tmp_path, lopsided()), lopsided()[::80].copy()
    whole = split(vectors, first.copy(), OPTIONS)
    vectors = replace(vectors, sizes=BlockSizes(counted_task_rows=77))
    parts = split(vectors, first.copy(), OPTIONS)
    assert parts[0].tobytes() == whole[0].tobytes()
    assert parts[1].tobytes() == whole[1].tobytes()


def test_too_little_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MemoryLimitTooSmall, match="splitting 50 lists needs"):
        split(training_set(tmp_path, lopsided()), lopsided()[::80].copy(), OPTIONS, 1 << 20)


def test_a_large_sample_is_counted_in_part(tmp_path: Path) -> None:
    x = lopsided()
    vectors = training_set(tmp_path, x, sizes=BlockSizes(counted_rows=1000))
    _, counts, *_ = split(vectors, x[::400].copy(), OPTIONS)
    assert counts.sum() == 1000
    assert counts.max() <= 25


def test_a_build_keeps_its_lists_below_the_limit(tmp_path: Path) -> None:
    data = write_fbin(tmp_path / "x.fbin", lopsided(6000))
    plain = teravec.build(data, tmp_path / "plain", nlist=32, threads=2, calibrate=False)
    capped = teravec.build(
        data, tmp_path / "capped", nlist=32, threads=2, max_list_bytes=4800, calibrate=False
    )
    assert plain.nlist == 32 < capped.nlist
    with teravec.open(tmp_path / "capped") as index:
        _, ids = index.search(lopsided(6000)[:50], 5, capped.nlist)
        assert (ids[:, 0] == np.arange(50)).mean() > 0.9
    model = json.loads((tmp_path / "capped/model/model.json").read_bytes())
    assert model["nlist"] == capped.nlist == 32 + model["lists"]["added"]
    assert model["lists"]["above"] == 0
    assert model["lists"]["largest_bytes"] <= model["lists"]["max_bytes"] == 4800
    again = teravec.build(
        data, tmp_path / "again", nlist=32, threads=1, max_list_bytes=4800, calibrate=False
    )
    assert again.model == capped.model


def test_a_cap_below_the_mean_list_is_refused(tmp_path: Path) -> None:
    data = write_fbin(tmp_path / "x.fbin", clustered(3000, 4))
    with pytest.raises(InvalidArgument, match="ask for more lists"):
        teravec.build(
            data, tmp_path / "out", nlist=30, codec="sq8", max_list_bytes=1199, calibrate=False
        )
    assert not (tmp_path / "out").exists()
