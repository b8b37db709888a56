"""The self-test passes here, and fails where a route is off."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from teravec import api, checking
from teravec.cli import selftest_command
from teravec.cli.main import app
from teravec.errors import TeravecError
from teravec.selftest.comparison import REFERENCE, SelfTestResult, compare
from teravec.selftest.routes import Route, Task, routes
from teravec.selftest.vectors import make_hard


def even(n: int, d: int) -> np.ndarray:
    """Without clusters: every good run of k-means then ends near the same objective."""
    return np.random.default_rng(5).standard_normal((n, d), np.float32)


def test_every_route_agrees(tmp_path: Path) -> None:
    data = tmp_path / "x.npy"
    np.save(data, even(3000, 8))
    # A process of its own: where Ray listens is settled when a process first imports it.
    command = [sys.executable, "-m", "teravec", "selftest", str(data)]
    shown = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    content = json.loads(shown.stdout)
    assert content["sound"]
    done = [r for r in content["results"] if not r["note"]]
    assert {r["set"] for r in done} == {"vectors", "half of them identical"}
    names = {r["route"] for r in done}
    assert {REFERENCE, "in process", "one thread", "2 processes"} <= names
    for result in done:
        assert result["objective"] > 0
        assert result["seconds"] > 0
        assert result["imbalance"] >= 1
    table = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "in process" in table.stdout


def worse(task: Task, out: Path) -> float:
    """One iteration from another seed."""
    api.build(task.data, out, nlist=task.nlist, sample=task.n, niter=1, seed=task.seed + 1)
    return 1.0


def broken(task: Task, out: Path) -> float:
    raise TeravecError("no such node")


@pytest.mark.parametrize(("build", "fault"), [(worse, "objective"), (broken, "no such node")])
def test_a_route_that_is_off_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, build: object, fault: str
) -> None:
    data = tmp_path / "x.npy"
    np.save(data, even(3000, 8))
    assert callable(build)
    given = [routes("local", 2, None)[0], Route("other", build)]
    monkeypatch.setattr(checking, "routes", lambda *_: given)
    shown = CliRunner().invoke(app, ["selftest", str(data), "--json"])
    assert shown.exit_code == 1
    faults = [r for r in json.loads(shown.output)["results"] if r["fault"]]
    assert {r["route"] for r in faults} == {"other"}
    assert all(fault in r["fault"] for r in faults)


def test_the_hard_set_leaves_no_list_empty() -> None:
    results = list(compare(even(3000, 8), routes("local", 2, None)[:1]))
    ours = [r for r in results if r.route == "in process"]
    assert [r.empty for r in ours] == [0, 0]


def test_half_of_the_hard_set_is_one_vector() -> None:
    x = make_hard(even(1000, 4))
    assert (x == x[0]).all(1).sum() == 500


def test_bad_options(tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", even(100, 4))
    for arguments in ([str(tmp_path / "few.npy")], ["--engine", "mpi"], ["--workers", "0"]):
        shown = CliRunner().invoke(app, ["selftest", *arguments])
        assert shown.exit_code == 2


def test_what_to_install_is_shown_with_its_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    note = "pip install 'teravec[gpu]'"
    selftest_command.show_results([SelfTestResult("made", "cuda", note=note)])
    assert "[gpu]" in capsys.readouterr().out
