"""An index with columns that an older release wrote: it opens, gives its rows, and is changed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import teravec
from tests.golden.make_columns import VERSIONS, read_rows, rows_of

WRITTEN = Path(__file__).parent / "columns-1"


def rows_then(version: int) -> Any:
    """Read the rows that a version had when it was written."""
    with pa.ipc.open_file(WRITTEN / f"{version}.arrow") as file:
        return file.read_all()


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WRITTEN / "index", tmp_path / "index"))


def test_every_version_gives_its_rows(golden: Path) -> None:
    teravec.verify(golden)
    assert [version.number for version in teravec.versions(golden)] == list(range(VERSIONS))
    for version in range(VERSIONS):
        with teravec.open(golden, version=version) as index:
            found = read_rows(index)
        assert found.schema.equals(rows_then(version).schema)
        assert found.combine_chunks().to_pylist() == rows_then(version).to_pylist()


def test_it_is_changed_further(golden: Path) -> None:
    teravec.add(golden, rows_of(300, 310, 3), vector_column="v")
    teravec.compact(golden, purge=True)
    teravec.verify(golden)
    with teravec.open(golden) as index:
        found = read_rows(index)
    assert found["id"].to_pylist()[-10:] == [f"Schlüssel {i}" for i in range(300, 310)]
    assert found[:-10].to_pylist() == rows_then(VERSIONS - 1).to_pylist()
