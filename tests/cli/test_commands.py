"""What the commands print: results, costs, and what a disk can do."""

from __future__ import annotations

import io
import itertools
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

import teravec
from teravec.cli.main import app
from teravec.cli.stats_table import stats_table
from teravec.evaluation.evaluation import Evaluation
from teravec.evaluation.evaluations import Evaluations
from teravec.search.stats import SearchStats
from teravec.storage.jsonfile import read_json
from teravec.storage.user_cache import CACHE_VARIABLE
from tests.conftest import clustered, write_fbin

runner = CliRunner(env={"COLUMNS": "120"})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 1,000 vectors, ``i``, and queries in two files."""
    root = tmp_path_factory.mktemp("commands")
    vectors = clustered(1030, 8)
    teravec.build(write_fbin(root / "x.fbin", vectors[:1000]), root / "i", nlist=8, niter=2)
    write_fbin(root / "q1.fbin", vectors[1000:1020])
    write_fbin(root / "q2.fbin", vectors[1020:])
    return root


def run(*arguments: object) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def queries(root: Path) -> np.ndarray:
    return clustered(1030, 8)[1000:]


def test_queries_of_several_files_are_one_source(root: Path) -> None:
    with teravec.open(root / "i") as index:
        distances, ids = index.search(queries(root), 3, 4)
    several = run("search", root / "i", root / "q1.fbin", root / "q2.fbin", "-k", 3, "--nprobe", 4)
    assert run("search", root / "i", root / "q*.fbin", "-k", 3, "--nprobe", 4) == several
    lines = several.splitlines()
    assert [int(line.split("\t")[0]) for line in lines] == list(range(30))
    assert lines[29] == "29\t" + " ".join(
        f"{i}:{v:.6g}" for i, v in zip(ids[29].tolist(), distances[29].tolist(), strict=True)
    )
    content = json.loads(
        run("search", root / "i", root / "q*.fbin", "-k", 3, "--nprobe", 4, "--json")
    )
    assert content["ids"] == ids.tolist()
    np.testing.assert_array_equal(np.array(content["distances"], np.float32), distances)
    assert (content["queries"], content["k"], content["results"]) == (30, 3, 90)


def test_range_results_as_text_and_json(root: Path) -> None:
    with teravec.open(root / "i") as index:
        lims, _, ids = index.range_search(queries(root), 6.0, 4)
    arguments = ["range-search", root / "i", root / "q*.fbin", "--radius", 6, "--nprobe", 4]
    lines = run(*arguments).splitlines()
    found = [[int(pair.split(":")[0]) for pair in line.split("\t")[1].split()] for line in lines]
    assert found == [ids[a:b].tolist() for a, b in itertools.pairwise(lims)]
    content = json.loads(run(*arguments, "--json"))
    assert (content["lims"], content["ids"]) == (lims.tolist(), ids.tolist())


@pytest.mark.parametrize("command", [["search"], ["range-search", "--radius", "6"]])
def test_stats(command: list[str], root: Path, tmp_path: Path) -> None:
    arguments = [command[0], root / "i", root / "q1.fbin", *command[1:], "--nprobe", 4]
    arguments += ["--out", tmp_path / "r.npz", "--stats", "-q"]
    text = run(*arguments)
    assert "cost of 20 queries" in text
    for label in ("lists scanned", "codes scanned", "bytes read", "waiting for the disk"):
        assert label in text
    stats = json.loads(run(*arguments, "--json"))["stats"]
    assert stats["queries"] == 20
    assert 0 < stats["lists_wanted"] <= 80
    assert stats["bytes_read"] > 0
    assert set(stats) == set(asdict(SearchStats()))


def test_stats_table_shows_every_count() -> None:
    stats = SearchStats(**dict.fromkeys(asdict(SearchStats()), 7))
    table = stats_table(stats)
    assert table.row_count == len(asdict(stats)) - 1  # queries are in the title
    assert next(iter(table.columns[2].cells)) == "1.0"


def test_neighbours_within_the_index(root: Path, tmp_path: Path) -> None:
    base = clustered(1030, 8)[:1000]
    out = tmp_path / "graph.npy"
    said = run(
        "search",
        root / "i",
        root / "x.fbin",
        "-k",
        2,
        "--nprobe",
        8,
        "--exclude-self",
        "--out",
        out,
    )
    assert "2,000 results of 1,000 queries" in said
    ids = np.load(out)
    squares = ((base[:, None].astype(np.float64) - base) ** 2).sum(2)
    np.fill_diagonal(squares, np.inf)
    assert (ids[:, 0] == squares.argmin(axis=1)).mean() > 0.95  # sq8 rounds
    assert not (ids == np.arange(1000)[:, None]).any()


def test_bench_disk(
    root: Path, tmp_path: Path, user_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick: list[Any] = ["--seconds", "0.3", "--size", "16MiB"]
    monkeypatch.setenv(CACHE_VARIABLE, str(user_cache / "bench-disk"))
    text = run("bench-disk", root / "i", *quick)
    assert "pread: MB/s of random reads" in text
    assert "one read is cheaper than two across a gap" in text
    (kept,) = (user_cache / "bench-disk").iterdir()
    assert f"saved in {kept}" in " ".join(text.split())
    content = read_json(kept, "teravec-device", 1)
    assert content["recommended"]["bytes_per_s"] > 0
    assert content["file_system"]["host"] == os.uname().nodename
    # The index says nothing of the disk that it lies on.
    assert sorted(path.name for path in (root / "i").iterdir()) == [
        "adding",
        "build.json",
        "calibration.json",
        "known",
        "manifest.json",
        "model",
        "slices",
    ]
    content = json.loads(run("bench-disk", tmp_path, *quick, "--json"))
    assert content["recommended"]["depth"] >= 1
    assert content["kept"] is True
    assert not list(tmp_path.iterdir())


def test_candidates(root: Path, tmp_path: Path) -> None:
    two = tmp_path / "two"
    teravec.build(root / "x.fbin", two, nlist=8, niter=2, codec="rabitq1+sq8", calibrate=False)
    asked = ["search", two, root / "q1.fbin", "-k", 3, "--nprobe", 8, "--json", "--stats"]
    few, every = (json.loads(run(*asked, "--candidates", n)) for n in (5, 1000))
    assert few["stats"]["codes_refined"] <= 100
    assert every["stats"]["codes_refined"] == 20 * 1000
    assert (np.array(every["distances"]) <= np.array(few["distances"])).all()
    truth = tmp_path / "gt.npz"
    run("groundtruth", root / "x.fbin", root / "q1.fbin", "-k", 3, "--out", truth)
    asked = ["eval", two, root / "q1.fbin", truth, "-k", 3, "--nprobe", 8, "--json"]
    recalls = [
        json.loads(run(*asked, "--candidates", n))["results"][0]["recall"] for n in (3, 1000)
    ]
    assert recalls[0] < recalls[1]
    for index, n, message in [(two, 0, "at least 1"), (root / "i", 5, "one stage")]:
        arguments = ["search", index, root / "q1.fbin", "--nprobe", 8, "--candidates", n]
        result = runner.invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code != 0
        assert message in result.stderr


def test_every_column_of_an_evaluation_is_shown_in_80_columns() -> None:
    one = Evaluation(
        nprobe=4096,
        k=10,
        recall=0.9673,
        queries_per_s=33117,
        latency_p50_s=0.00312,
        latency_p99_s=0.0573,
        bytes_per_query=94193623,
        batch_bytes_per_query=1,
        lists_per_query=256,
        codes_per_query=1,
        asked=0.95,
    )
    with io.StringIO() as text:
        Console(file=text, width=80).print(Evaluations([one]).table())
        lines = text.getvalue().splitlines()
    assert "bytes/query" in lines[2]
    assert "94,193,623" in lines[4]
    assert "…" not in "".join(lines)


def test_every_option_is_explained() -> None:
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        for option in command.params:
            assert getattr(option, "help", None), (name, option.name)
    said = runner.invoke(app, ["range-search", "--help"]).stdout
    assert ".parquet" in said
    assert ".ibin" not in said.split("--out")[1].split("--exclude-self")[0]


def test_export_as_json(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.faiss"
    content = json.loads(run("export-faiss", root / "i", out, "--json"))
    assert content == {"index": str(root / "i"), "out": str(out), "bytes": out.stat().st_size}
