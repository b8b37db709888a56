"""Indexes that older releases wrote open, verify and answer as they did then."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import teravec
from tests.golden.make import INDEXES, answers

FORMAT_1 = Path(__file__).parent / "format-1"


@pytest.fixture(params=sorted(INDEXES))
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of one golden index: what a test writes must not reach the golden files."""
    return Path(shutil.copytree(FORMAT_1 / request.param, tmp_path / request.param))


def test_it_is_sound(golden: Path) -> None:
    teravec.verify(golden)


def test_it_answers_as_the_release_that_wrote_it(golden: Path) -> None:
    with np.load(FORMAT_1 / f"{golden.name}.answers.npz") as file:
        expected = dict(file)
    with teravec.open(golden) as index:
        found = answers(index, np.load(FORMAT_1 / "queries.npy"))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        if values.dtype.kind == "i":
            np.testing.assert_array_equal(found[name], values, err_msg=name)
        else:
            np.testing.assert_allclose(found[name], values, rtol=2e-5, err_msg=name)


def test_its_build_is_recognised(golden: Path) -> None:
    """The same command again finds nothing to do; another one is refused."""
    options = INDEXES[golden.name]
    source = FORMAT_1 / ("ids.parquet" if "id_column" in options else "base.npy")
    before = {path: path.stat().st_mtime_ns for path in golden.rglob("*") if path.is_file()}
    teravec.build(source, golden, nlist=32, **options)
    after = {path: path.stat().st_mtime_ns for path in golden.rglob("*") if path.is_file()}
    assert after == before
    with pytest.raises(teravec.OutputExists):
        teravec.build(source, golden, nlist=16, **options)


def test_it_can_be_calibrated_again(golden: Path) -> None:
    id_column = INDEXES[golden.name].get("id_column")
    source = FORMAT_1 / ("base.npy" if id_column is None else "ids.parquet")
    measured = teravec.calibrate(golden, data=source, id_column=id_column, nqueries=100, ks=[10])
    assert measured.points[-1].recall[0] > 0.5


def test_a_build_that_the_old_release_left_unfinished_is_finished(tmp_path: Path) -> None:
    out = tmp_path / "unfinished"
    shutil.copytree(FORMAT_1 / "unfinished", out)
    teravec.build(FORMAT_1 / "base.npy", out, nlist=32, codec="sq8", calibrate=False)
    teravec.verify(out)
    fresh = tmp_path / "fresh"
    teravec.build(FORMAT_1 / "base.npy", fresh, nlist=32, codec="sq8", calibrate=False)
    queries = np.load(FORMAT_1 / "queries.npy")
    with teravec.open(out) as resumed, teravec.open(fresh) as built:
        for ours, theirs in zip(
            resumed.search(queries, 10, 32), built.search(queries, 10, 32), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
