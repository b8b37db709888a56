"""Options of the commands that read vectors: --skip-bad, --format; files in another order."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import teravec
from teravec.cli.main import app
from teravec.errors import InvalidArgument, InvalidSource, OutputExists
from teravec.selftest.vectors import draw_vectors
from tests.conftest import clustered, write_fbin

runner = CliRunner(env={"COLUMNS": "120"})
N, D = 900, 8
X = clustered(N, D)
BAD = [0, 1, 200, 333, 334, 335, 711, N - 1]
GOOD = np.setdiff1d(np.arange(N), BAD)


def run(*arguments: object) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def refused(*arguments: object) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if "left out" not in line]
    return line


@pytest.fixture
def spoiled(tmp_path: Path) -> Path:
    """Three files of which some rows are no vectors, and the ids 10 + row."""
    rows: list[Any] = X.tolist()
    for row in BAD:
        rows[row] = [None, [], rows[row][1:], [None] * D][row % 4]
    rows[200] = [float("nan")] * D
    (tmp_path / "data").mkdir()
    for part in range(3):
        of = slice(part * 300, (part + 1) * 300)
        table = pa.table({"v": pa.array(rows[of]), "id": np.arange(10, 10 + N)[of]})
        pq.write_table(table, tmp_path / "data" / f"{part}.parquet", row_group_size=70)
    return tmp_path / "data"


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """The good rows alone, with their row numbers as ids."""
    vectors = pa.array(X[GOOD].tolist(), pa.list_(pa.float64()))
    pq.write_table(pa.table({"v": vectors, "id": GOOD}), tmp_path / "clean.parquet")
    return tmp_path / "clean.parquet"


def files(index: Path) -> dict[str, bytes]:
    """Lists and model of an index: what does not say where the vectors are from."""
    parts = [*index.glob("slices/*"), *index.glob("model/*.npy")]
    return {path.name: path.read_bytes() for path in parts}


OPTIONS = {"nlist": 16, "slices": 2, "shards": 3, "niter": 3}


def test_skipping_bad_rows_is_building_of_the_others(spoiled: Path, clean: Path) -> None:
    root = spoiled.parent
    options = [f"--{name}={value}" for name, value in OPTIONS.items()]
    said = refused("build", spoiled, "-o", root / "i", "-q", *options)
    assert "row 0 has a null vector" in said
    assert "--skip-bad" in said
    assert not (root / "i").exists()
    options.append("--no-calibrate")
    result = json.loads(run("build", spoiled, "-o", root / "i", "--skip-bad", "--json", *options))
    assert (result["ntotal"], result["skipped"]) == (len(GOOD), len(BAD))
    teravec.build(clean, root / "other", id_column="id", calibrate=False, **OPTIONS)  # type: ignore[arg-type]
    assert files(root / "i") == files(root / "other")
    listed = json.loads((root / "i" / "skipped.json").read_text())
    assert [
        file["first_row"] + row
        for file in listed["files"]
        for start, stop in file["rows"]
        for row in range(start, stop)
    ] == BAD
    assert f"{len(BAD)} bad rows, listed in skipped.json" in run("info", root / "i")
    teravec.verify(root / "i")
    with teravec.open(root / "i") as index:
        assert index.search(X[GOOD], 1, nprobe=16)[1][:, 0].tolist() == GOOD.tolist()


def test_what_follows_knows_that_rows_were_skipped(spoiled: Path) -> None:
    index = spoiled.parent / "i"
    run("build", spoiled, "-o", index, "--skip-bad", "-q", "--id-column", "id", "--nlist", 16)
    before = files(index)
    assert "8 bad rows" in run(
        "build", spoiled, "-o", index, "-q", "--id-column", "id", "--nlist", 16
    )
    (index / "calibration.json").unlink()
    (index / "skipped.json").write_bytes(b"damaged")
    with pytest.raises(teravec.errors.CorruptFile, match=r"skipped\.json"):
        teravec.verify(index)
    run("build", spoiled, "-o", index, "-q", "--id-column", "id", "--nlist", 16)
    teravec.verify(index)  # the list was made again
    teravec.calibrate(index, data=spoiled, id_column="id")
    assert files(index) == before


def test_stages_alone_skip_the_same_rows(spoiled: Path) -> None:
    one, other = spoiled.parent / "one", spoiled.parent / "other"
    options = ["--nlist", 16, "--slices", 2, "-q"]
    run("build", spoiled, "-o", one, "--skip-bad", "--no-calibrate", *options)
    run("train", spoiled, "-o", other, "--skip-bad", *options)
    for rows in ("500:892", "0:500"):
        run("shard", spoiled, "-o", other, "--rows", rows, "-q")
    assert "rows 0:900 asked for; the source has 892" in refused(
        "shard", spoiled, "-o", other, "--rows", "0:900", "-q"
    )
    run("merge", "-o", other, "-q")
    assert files(one) == files(other)


def test_a_build_goes_on_without_the_rows_that_it_began_without(spoiled: Path) -> None:
    index = spoiled.parent / "i"
    teravec.train(spoiled, index, skip_bad=True)
    (index / "skipped.json").unlink()  # killed before it was sealed
    teravec.build(spoiled, index)
    teravec.verify(index)
    assert (index / "skipped.json").exists()


def test_weights_are_of_all_rows(spoiled: Path, clean: Path) -> None:
    root = spoiled.parent
    weights = np.random.default_rng(0).random(N).astype("f4")
    np.save(root / "all.npy", weights)
    np.save(root / "good.npy", weights[GOOD])
    quick: dict[str, Any] = {"nlist": 16, "niter": 3, "calibrate": False}
    teravec.build(spoiled, root / "i", skip_bad=True, weights=root / "all.npy", **quick)
    teravec.build(clean, root / "o", id_column="id", weights=root / "good.npy", **quick)
    assert files(root / "i") == files(root / "o")
    with pytest.raises(InvalidSource, match="892 weights found, 900 expected"):
        teravec.build(spoiled, root / "n", skip_bad=True, weights=root / "good.npy", nlist=16)


def test_true_neighbours_among_the_good_rows(spoiled: Path) -> None:
    root = spoiled.parent
    write_fbin(root / "q.fbin", X[:20])
    assert "--skip-bad" in refused("groundtruth", spoiled, root / "q.fbin", "-o", root / "t.npz")
    result = json.loads(
        run(
            "groundtruth",
            spoiled,
            root / "q.fbin",
            "-k",
            5,
            "--skip-bad",
            "-o",
            root / "t.npz",
            "--json",
        )
    )
    assert result["skipped"] == len(BAD)
    squares = ((X[:20, None] - X[None, GOOD]) ** 2).sum(axis=2)
    expected = GOOD[np.argsort(squares, axis=1, kind="stable")[:, :5]]
    with np.load(root / "t.npz") as found:
        np.testing.assert_array_equal(found["ids"], expected)
    assert json.loads((root / "t.npz.skipped.json").read_text())["rows"] == len(BAD)


def test_format_in_every_command(tmp_path: Path) -> None:
    write_fbin(tmp_path / "x.data", X)
    write_fbin(tmp_path / "q.data", X[:9])
    index, data, queries = tmp_path / "i", tmp_path / "x.data", tmp_path / "q.data"
    assert "add --format" in refused("build", data, "-o", index)
    asked = ["--format", "fbin", "-q"]
    run("build", data, "-o", index, "--nlist", 16, *asked)
    run("calibrate", index, "--data", data, *asked)
    run("calibrate", index, queries, "--data", data, "-k", 1, *asked)
    run("groundtruth", data, queries, "-o", tmp_path / "t.ibin", "-k", 3, *asked)
    run("eval", index, queries, tmp_path / "t.ibin", "-k", 3, "--format", "fbin")
    run("search", index, queries, "-k", 3, "--nprobe", 16, "-o", tmp_path / "s.npz", *asked)
    run("range-search", index, "--radius", 1.0, queries, "-o", tmp_path / "r.npz", *asked)
    run("train", data, "-o", tmp_path / "stages", *asked)
    run("shard", data, "-o", tmp_path / "stages", *asked)
    run("search", index, f"{queries}:fbin", "-k", 3, "--nprobe", 16)
    with pytest.raises(InvalidArgument, match="9 vectors; at least"):
        draw_vectors([str(queries)], 1, "fbin")
    teravec.build(data, tmp_path / "python", format="fbin")
    teravec.shard(data, tmp_path / "python", format="fbin")
    teravec.calibrate(tmp_path / "python", queries, data=data, format="fbin")
    with pytest.raises(InvalidArgument, match="format 'hdf5' found, expected one of fvecs"):
        teravec.build(data, tmp_path / "other", format="hdf5")


def chunks(folder: Path) -> Path:
    folder.mkdir()
    for part in range(12):
        write_fbin(folder / f"chunk-{part}.fbin", X[part * 75 : (part + 1) * 75])
    return folder


def test_an_index_of_an_older_release_keeps_its_order(tmp_path: Path) -> None:
    """Older releases read chunk-10 before chunk-2."""
    data, index = chunks(tmp_path / "data"), tmp_path / "i"
    by_name = sorted(data.iterdir())
    teravec.train(by_name, index)
    teravec.shard(by_name, index, rows=(0, 100))
    teravec.build(data, index)  # goes on where that release stood
    other = teravec.build(by_name, tmp_path / "other")
    assert files(index) == files(tmp_path / "other")
    assert teravec.build(data, index) == teravec.build(by_name, index)
    teravec.calibrate(index, data=data)
    files_of = json.loads(run("info", index, "--json"))["source"]["files"]
    assert [file["name"] for file in files_of[:4]] == [
        "chunk-0.fbin",
        "chunk-1.fbin",
        "chunk-10.fbin",
        "chunk-11.fbin",
    ]
    assert other.source["files"][2]["name"] == "chunk-10.fbin"
    with pytest.raises(OutputExists, match="begun with other vectors"):
        teravec.build(by_name[::-1], index)


def test_info_says_which_rows_each_file_gave(tmp_path: Path) -> None:
    data, index = chunks(tmp_path / "data"), tmp_path / "i"
    (data / "more").mkdir()
    shutil.move(data / "chunk-11.fbin", data / "more" / "chunk-11.fbin")
    run("build", data, "-o", index, "-q", "--no-calibrate")
    lines = run("info", index).splitlines()
    table = [line.split() for line in lines[lines.index("  first row            rows  file") + 1 :]]
    expected = [[str(75 * part), "75", f"chunk-{part}.fbin"] for part in range(12)]
    expected[11][2] = "more/chunk-11.fbin"
    assert table == expected
    placed = json.loads(run("info", index, "--json"))["source"]["files"]
    assert [file["first_row"] for file in placed] == [75 * part for part in range(12)]


def test_info_of_many_files_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for row in range(50):
        write_fbin(tmp_path / "data" / f"{row}.fbin", X[row : row + 1])
    run("build", tmp_path / "data", "-o", tmp_path / "i", "-q", "--no-calibrate")
    lines = run("info", tmp_path / "i").splitlines()
    table = lines[lines.index("  first row            rows  file") + 1 :]
    assert len(table) == 21
    assert table[10].strip() == "... 30 more files (all of them: --json)"
    assert table[-1].split() == ["49", "1", "49.fbin"]
