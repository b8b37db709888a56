"""Values that a codec or a type cannot hold: right answers, or an error that names the row."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import teravec
from teravec.cli.main import app
from teravec.errors import InvalidArgument, InvalidSource
from teravec.index.manifest import read_manifest
from teravec.storage.layout import IndexPaths


def build(tmp_path: Path, vectors: np.ndarray, **options: Any) -> teravec.Index:
    np.save(tmp_path / "x.npy", vectors)
    options = {"calibrate": False, "threads": 2, "nlist": 8, "niter": 4, **options}
    teravec.build(tmp_path / "x.npy", tmp_path / "i", **options)
    return teravec.open(tmp_path / "i", memory="256MiB")


def find_themselves(index: teravec.Index, vectors: np.ndarray) -> float:
    with index:
        distances, ids = index.search(vectors[:60], 1, nprobe=index.nlist)
    assert np.isfinite(distances).all()
    return float((ids[:, 0] == np.arange(60)).mean())


def normal(n: int = 900, d: int = 12) -> np.ndarray:
    return np.random.default_rng(21).standard_normal((n, d)).astype(np.float32)


# ---------------------------------------------------------------------- halves


@pytest.mark.parametrize("codec", ["fp16", "rabitq1+fp16", "rabitq2+fp16"])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_values_beyond_halves_are_refused_by_row(tmp_path: Path, codec: str, metric: str) -> None:
    x = normal()
    x[431, 7] = -6.6e4
    with pytest.raises(InvalidSource, match=r"x\.npy: row 431 .*65,504.*sq8"):
        build(tmp_path, x, codec=codec, metric=metric, transform="none")
    assert not (tmp_path / "i").exists()
    x[431, 7] = 65504
    assert find_themselves(build(tmp_path, x, codec="fp16", metric="l2"), x) > 0.95


def test_a_row_outside_of_the_sample_is_found_while_sharding(tmp_path: Path) -> None:
    x = normal(3000)
    x[2900, 3] = 1e5
    np.save(tmp_path / "x.npy", x)
    sharded = 0
    for seed in range(6):  # of 200 rows of 3,000, most samples leave this one out
        with pytest.raises(InvalidSource, match=r"row 2900 .*65,504") as error:
            teravec.build(
                tmp_path / "x.npy", tmp_path / "i", codec="fp16", nlist=4, sample=200, seed=seed
            )
        sharded += any(entry.name == "encode" for entry in error.traceback)
        assert not (tmp_path / "i").exists()
    assert sharded


def test_a_transform_may_raise_values(tmp_path: Path) -> None:
    x = (normal() * 1e4 + 3e4).clip(-6e4, 6e4).astype(np.float32)  # their mean is along one line
    with pytest.raises(InvalidSource, match="65,504"):
        build(tmp_path, x, codec="fp16", transform="rotation", metric="ip")
    assert find_themselves(build(tmp_path, x, codec="fp16", metric="cosine"), x) > 0.9


@pytest.mark.parametrize("change", ["tiny", "far"])
def test_halves_that_are_all_alike_are_refused(tmp_path: Path, change: str) -> None:
    x = normal() * np.float32(3e-8) if change == "tiny" else normal() + np.float32(2e4)
    with pytest.raises(InvalidSource, match=r"row \d+ .*fp16.*scale"):
        build(tmp_path, x, codec="fp16")
    assert find_themselves(build(tmp_path, x, codec="flat"), x) == 1


# ---------------------------------------------------------------------- squares


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("codec", ["flat", "sq8"])
@pytest.mark.parametrize("size", [1e-22, 1e-36])
def test_a_set_of_tiny_vectors_is_refused(
    tmp_path: Path, size: float, codec: str, metric: str
) -> None:
    with pytest.raises(InvalidSource, match=r"row \d+ .*scale"):
        build(tmp_path, (normal() * size).astype(np.float32), codec=codec, metric=metric)


@pytest.mark.parametrize("size", [3e-31, 1e-41, 7e24, 1e37])
def test_cosine_takes_any_length(tmp_path: Path, size: float) -> None:
    x = (normal() * size).astype(np.float32)
    index = build(tmp_path, x, codec="flat", metric="cosine")
    assert find_themselves(index, (x / np.float32(size)) if size < 1e-40 else x) == 1


def test_a_few_tiny_rows_are_as_good_as_zeros(tmp_path: Path) -> None:
    x = normal()
    x[::7] *= np.float32(1e-30)
    x[3::11] = 0
    for metric in ("l2", "ip", "cosine"):
        with build(tmp_path, x, codec="flat", metric=metric) as index:
            _, ids = index.search(x[1:3], 1, nprobe=8)
        if metric != "ip":
            assert ids[:, 0].tolist() == [1, 2]
        for path in sorted((tmp_path / "i").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


def test_queries_beyond_float32(tmp_path: Path) -> None:
    x = normal()
    with build(tmp_path, x, codec="flat", metric="ip") as index:
        usual = index.search(x[:4], 5, nprobe=8)[1]
        for factor in (1e-9, 1e15):
            scaled = (x[:4] * factor).astype(np.float32)
            np.testing.assert_array_equal(index.search(scaled, 5, nprobe=8)[1], usual)
        for factor in (1e-33, 2e35):
            scaled = x[:4].copy()
            scaled[2] *= np.float32(factor)
            with pytest.raises(InvalidArgument, match=r"query 2 .*divide it"):
                index.search(scaled, 5, nprobe=8)
            with pytest.raises(InvalidArgument, match=r"query 0 .*divide it"):
                index.search(scaled[2:3], 5, nprobe=8)
        assert index.search(np.zeros((2, 12), np.float32), 2, nprobe=8)[0].tolist() == [[0, 0]] * 2


# ---------------------------------------------------------------------- float64 and integers


@pytest.mark.parametrize("kind", ["float64", "int32", "part"])
def test_a_build_whose_vectors_float32_makes_equal_is_refused(tmp_path: Path, kind: str) -> None:
    x = normal().astype(np.float64)
    if kind == "part":  # a third of them
        x[::3] += 7e8
    else:
        x += 3e9
    if kind == "int32":
        rows = (2**30 + np.random.default_rng(22).integers(0, 40, (900, 12))).astype("<i4")
        prefix = np.full((900, 1), 12, "<i4")
        np.hstack([prefix, rows]).tofile(tmp_path / "x.ivecs")
        with pytest.raises(InvalidSource, match=r"x\.ivecs: row \d+ .*float32.*subtract"):
            teravec.build(tmp_path / "x.ivecs", tmp_path / "i", nlist=4)
        return
    with pytest.raises(InvalidSource, match=r"x\.npy: row \d+ .*float32.*subtract"):
        build(tmp_path, x)


def test_float64_as_people_have_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    x = normal().astype(np.float64) * 0.1 + 5
    with caplog.at_level(logging.WARNING, "teravec"):
        assert find_themselves(build(tmp_path, x, codec="flat"), x) == 1
    assert not caplog.records


# ---------------------------------------------------------------------- far from the origin


@pytest.mark.parametrize(
    "options",
    [
        {"codec": "sq8"},
        {"codec": "flat", "transform": "rotation"},
        {"codec": "flat", "transform": "pca20"},
        {"codec": "rabitq2+sq8"},
    ],
    ids=str,
)
@pytest.mark.parametrize("offset", ["7e5", "one of 4e4", "apart"])
def test_a_constant_changes_nothing(tmp_path: Path, offset: str, options: dict[str, Any]) -> None:
    base = np.random.default_rng(4).standard_normal((4060, 20)) * np.linspace(2, 0.5, 20)
    shift = {"7e5": np.full(20, 7e5), "one of 4e4": np.eye(20)[3] * 4e4}.get(
        offset, np.random.default_rng(5).uniform(-2e5, 2e5, 20)
    )
    recalls, imbalances = [], []
    for number, add in enumerate((np.zeros(20), shift)):
        z = (base + add).astype(np.float32)
        x, queries, wide = z[:4000], z[4000:], z.astype(np.float64) - add
        true = ((wide[4000:, None] - wide[None, :4000]) ** 2).sum(-1)
        (tmp_path / str(number)).mkdir()
        with build(tmp_path / str(number), x, nlist=64, niter=10, **options) as index:
            ids = index.search(queries, 10, nprobe=8)[1]
            sizes = index.list_sizes.astype(float)
        kth = np.sort(true, axis=1)[:, 9:10] + 1e-9
        recalls.append((np.take_along_axis(true, ids, 1) <= kth).mean())
        imbalances.append(64 * (sizes**2).sum() / sizes.sum() ** 2)
    assert recalls[1] > recalls[0] - 0.06
    assert imbalances[1] < imbalances[0] + 0.1


@pytest.mark.parametrize("transform", ["none", "rotation", "pca20"])
def test_inner_products_keep_their_origin(tmp_path: Path, transform: str) -> None:
    x = normal(2000, 20) + np.float32(4000)
    with build(tmp_path, x, codec="flat", metric="ip", transform=transform) as index:
        distances, ids = index.search(x[:20], 10, nprobe=8)
    true = x[:20].astype(np.float64) @ x.T.astype(np.float64)
    np.testing.assert_allclose(distances, np.take_along_axis(true, ids, 1), rtol=1e-6)


# ---------------------------------------------------------------------- clipped


def test_few_of_ordinary_vectors_are_clipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "teravec"):
        build(tmp_path, normal(4000, 16), codec="sq8", sample=2000).close()
    assert read_manifest(IndexPaths(tmp_path / "i")).clipped < 20
    assert not caplog.records


@pytest.mark.parametrize("codec", ["sq8", "sq4", "rabitq2+sq8"])
def test_rows_far_outside_of_the_range_are_counted(
    tmp_path: Path, codec: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Seed by seed, until the sample has none of the three long rows.
    x = normal(4000, 16)
    x[-3:] *= 50
    np.save(tmp_path / "x.npy", x)
    for seed in range(20):
        out = tmp_path / f"i{seed}"
        with caplog.at_level(logging.WARNING, "teravec"):
            manifest = teravec.build(
                tmp_path / "x.npy",
                out,
                codec=codec,
                nlist=1,
                sample=1000,
                seed=seed,
                shards=3,
                calibrate=False,
            )
        if manifest.clipped >= 3:
            break
    else:
        pytest.fail("every sample had one of the long rows")
    assert manifest.clipped < 40
    assert not [r for r in caplog.records if "outside" in r.getMessage()]  # a count, no alarm
    assert read_manifest(IndexPaths(out)).clipped == manifest.clipped
    told = CliRunner().invoke(app, ["info", str(out)]).output
    assert f"clipped  {manifest.clipped} vectors" in told
    content = json.loads(CliRunner().invoke(app, ["info", str(out), "--json"]).output)
    assert content["clipped"] == manifest.clipped


def test_many_rows_outside_of_the_range_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x = normal(3000, 16)
    x *= np.exp(2 * np.random.default_rng(22).standard_normal((3000, 1))).astype(
        np.float32
    )  # a heavy tail
    with caplog.at_level(logging.WARNING, "teravec"):
        build(tmp_path, x, codec="sq8", nlist=1, sample=30).close()
    assert any("larger --sample" in r.getMessage() for r in caplog.records)
    manifest = read_manifest(IndexPaths(tmp_path / "i"))
    assert manifest.clipped > 30
