"""Changed indexes that older releases wrote: every version opens and answers as it did then."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import teravec
from tests.golden.make import answers
from tests.golden.make_versions import CHANGED, VERSIONS

ROOT = Path(__file__).parent
WRITTEN, QUERIES = ROOT / "versions-1", np.load(ROOT / "format-1" / "queries.npy")


@pytest.fixture(params=CHANGED)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(WRITTEN / request.param, tmp_path / request.param))


def check(path: Path, version: int | None, answered: int) -> None:
    """Compare a version's answers with those that were written for another, or the same."""
    with np.load(WRITTEN / f"{path.name}.{answered}.npz") as file:
        expected = dict(file)
    with teravec.open(path, version=version) as index:
        found = answers(index, QUERIES)
    for name, values in expected.items():
        if values.dtype.kind == "i":
            np.testing.assert_array_equal(found[name], values, err_msg=name)
        else:
            np.testing.assert_allclose(found[name], values, rtol=2e-5, err_msg=name)


def test_every_version_answers_as_it_did(golden: Path) -> None:
    teravec.verify(golden)
    assert [version.number for version in teravec.versions(golden)] == list(range(VERSIONS))
    for version in range(VERSIONS):
        check(golden, version, version)


def test_it_is_changed_further(golden: Path) -> None:
    teravec.rollback(golden, 1)
    check(golden, None, 1)
    teravec.compact(golden, full=True)
    check(golden, None, 1)
    teravec.compact(golden, purge=True)
    check(golden, None, 1)
    teravec.verify(golden)


@pytest.mark.parametrize("name", CHANGED)
def test_an_index_of_format_1_is_changed(name: str, tmp_path: Path) -> None:
    """An index that was written before there were versions."""
    path = Path(shutil.copytree(ROOT / "format-1" / name, tmp_path / name))
    with teravec.open(path) as index:
        earlier = index.search(QUERIES, 10, 32)[1]
        teravec.delete(path, earlier[:, :3].ravel())
        index.refresh()
        found = index.search(QUERIES, 10, 32)[1]
    assert not np.isin(found, earlier[:, :3]).any()
    assert np.isin(found, earlier).any()
    check(path, 0, 0)
