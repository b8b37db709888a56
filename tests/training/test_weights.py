"""Weights of the training vectors: with the sample's rows, into the model, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import teravec
from teravec.cli.main import app
from teravec.errors import InvalidArgument, InvalidSource
from teravec.sources import Source, Weights, open_source
from teravec.storage.arrays import describe_file
from teravec.training.options import TrainOptions, plan_training
from teravec.training.rows import SampleRows
from teravec.training.weights import draw_weights
from tests.conftest import clustered

ROWS = 2000


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", clustered(ROWS, 8))
    return tmp_path / "x.npy"


def save(path: Path, weights: np.ndarray) -> Path:
    np.save(path, weights)
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
def test_the_sample_carries_its_weights(tmp_path: Path, data: Path, dtype: type) -> None:
    source: Source = open_source(data)
    plan = plan_training(TrainOptions(nlist=10, sample=700), source.ntotal, source.d)
    values: np.ndarray = (np.arange(ROWS) % 250).astype(dtype)
    drawn = draw_weights(Weights(save(tmp_path / "w.npy", values), ROWS), plan, tmp_path)
    rows = SampleRows(plan.ntotal, plan.sample, plan.seed).rows(0, 700)
    np.testing.assert_array_equal(drawn.read(0, 700), values[rows].astype(np.float32))
    np.testing.assert_array_equal(drawn.read(13, 57), values[rows][13:57].astype(np.float32))
    again = draw_weights(Weights(save(tmp_path / "w.npy", values[::-1]), ROWS), plan, tmp_path)
    assert again == drawn  # what was drawn is kept


def test_a_build_with_weights(tmp_path: Path, data: Path) -> None:
    """Equal weights give the model of none; a half that weighs more moves the centroids there."""
    options = {"nlist": 16, "niter": 3, "calibrate": False}
    plain = teravec.build(data, tmp_path / "plain", **options)  # type: ignore[arg-type]
    ones = save(tmp_path / "ones.npy", np.ones(ROWS, np.float32))
    same = teravec.build(data, tmp_path / "same", weights=ones, **options)  # type: ignore[arg-type]
    assert same.model == plain.model
    x = np.load(data)
    near = x[:, 0] > np.median(x[:, 0])
    heavy = save(tmp_path / "heavy.npy", np.where(near, 1, 0.001).astype(np.float32))
    other = CliRunner().invoke(
        app,
        [
            "build",
            str(data),
            "--out",
            str(tmp_path / "other"),
            "--nlist",
            "16",
            "--niter",
            "3",
            "--weights",
            str(heavy),
            "--no-calibrate",
            "--quiet",
        ],
    )
    assert other.exit_code == 0, other.output

    def errors(index: str) -> np.ndarray:
        centroids = np.load(tmp_path / index / "model" / "centroids.npy")
        return np.asarray(((x[near][:, None] - centroids) ** 2).sum(-1).min(1).sum())

    assert errors("other") < errors("plain")
    assert describe_file(tmp_path / "other" / "model" / "centroids.npy") != describe_file(
        tmp_path / "plain" / "model" / "centroids.npy"
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(ROWS - 1, np.float32), "1,999 weights found, 2,000 expected"),
        (np.ones((ROWS, 1), np.float32), r"shape \(2000, 1\) found, expected \(n,\)"),
        (np.ones(ROWS, complex), "dtype <c16"),
        (np.zeros(ROWS, np.float32), "every weight of the sample is 0"),
        (np.where(np.arange(ROWS) == 1234, -2, 1).astype(np.float32), "row 1234 has weight -2.0"),
        (np.where(np.arange(ROWS) == 1234, np.nan, 1).astype(np.float32), "row 1234"),
    ],
)
def test_bad_weights_leave_nothing(
    tmp_path: Path, data: Path, weights: np.ndarray, message: str
) -> None:
    path = save(tmp_path / "w.npy", weights)
    with pytest.raises(InvalidSource, match=message):
        teravec.build(data, tmp_path / "index", nlist=16, sample=ROWS, weights=path)
    assert not (tmp_path / "index").exists()


def test_missing_weights(tmp_path: Path, data: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"none\.npy"):
        teravec.build(data, tmp_path / "index", weights=tmp_path / "none.npy")
