"""A query's own vector is known by the index's ids, whatever these are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import teravec
from teravec.cli.main import app
from tests.conftest import clustered

N, D = 800, 8
X = clustered(N, D)
IDS = np.random.default_rng(1).permutation(N) + (1 << 60)


def table(path: Path, ids: np.ndarray, x: np.ndarray, name: str = "key") -> str:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), D)
    pq.write_table(pa.table({name: ids, "v": vectors}), path)
    return str(path)


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own")
    table(root / "x.parquet", IDS, X)
    table(root / "part.parquet", IDS[300:320], X[300:320])
    table(root / "other.parquet", IDS, X, name="uid")
    np.save(root / "x.npy", X)
    np.save(root / "y.npy", X[::-1])
    np.save(root / "q.npy", X[:9])
    options = {"nlist": 8, "codec": "flat", "calibrate": False}
    teravec.build(root / "x.parquet", root / "named", id_column="key", **options)  # type: ignore[arg-type]
    teravec.build([root / "x.npy", root / "y.npy"], root / "rows", **options)  # type: ignore[arg-type]
    return root


ALL = ("-k", 3, "--nprobe", 8, "--exclude-self")


def test_the_graph_of_an_index_with_an_id_column(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "g.parquet"
    code, output = run("search", root / "named", root / "x.parquet", *ALL, "-o", out)
    assert code == 0, output
    graph = pq.read_table(out).to_pandas()
    assert graph["query"].tolist() == np.repeat(IDS, 3).tolist()
    assert (graph["query"] != graph["id"]).all()
    # Exact: the three nearest others, in one name space.
    squares = ((X[:, None].astype(float) - X) ** 2).sum(2)
    np.fill_diagonal(squares, np.inf)
    nearest = IDS[np.argsort(squares, axis=1)[:, :3]]
    assert graph["id"].tolist() == nearest.ravel().tolist()
    # A part of the rows: ids of a column name a vector in any file.
    code, output = run("search", root / "named", root / "part.parquet", *ALL, "--json")
    content = json.loads(output[output.index("{") :])
    assert (code, content["query_ids"]) == (0, IDS[300:320].tolist())
    assert content["ids"] == nearest[300:320].tolist()
    # The indexed file has the index's ids also where nobody asks to leave anything out.
    code, output = run("search", root / "named", root / "x.parquet", *ALL[:-1], "-o", out)
    assert code == 0, output
    itself = pq.read_table(out).to_pandas().query("rank == 0")
    assert (itself["query"] == itself["id"]).all()
    assert itself["row"].tolist() == list(range(N))
    code, output = run("search", root / "named", root / "part.parquet", *ALL)
    lines = [line for line in output.splitlines() if "\t" in line]
    assert [int(line.split("\t")[0]) for line in lines] == IDS[300:320].tolist()


def test_range_search_as_well(root: Path, tmp_path: Path) -> None:
    for extension in ("npz", "parquet"):
        out = tmp_path / f"g.{extension}"
        code, output = run(
            "range-search",
            root / "named",
            root / "x.parquet",
            "--radius",
            3,
            "--nprobe",
            8,
            "--exclude-self",
            "-o",
            out,
        )
        assert code == 0, output
    with np.load(tmp_path / "g.npz") as file:
        found = dict(file)
    owners = np.repeat(found["queries"], np.diff(found["lims"]))
    assert len(owners)
    assert (owners != found["ids"]).all()
    graph = pq.read_table(tmp_path / "g.parquet")
    assert graph["query"].to_pylist() == owners.tolist()


def test_more_batches_than_one_name_the_same_queries(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from teravec.bulk.corpus import search_corpus
    from teravec.bulk.questions import TopK
    from teravec.progress import NoProgress
    from teravec.search.effort import Effort
    from teravec.sources import open_source

    source = open_source(root / "x.parquet", id_column="key")
    with teravec.open(root / "named") as index:
        for name, rows in (("one", N), ("many", 70)):
            monkeypatch.setattr(teravec.Index, "batch_rows", lambda *_, rows=rows, **__: rows)
            summary = search_corpus(
                index,
                source,
                TopK(3, Effort(8), exclude_self=True),
                tmp_path / f"{name}.parquet",
                NoProgress(),
            )
    assert summary.batches > 10
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "many.parquet").read_bytes()


@pytest.mark.parametrize(
    ("index", "queries", "extra", "why"),
    [
        ("named", "x.npy", (), "ids are those of column 'key'"),
        ("named", "other.parquet", (), "column 'key'"),
        ("rows", "y.npy", (), "row numbers of the files"),
        ("rows", "q.npy", (), "row numbers of the files"),
    ],
)
def test_ids_that_do_not_fit_are_refused(
    root: Path, index: str, queries: str, extra: tuple[object, ...], why: str
) -> None:
    for command in (
        ("search", *ALL),
        ("range-search", "--radius", 1, "--nprobe", 8, "--exclude-self"),
    ):
        code, output = run(command[0], root / index, root / queries, *command[1:], *extra)
        assert code == 2
        assert why in output


def test_the_user_may_name_the_column(root: Path) -> None:
    code, output = run(
        "search", root / "named", root / "other.parquet", *ALL, "--id-column", "uid", "--json"
    )
    content = json.loads(output[output.index("{") :])
    assert code == 0
    assert not (np.array(content["ids"]) == IDS[:, None]).any()


def test_row_numbers_of_the_first_files_hold(root: Path) -> None:
    for queries in ([root / "x.npy"], [root / "x.npy", root / "y.npy"]):
        code, output = run("search", root / "rows", *queries, *ALL, "--json")
        content = json.loads(output[output.index("{") :])
        assert code == 0
        ids = np.array(content["ids"])
        assert (ids != np.arange(len(ids))[:, None]).all()
        assert "query_ids" not in content
