"""Ids that occur more than once are counted, by any memory limit."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import teravec
from teravec.cli.main import app
from teravec.index.manifest import read_manifest
from teravec.progress import NoProgress
from teravec.segments.repeated import RepeatedIds, find_repeated
from teravec.storage.layout import IndexPaths
from tests.conftest import clustered

N, D = 1200, 6


def write(path: Path, ids: np.ndarray) -> Path:
    vectors = clustered(len(ids), D)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), D)
    pq.write_table(pa.table({"key": ids, "v": column}), path)
    return path


def build(folder: Path, ids: np.ndarray, **options: object) -> Path:
    path = write(folder / "x.parquet", ids)
    settings = {"nlist": 8, "slices": 3, "id_column": "key", "codec": "flat", **options}
    teravec.build(path, folder / "i", **settings)  # type: ignore[arg-type]
    return folder / "i"


def counted(root: Path, memory_bytes: int, block: int = 1 << 18) -> RepeatedIds | None:
    paths = IndexPaths(root)
    files = [paths.root / entry.file for entry in read_manifest(paths).slices]
    return find_repeated(files, N, memory_bytes, NoProgress(), block)


@pytest.mark.parametrize("high", [5, 400, 2000, 1 << 60])
def test_counts_are_those_of_numpy(high: int, tmp_path: Path) -> None:
    ids = np.random.default_rng(high).integers(0, high, N)
    names, counts = np.unique(ids, return_counts=True)
    root = build(tmp_path, ids, calibrate=False)
    for memory in (1 << 20, N * 8):  # at once; in three passes
        found = counted(root, memory, 64)
        if (counts == 1).all():
            assert found is None
            continue
        assert found is not None
        assert found.example in names[counts > 1]
        if found.exact:
            expected = int((counts > 1).sum()), int(counts[counts > 1].sum()), int(counts.max())
            assert (found.ids, found.rows, found.most) == expected
        else:
            assert high == 5  # one id fills more than its part of memory
            assert found.ids == 5
    found = counted(root, 1 << 20, 64)
    assert found is None or found.exact


def test_where_memory_is_short_some_parts_are_looked_at(tmp_path: Path) -> None:
    ids = np.repeat(np.arange(N // 2) << 40, 2)
    root = build(tmp_path, ids, calibrate=False)
    found = counted(root, 1, 40)
    assert found is not None
    assert not found.exact
    assert found.most == 2
    assert N / 4 < found.ids < N


def test_a_build_tells_and_remembers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ids = np.arange(N)[::-1].copy()
    ids[[3, 900, 901]] = 10**18 + 1
    with caplog.at_level(logging.WARNING):
        root = build(tmp_path, ids)
    assert f"1 ids occur twice or more, in 3 rows, e.g. id {10**18 + 1} in rows 3 and 900" in (
        caplog.text
    )
    shown = CliRunner().invoke(app, ["info", str(root)]).output
    assert "ids  column key; 1 ids occur twice or more, in 3 rows" in shown
    # Each leaves all of its copies out, and finds as many others as were asked for.
    out = tmp_path / "graph.parquet"
    done = CliRunner().invoke(
        app,
        [
            "search",
            str(root),
            str(tmp_path / "x.parquet"),
            "-k",
            "4",
            "--nprobe",
            "8",
            "--exclude-self",
            "--out",
            str(out),
        ],
    )
    assert done.exit_code == 0, done.output
    graph = pq.read_table(out).to_pandas()
    assert (graph["query"] != graph["id"]).all()
    assert (graph["id"] >= 0).all()
    assert len(graph) == 4 * N
    assert graph["query"].tolist() == np.repeat(ids, 4).tolist()


def test_an_id_that_nearly_all_have(tmp_path: Path) -> None:
    ids = np.zeros(N, np.int64)
    ids[:5] = [11, 12, 13, 14, 15]
    root = build(tmp_path, ids, calibrate=False)
    found = CliRunner().invoke(
        app,
        [
            "search",
            str(root),
            str(tmp_path / "x.parquet"),
            "-k",
            "4",
            "--nprobe",
            "8",
            "--exclude-self",
            "--out",
            str(tmp_path / "g.npz"),
        ],
    )
    assert found.exit_code == 0, found.output
    with np.load(tmp_path / "g.npz") as graph:
        assert (graph["ids"] != graph["queries"][:, None]).all()
