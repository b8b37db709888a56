"""What people type: columns, pipes, tables of any width, hints, times of stages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import teravec
from teravec.bulk.results import read_neighbors
from teravec.cli.main import app
from teravec.cli.stats_table import print_table, stats_table
from teravec.evaluation.evaluation import Evaluation
from teravec.evaluation.evaluations import Evaluations
from teravec.search.stats import SearchStats
from teravec.serving.deploy.launch import ServeOptions, launch
from teravec.storage.user_cache import CACHE_VARIABLE
from tests.conftest import clustered

X = clustered(420, 6)


def vectors(array: np.ndarray) -> Any:
    flat = pa.array(np.ascontiguousarray(array, np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, array.shape[1])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base and queries with two vector columns each, and an index of one of them."""
    root = tmp_path_factory.mktemp("habits")
    base, asked = X[:400], X[400:]
    ids = pa.array(np.arange(400) + 1000)
    pq.write_table(
        pa.table({"key": ids, "title": vectors(base), "body": vectors(base[::-1])}),
        root / "x.parquet",
    )
    pq.write_table(pa.table({"title": vectors(asked), "body": vectors(-asked)}), root / "q.parquet")
    pq.write_table(
        pa.table({"words": vectors(asked), "body": vectors(-asked)}), root / "other.parquet"
    )
    np.save(root / "q.npy", asked)
    np.save(root / "none.npy", asked[:0])
    teravec.build(root / "x.parquet", root / "i", nlist=4, codec="flat", vector_column="title")
    return root


def run(*arguments: object, code: int = 0) -> Any:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, (result.stderr, result.exception)
    return result


def test_vector_columns(root: Path, tmp_path: Path) -> None:
    index, base, asked, out = root / "i", root / "x.parquet", root / "q.parquet", tmp_path / "t.npz"
    title = ["--vector-column", "title"]
    run("groundtruth", base, asked, *title, "-k", 3, "--out", out)
    truth = read_neighbors(out).ids
    squares = ((X[400:, None].astype("f8") - X[:400]) ** 2).sum(2)
    np.testing.assert_array_equal(truth, np.argsort(squares, axis=1)[:, :3])
    run("groundtruth", base, root / "q.npy", *title, "-k", 3, "--out", out)  # without columns
    np.testing.assert_array_equal(read_neighbors(out).ids, truth)
    other = root / "other.parquet"
    message = run("groundtruth", base, other, *title, "--out", out, code=2).stderr
    assert "exactly one called 'title'" in message
    assert "--query-column" in message
    run("groundtruth", base, other, *title, "--query-column", "words", "-k", 3, "--out", out)
    np.testing.assert_array_equal(read_neighbors(out).ids, truth)
    content = json.loads(
        run("search", index, asked, *title, "-k", 3, "--nprobe", 4, "--json").stdout
    )
    assert content["ids"] == truth.tolist()
    recalls = run("eval", index, asked, out, "-k", 3, "--nprobe", 4, *title, "--json").stdout
    assert json.loads(recalls)["results"][0]["recall"] == 1.0
    given = ["calibrate", index, other, "--data", base, *title, "--query-column", "words", "--json"]
    assert json.loads(run(*given).stdout)["queries"] == 20
    assert (
        teravec.calibrate(
            index, other, data=base, vector_column="title", query_column="words"
        ).queries
        == 20
    )
    for command in (["search", index, asked], ["eval", index, asked, out, "-k", "1"]):
        assert "name the column to read" in run(*command, code=2).stderr


def test_columns_and_a_server(root: Path, tmp_path: Path) -> None:
    server = launch(ServeOptions(root / "i"))
    try:
        asked = ["search", "--server", server.address, "-k", 2, "--nprobe", 4, "--json"]
        found = json.loads(run(*asked, root / "q.parquet", "--vector-column", "title").stdout)
        assert found["ids"] == json.loads(run(*asked, root / "q.npy").stdout)["ids"]
        assert "nope" in run(*asked, root / "q.npy", "--id-column", "nope", code=2).stderr
        assert "title, body" in run(*asked, root / "q.parquet", code=2).stderr
        message = run(
            "search", root / "i", root / "q.npy", "--server", server.address, code=2
        ).stderr
        assert "given beside --server" in message
        none = run(*asked, root / "none.npy").stdout
        expected = {"queries": 0, "results": 0, "ids": [], "distances": []}
        assert expected.items() <= json.loads(none).items()
        lines = run(*asked[:-1], root / "q.npy", "--out", "-.csv").stdout.splitlines()
        assert lines[0] == "query,rank,id,distance"
        assert len(lines) == 41
    finally:
        server.close()


def test_serving_a_column(root: Path) -> None:
    for column in ("title", None):  # without one, that of the build
        launch(
            ServeOptions(root / "i", vectors=str(root / "x.parquet"), vector_column=column)
        ).close()
    with pytest.raises(teravec.InvalidArgument, match="not built from"):
        launch(ServeOptions(root / "i", vectors=str(root / "x.parquet"), vector_column="body"))
    with pytest.raises(teravec.InvalidArgument, match="give both"):
        ServeOptions(root / "i", vector_column="body")


@pytest.mark.parametrize("command", [["search", "-k", "7"], ["range-search", "--radius", "9"]])
def test_text_results(command: list[str], root: Path, tmp_path: Path) -> None:
    asked = [command[0], root / "i", root / "q.npy", *command[1:], "--nprobe", "4", "-q"]
    files = {name: tmp_path / f"r.{name}" for name in ("csv", "jsonl", "parquet", "npz")}
    for out in files.values():
        run(*asked, "--out", out)
    table = pq.read_table(files["parquet"])
    lines = files["csv"].read_text().splitlines()
    assert lines[0].split(",") == table.column_names
    cells = np.array([line.split(",") for line in lines[1:]], np.float64)
    for number, name in enumerate(table.column_names):
        np.testing.assert_array_equal(
            cells[:, number].astype("f4"), table[name].to_numpy().astype("f4")
        )
    answers = [json.loads(line) for line in files["jsonl"].read_text().splitlines()]
    assert [answer["query"] for answer in answers] == list(range(20))
    assert [i for answer in answers for i in answer["ids"]] == table["id"].to_pylist()
    assert run(*asked, "--out", "-").stdout == files["jsonl"].read_text()
    assert run(*asked, "--out", "-.jsonl").stdout == files["jsonl"].read_text()
    assert run(*asked, "--out", "-.csv").stdout == files["csv"].read_text()
    assert run(*asked, "--out", "-", "--stats").stdout == files["jsonl"].read_text()
    assert "standard output takes text" in run(*asked, "--out", "-.npz", code=2).stderr
    assert "one of them expected" in run(*asked, "--out", "-", "--json", code=2).stderr
    if command[0] == "search":
        for out in files.values():
            np.testing.assert_array_equal(read_neighbors(out).ids, read_neighbors(files["npz"]).ids)


def test_batches_on_standard_output(root: Path) -> None:
    asked = ["search", root / "i", root / "q.npy", "-k", 400, "--nprobe", 4, "--out", "-.csv"]
    assert run(*asked, "--memory", "24MiB").stdout == run(*asked).stdout


def test_damaged_texts(tmp_path: Path) -> None:
    for name, content in (
        ("a.csv", ""),
        ("b.csv", "query,rank\n0,0\n"),
        ("c.csv", "query,rank,id\n0,0,x\n"),
        ("d.csv", "query,rank,id\n0,1,5\n"),
        ("e.jsonl", "{}\n"),
        ("f.jsonl", "[1]\n"),
        ("g.jsonl", '{"ids": [1]}\n{"ids": [1, 2]}\n'),
        ("h.jsonl", '{"query": 3, "ids": [1]}\n'),
        ("i.jsonl", '{"ids": ["x"]}\n'),
        ("j.jsonl", '{"ids": [null]}\n'),
        ("k.jsonl", ""),
        ("l.jsonl", '{"ids": [99999999999999999999]}\n'),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(teravec.InvalidSource, match=name):
            read_neighbors(tmp_path / name)


def test_no_queries(root: Path, tmp_path: Path) -> None:
    for name in ("r.npz", "r.parquet", "r.csv", "r.jsonl", "r.ibin", "r.bin", "r.ivecs", "r.npy"):
        out = tmp_path / name
        said = run("search", root / "i", root / "none.npy", "-k", 3, "--out", out, "-q").stdout
        assert said == f"{out}: 0 results of 0 queries\n"
        assert out.exists()
    assert np.load(tmp_path / "r.npy").shape == (0, 3)
    content = json.loads(run("search", root / "i", root / "none.npy", "--json").stdout)
    assert (content["queries"], content["ids"]) == (0, [])
    assert run("search", root / "i", root / "none.npy", "--out", "-").stdout == ""
    run("range-search", root / "i", root / "none.npy", "--radius", 1, "--out", tmp_path / "w.npz")
    assert np.load(tmp_path / "w.npz")["lims"].tolist() == [0]


def test_k_beyond_the_index(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.npy"
    run("search", root / "i", root / "q.npy", "-k", 403, "--nprobe", 4, "--out", out, "-q")
    ids = np.load(out)
    assert (np.sort(ids[:, :400]) == np.arange(400)).all()
    assert (ids[:, 400:] == -1).all()
    run(
        "search",
        root / "i",
        root / "x.parquet",
        "--vector-column",
        "title",
        "-k",
        400,
        "--nprobe",
        4,
        "--exclude-self",
        "--out",
        out,
        "-q",
    )
    ids = np.load(out)
    assert (ids[:, 399] == -1).all()
    assert (ids[:, :399] >= 0).all()
    content = json.loads(run("search", root / "i", root / "q.npy", "-k", 401, "--json").stdout)
    assert content["ids"][0][400] == -1
    assert content["distances"][0][400] is None
    assert (
        "results a query"
        in run("search", root / "i", root / "q.npy", "-k", 2**31 - 1, code=2).stderr
    )


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_no_table_is_cut(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    number = 123_456_789_012_345
    row = Evaluation(number, 10, 0.5, 1e15, 1e3, 1e4, 1e15, 1e15, 1e15, 1e15, 0.9)
    print_table(Evaluations([row]).table())
    print_table(stats_table(SearchStats(queries=3, bytes_read=number, codes_scanned=number)))
    text = capsys.readouterr().out
    for whole in (f"{number:,}", "1,000,000,000,000,000", "recall@10", "bytes/query", "queries/s"):
        assert whole in text
    assert "…" not in text


def test_times_of_stages(root: Path, tmp_path: Path) -> None:
    content = json.loads(
        run(
            "build",
            root / "x.parquet",
            "--vector-column",
            "title",
            "--out",
            tmp_path / "i",
            "--nlist",
            2,
            "--codec",
            "pq2x4",
            "--json",
        ).stdout
    )
    names = ["sample", "k-means", "codec", "shard", "merge", "groundtruth", "calibrate"]
    assert [stage["name"] for stage in content["stages"]] == names
    for stage in content["stages"]:
        assert set(stage) == {
            *("name", "seconds", "cpu_seconds", "busiest_thread_seconds", "amount", "unit")
        }
        assert stage["seconds"] >= 0
    assert sum(stage["seconds"] for stage in content["stages"]) <= content["seconds"]
    shards = next(s for s in content["stages"] if s["name"] == "shard")
    assert (shards["amount"], shards["unit"]) == (400, "vectors")
    search = ["search", tmp_path / "i", root / "q.npy", "--out", tmp_path / "r.npz"]
    for command in (["verify", tmp_path / "i"], search):
        assert json.loads(run(*command, "--json").stdout)["stages"][0]["name"] == command[0]


def test_hints(root: Path, tmp_path: Path) -> None:
    data = ["build", root / "x.parquet", "--vector-column", "title", "--out", tmp_path / "i"]
    for options, hint in (
        (["--metric", "dot"], "'dot' is 'ip' here"),
        (["--metric", "Euclidean"], "'euclidean' is 'l2' here"),
        (["--metric", "angular"], "'angular' is 'cosine' here"),
        (["--codec", "pq4"], "pq2, pq3 or pq6 fit 6"),
        (["--codec", "pq"], "as pq16"),
        (["--codec", "SQ"], "'sq' is 'sq8' here"),
        (["--codec", "IVF64,SQ8"], "codec sq8, and nlist 64"),
        (["--codec", "rabbitq2"], "did you mean 'rabitq2'"),
        (["--codec", "rabitq1+"], "rabitq1+sq8"),
        (["--transform", "pca9"], "pca1 to pca6 fit"),
        (["--transform", "opq"], "'opq' is 'rotation' here"),
        (["--memory", "50%"], "a percentage is not accepted"),
        (["--nlst", "4"], "--nlist"),
    ):
        assert hint in run(*data, *options, code=2).stderr, options
    assert not (tmp_path / "i").exists()
    assert "build" in run("buld", code=2).stderr
    for memory in ("1e9", "5e8", "4g", "4GiB", "4 GB"):
        run("search", root / "i", root / "q.npy", "--memory", memory)
    assert run("version").stdout == f"teravec {teravec.__version__}\n"
    run("info", root / "i", "-v")
    run("-v", "info", root / "i")


def test_overwriting(root: Path, tmp_path: Path) -> None:
    data = [
        "build",
        root / "x.parquet",
        "--vector-column",
        "title",
        "--no-calibrate",
        "-q",
        "--out",
        tmp_path / "i",
    ]
    assert "in 1 slice;" in run(*data, "--nlist", 3).stdout
    assert "nlist 3, not left to the rules: give --nlist 3" in run(*data, code=2).stderr
    assert "in 2 lists" in run(*data, "--nlist", 2, "--overwrite").stdout
    assert [path.name for path in tmp_path.iterdir()] == ["i"]


def test_bench_disk_of_a_user_without_a_cache(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be saved is shown all the same."""
    (tmp_path / "cache").write_text("a file, so no directory can be made there")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    quick = ["bench-disk", root / "i", "--seconds", "0.1", "--size", "16MiB", "-q"]
    said = " ".join(run(*quick).stdout.split())
    assert "MB/s of random reads" in said
    assert f"not saved, so searches do not use it: {tmp_path}/cache" in said
    assert json.loads(run(*quick, "--json").stdout)["kept"] is False
    run("search", root / "i", root / "q.npy", "-k", 1, "--nprobe", 1)


def shell(command: str, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    teravec_ = [sys.executable, "-m", "teravec", *map(str, arguments)]
    return subprocess.run(["bash", "-c", command, "-", *teravec_], capture_output=True, check=False)


def test_streams_that_are_closed_or_full(root: Path) -> None:
    closed = shell('"$@" 2>&-', "info", root / "nope")
    assert (closed.returncode, closed.stdout, closed.stderr) == (1, b"", b"")
    full = b"teravec: standard output: cannot write: no space left on the disk\n"
    for argument in ("--version", "--help"):
        found = shell('"$@" > /dev/full', argument)
        assert (found.returncode, found.stderr) == (2, full)
    head = shell(
        '"$@" | head -1; exit ${PIPESTATUS[0]}',
        "search",
        root / "i",
        root / "q.npy",
        "-k",
        400,
        "--nprobe",
        4,
        "--out",
        "-",
    )
    assert (head.returncode, head.stderr, head.stdout.count(b"\n")) == (141, b"", 1)


def test_a_home_and_a_backend_that_are_not_there(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in (CACHE_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    run("plan", "--ntotal", 1000, "--d", 8)
    own = run("plan", "--ntotal", 1000, "--d", 8, "--machine", "this", code=2)
    assert "--constants" in own.stderr
    pytest.importorskip("matplotlib")
    squares = ((X[400:, None].astype("f8") - X[:400]) ** 2).sum(2)
    np.save(tmp_path / "t.npy", squares.argmin(axis=1)[:, None])
    for backend in ("module://matplotlib_inline.backend_inline", "no-such", "TkAgg"):
        monkeypatch.setenv("MPLBACKEND", backend)
        run(
            "eval",
            root / "i",
            root / "q.npy",
            tmp_path / "t.npy",
            "-k",
            1,
            "--nprobe",
            1,
            "--plot",
            tmp_path / "p.png",
        )
        assert os.environ["MPLBACKEND"] == backend


class Kernel:
    """As much of IPython as a notebook's bars use."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.kernel = self

    def get_ipython(self) -> Kernel:
        return self

    def display(self, content: dict[str, str], *, raw: bool, display_id: bool) -> Kernel:
        return self

    def update(self, content: dict[str, str], *, raw: bool) -> None:
        self.lines.append(content["text/plain"])


def test_bars_in_a_notebook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = Kernel()
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    bars = teravec.Bars()
    with bars.stage("shard", 1000, "vectors") as bar:
        bar.advance(250)
        bar.advance(750)
    assert "1,000/1,000 vectors" in notebook.lines[-1]
    assert "█" * 40 in notebook.lines[-1]
    assert [stage.amount for stage in bars.stages] == [1000]
    assert capsys.readouterr().err == ""
