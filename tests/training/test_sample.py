"""The sample: uniform over the whole source, the same for a seed, and found again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from teravec.engines.block_sizes import USUAL_SIZES, BlockSizes
from teravec.engines.local import LocalEngine
from teravec.errors import CorruptFile, ForeignFile
from teravec.model.transform import Transform
from teravec.progress import NoProgress
from teravec.sources import Source, open_source
from teravec.training.options import TrainOptions, TrainPlan, plan_training
from teravec.training.sample import Sample, draw_sample
from tests.training.sets import training_set

N = 20_000


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Sorted: row r is (r, 1, -r)."""
    rows = np.arange(N, dtype=np.float32)
    path = tmp_path_factory.mktemp("source") / "sorted.npy"
    np.save(path, np.stack([rows, np.ones_like(rows), -rows], axis=1))
    return open_source(path)


def plan(**options: Any) -> TrainPlan:
    return plan_training(TrainOptions(**{"nlist": 4, "sample": 2000, **options}), N, 3)


SMALL_PARTS = BlockSizes(sample_part_bytes=3400)  # seven parts, of 285 or 286 rows


def draw(
    source: Source, directory: Path, sizes: BlockSizes = USUAL_SIZES, **options: Any
) -> np.ndarray:
    directory.mkdir(exist_ok=True)
    engine = LocalEngine(2, 1 << 30)
    sample = draw_sample(source, plan(**options), directory, NoProgress(), engine, sizes)
    return sample.read(0, sample.n)


def test_sample_is_uniform_over_a_sorted_source(source: Source, tmp_path: Path) -> None:
    found = draw(source, tmp_path)
    rows = found[:, 0].astype(np.int64)
    np.testing.assert_array_equal(found, np.stack([rows, rows * 0 + 1, -rows], axis=1))
    assert len(np.unique(rows)) == 2000
    assert abs(rows.mean() - N / 2) < 4 * N / np.sqrt(12 * 2000)
    tenths = np.bincount(rows * 10 // N, minlength=10)
    assert (abs(tenths - 200) < 4 * np.sqrt(200)).all()


def test_seed_decides(source: Source, tmp_path: Path) -> None:
    first, small = draw(source, tmp_path / "a", seed=1), BlockSizes(sample_piece_bytes=1000)
    again = draw(source, tmp_path / "b", small, seed=1)
    other = draw(source, tmp_path / "c", small, seed=2)
    assert again.tobytes() == first.tobytes()
    shared = np.intersect1d(first[:, 0], other[:, 0])
    assert len(shared) < 400  # about 200 by chance


def test_whole_source_is_a_sample(source: Source, tmp_path: Path) -> None:
    np.testing.assert_array_equal(draw(source, tmp_path, sample=10**9), source.read(0, N))


def test_cosine_samples_are_of_unit_length(source: Source, tmp_path: Path) -> None:
    found = draw(source, tmp_path / "cosine", metric="cosine").astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    plain = draw(source, tmp_path / "l2").astype(np.float64)
    np.testing.assert_allclose(
        found, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6
    )


def unread(_: Source, rows: np.ndarray) -> np.ndarray:
    pytest.fail(f"{len(rows)} rows of the source were read")


def test_drawn_sample_is_found_again(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = draw(source, tmp_path)
    monkeypatch.setattr(Source, "take", unread)
    assert draw(source, tmp_path).tobytes() == first.tobytes()
    with pytest.raises(ForeignFile, match="2,000 x 3 found, 1,999 x 3 expected"):
        draw(source, tmp_path, sample=1999)


def test_parts_are_one_sample(source: Source, tmp_path: Path) -> None:
    parts = draw(source, tmp_path / "parts", SMALL_PARTS)
    assert len(list((tmp_path / "parts").glob("sample-*.f32"))) == 7
    whole = draw(source, tmp_path / "whole", BlockSizes(sample_part_bytes=1 << 20))
    assert (tmp_path / "whole/sample.f32").read_bytes() == parts.tobytes() == whole.tobytes()
    sample = Sample(tmp_path / "parts/sample.f32", 2000, 3, 7)
    assert np.concatenate(list(sample.blocks(111))).tobytes() == parts.tobytes()
    rng = np.random.default_rng(0)
    for count in (1, 2, 50, 1999):
        rows = np.sort(rng.choice(2000, count, replace=False))
        assert sample.take(rows).tobytes() == parts[rows].tobytes()
    for start, stop in ((0, 0), (285, 286), (284, 900), (1999, 2000)):
        assert sample.read(start, stop).tobytes() == parts[start:stop].tobytes()


def test_missing_parts_alone_are_drawn(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, take = draw(source, tmp_path, SMALL_PARTS), Source.take
    for name in ("sample-00003.json", "sample-00005.json", "sample-00005.f32"):
        (tmp_path / name).unlink()
    taken: list[int] = []

    def counted(source: Source, rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
        taken.append(len(rows))
        return take(source, rows, dtype)

    monkeypatch.setattr(Source, "take", counted)
    assert draw(source, tmp_path, SMALL_PARTS).tobytes() == first.tobytes()
    assert sum(taken) == 285 + 286


def test_a_damaged_part_is_corrupt(source: Source, tmp_path: Path) -> None:
    draw(source, tmp_path, SMALL_PARTS)
    path = tmp_path / "sample-00004.f32"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptFile, match=path.name):
        draw(source, tmp_path, SMALL_PARTS)


def test_damaged_sample_is_corrupt(source: Source, tmp_path: Path) -> None:
    draw(source, tmp_path)
    path = tmp_path / "sample.f32"
    whole = path.read_bytes()
    for data in (whole[:-1], whole + b"\0", whole[:500] + b"\x7f" + whole[501:]):
        path.write_bytes(data)
        with pytest.raises(CorruptFile, match=path.name):
            draw(source, tmp_path)
    path.write_bytes(whole)
    draw(source, tmp_path)
    os.truncate(path, 1000)
    with pytest.raises(CorruptFile, match="ends at byte"):
        Sample(path, 2000, 3).read(0, 2000)


def test_half_drawn_sample_is_drawn_anew(source: Source, tmp_path: Path) -> None:
    """Killed while drawing, or between the sample and its seal."""
    first = draw(source, tmp_path)
    (tmp_path / "sample.json").unlink()
    (tmp_path / "sample.f32").write_bytes(b"half")
    (tmp_path / "sample.f32.tmp").write_bytes(b"half" * 100_000)
    assert draw(source, tmp_path).tobytes() == first.tobytes()


@pytest.mark.parametrize("block_bytes", [1, 100, 10**9])
def test_training_set_is_the_transformed_sample(tmp_path: Path, block_bytes: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((101, 4)).astype(np.float32)
    transform = Transform(
        rng.standard_normal((2, 4)).astype(np.float32), np.array([1, 2], np.float32)
    )
    vectors = training_set(tmp_path, x, transform, BlockSizes(training_block_bytes=block_bytes))
    expected = x @ transform.matrix.T + transform.offset  # type: ignore[union-attr]
    blocks = list(vectors.blocks())
    assert {len(block) for block in blocks[:-1]} <= {vectors.block_rows}
    np.testing.assert_allclose(np.concatenate(blocks), expected, rtol=1e-5, atol=1e-5)
    rows = np.array([0, 3, 50, 100])
    np.testing.assert_allclose(vectors.take(rows), expected[rows], rtol=1e-5, atol=1e-5)
    assert len(vectors.evenly(10**6)) == 101
    np.testing.assert_allclose(vectors.evenly(10), expected[np.arange(10) * 101 // 10], rtol=1e-5)
    np.testing.assert_array_equal(vectors.probe(4), vectors.probe()[::4])
