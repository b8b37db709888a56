"""add, delete, versions, rollback and vacuum on the command line."""

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

ROWS = clustered(300, 8)


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def index(tmp_path: Path) -> Path:
    np.save(tmp_path / "more.npy", ROWS[200:])
    teravec.build(ROWS[:200], tmp_path / "index", nlist=8, codec="flat", calibrate=False)
    return tmp_path / "index"


def test_a_life(index: Path) -> None:
    added = json.loads(run("add", index, index.with_name("more.npy"), "--json"))
    assert (added["version"], added["ntotal"], added["change"]) == (1, 300, "add 100 rows")
    assert "version 2: delete 2 ids; at most 300 rows" in run("delete", index, "--ids", "3,250")
    np.save(index.with_name("gone.npy"), np.array([4, 251]))
    index.with_name("gone.txt").write_text("5\n\n252\n")
    pq.write_table(pa.table({"id": [6]}), index.with_name("gone.parquet"))
    for name in ("gone.npy", "gone.txt", "gone.parquet"):
        run("delete", index, "--ids-file", index.with_name(name))
    with teravec.open(index) as opened:
        ids = opened.search(ROWS[:1], 300, nprobe=8)[1][0]
    gone = {3, 4, 5, 6, 250, 251, 252}
    assert sorted(ids[ids >= 0].tolist()) == sorted(set(range(300)) - gone)
    assert json.loads(run("info", index, "--json"))["deleted_ids"] == 7
    assert "of which up to 7 are deleted" in run("info", index)
    assert "at most 300  delete" in run("versions", index)
    history = json.loads(run("versions", index, "--json"))["versions"]
    assert [each["version"] for each in history] == [0, 1, 2, 3, 4, 5]
    gone_file = index.with_name("gone.npy")
    left = run("verify", index, "--erased", gone_file, code=1)
    assert "not erased" in left
    out = index.with_name("out.faiss")
    result = CliRunner().invoke(app, ["export-faiss", str(index), str(out)])
    assert result.exit_code == 2
    compacted = json.loads(run("compact", index, "--full", "--json"))
    assert (compacted["ntotal"], compacted["segments"], compacted["deleted_ids"]) == (293, 1, 0)
    run("verify", index, "--erased", gone_file, code=1)  # older versions have them
    assert "nothing is worth compacting" in run("compact", index, "--purge")
    run("verify", index, "--erased", gone_file)
    run("export-faiss", index, out)
    assert [v.number for v in teravec.versions(index)] == [6]


def test_vacuum_after_a_rollback(index: Path) -> None:
    run("delete", index, "--ids", "3")
    run("rollback", index, 0)
    assert "removed 2 versions" in run("vacuum", index, "--older-than", "0s")
    run("verify", index)
    assert json.loads(run("vacuum", index, "--json"))["files"] == 0


def test_rebalancing(index: Path) -> None:
    run("rebalance", index)
    assert "no list is out of balance" in run("rebalance", index)
    assert json.loads(run("rebalance", index, "--json"))["change"] is None
    found = json.loads(run("rebalance", index, "--max-list-bytes", "1KiB", "--json"))
    assert found["change"].startswith("rebalance: ")
    run("verify", index)


def test_maintenance(index: Path) -> None:
    assert "nothing to do: at most 1 run a list" in run("maintain", index, "--budget", "1min")
    for start in range(5):
        teravec.add(index, ROWS[:50], ids=np.arange(start, 250 + start, 5))
    assert "compact, because a query reads 6 runs of each list" in run("maintain", index)
    found = json.loads(run("maintain", index, "--json"))
    assert (found["version"], found["runs"], found["steps"]) == (6, 1, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["delete"], "give either --ids or --ids-file"),
        (["delete", "--ids", "x"], "ids"),
        (["delete", "--ids-file", "nothing.npy"], "nothing.npy"),
        (["rollback", 7], "version 7"),
        (["vacuum", "--older-than", "x"], "a number with a unit"),
        (["add", "nothing.npy"], "nothing.npy"),
    ],
)
def test_mistakes(index: Path, arguments: list[object], message: str) -> None:
    command, *options = arguments
    result = CliRunner().invoke(app, [str(each) for each in (command, index, *options)])
    assert result.exit_code in (1, 2)
    assert message in result.output + str(result.exception or "")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"1\nx\n", "line 2"),
        ("a.npy", b"no array", "not an array"),
        ("a.parquet", b"no table", "not a Parquet"),
        ("a.txt", b"99999999999999999999\n", "64 bits"),
    ],
)
def test_files_that_hold_no_ids(index: Path, name: str, content: bytes, message: str) -> None:
    path = index.with_name(name)
    path.write_bytes(content)
    result = CliRunner().invoke(app, ["delete", str(index), "--ids-file", str(path)])
    assert result.exit_code == 2
    assert message in result.output + str(result.exception or "")
    assert name in result.output + str(result.exception or "")
