"""What the command line can do, Python can do in one call; and what is returned prints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import teravec
from teravec import checking
from teravec.selftest.routes import routes
from tests.conftest import clustered


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("python")
    vectors = clustered(3000, 16)
    np.save(folder / "base.npy", vectors)
    np.save(folder / "queries.npy", vectors[:50] + 0.01)
    for codec in ("sq8", "fp16"):
        teravec.build(folder / "base.npy", folder / codec, nlist=16, codec=codec)
    return folder


def test_groundtruth_unpacks_prints_and_becomes_a_table(place: Path) -> None:
    found = teravec.groundtruth(place / "base.npy", place / "queries.npy", k=5)
    distances, ids = found
    assert distances.shape == ids.shape == (50, 5)
    assert "50 queries, k = 5" in repr(found)
    table = found.to_arrow()
    assert table.column_names == ["query", "rank", "id", "distance"]
    assert np.array_equal(table["id"].to_numpy().reshape(50, 5), ids)


def test_a_search_gives_the_table_that_its_file_holds(place: Path, tmp_path: Path) -> None:
    found = teravec.search(place / "sq8", place / "queries.npy", nprobe=16)
    assert isinstance(found, teravec.Nearest)
    summary = teravec.search(
        place / "sq8", place / "queries.npy", nprobe=16, out=tmp_path / "f.parquet"
    )
    assert isinstance(summary, teravec.CorpusSummary)
    assert pq.read_table(tmp_path / "f.parquet").equals(found.to_arrow())
    within = teravec.range_search(place / "sq8", place / "queries.npy", 0.5, nprobe=16)
    assert isinstance(within, teravec.Within)
    lims, _, ids = within
    counts = np.bincount(within.to_arrow()["query"].to_numpy(), minlength=50)
    assert np.array_equal(counts, np.diff(lims))
    assert f"{len(ids):,} results" in repr(within)


def test_several_indexes_are_evaluated_together(place: Path, tmp_path: Path) -> None:
    truth = teravec.groundtruth(place / "base.npy", place / "queries.npy", k=10)
    places = [place / "sq8", place / "fp16"]
    found = teravec.evaluate(places, place / "queries.npy", truth, nprobe=[1, 16], recall=0.8)
    assert [(row.index, row.asked) for row in found] == [
        (str(each), asked) for each in places for asked in (None, None, 0.8)
    ]
    assert found.of(str(places[1]))[1].recall > 0.99
    text = repr(found)
    assert all(name in text for name in ("recall@10", "bytes/query", str(places[0])))
    assert found.to_arrow()["recall"].to_pylist() == [row.recall for row in found]
    pytest.importorskip("matplotlib")
    found.plot(tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert drawn.startswith("<?xml")
    figure = found.plot()
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == [str(each) for each in places]


def test_an_open_index_is_named_by_its_place(place: Path) -> None:
    truth = teravec.groundtruth(place / "base.npy", place / "queries.npy", k=10)
    with teravec.open(place / "sq8") as index:
        found = teravec.evaluate(index, place / "queries.npy", truth, nprobe=4)
    assert found.indexes == (str(place / "sq8"),)
    with pytest.raises(teravec.InvalidArgument, match="no index found"):
        teravec.evaluate([], place / "queries.npy", truth)


def test_bench_disk_returns_what_it_keeps(place: Path) -> None:
    profile = teravec.bench_disk(place / "sq8", seconds=0.2, size="16MiB")
    assert profile.rates
    assert profile.best.bytes_per_s > 0


def test_selftest_of_given_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "routes", lambda *_: routes("local", 1, None)[:1])
    found = teravec.selftest(clustered(2000, 8), threads=1)
    assert found.sound
    assert "plain Faiss" in repr(found)
    with pytest.raises(teravec.InvalidArgument, match="engine"):
        teravec.selftest(engine="spark")


def test_a_report_of_nothing_prints() -> None:
    assert len(teravec.Report()) == 0
    assert repr(teravec.Report())
