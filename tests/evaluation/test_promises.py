"""What a recall out of reach, a calibration cut short and a missing one are told by."""

from __future__ import annotations

import json
import logging
import os
import shutil
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import teravec
from teravec import building
from teravec.cli.main import app
from teravec.errors import InvalidArgument
from teravec.evaluation import calibrating
from teravec.search.effort import Effort
from tests.conftest import write_fbin

N, D = 6000, 16


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("promises")
    write_fbin(folder / "x.fbin", np.random.default_rng(0).standard_normal((N, D), np.float32))
    write_fbin(folder / "q.fbin", np.random.default_rng(1).standard_normal((20, D), np.float32))
    return folder


@pytest.fixture(scope="module")
def coarse(folder: Path) -> Path:
    """Of a codec that is nowhere near 0.9."""
    options = {"nlist": 64, "niter": 2, "codec": "pq4x4"}
    teravec.build(folder / "x.fbin", folder / "coarse", **options)  # type: ignore[arg-type]
    return folder / "coarse"


def test_a_build_says_what_is_out_of_reach(
    folder: Path, coarse: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with teravec.open(coarse) as index:
        assert index.calibration is not None
        highest = index.calibration.reach().highest
    said = f"recall@10 of at most {highest:.4f} is in reach; a finer codec, as sq8, gives more"
    options = ["--nlist", 64, "--niter", 2, "--codec", "pq4x4"]
    with caplog.at_level(logging.WARNING):
        code, output = run("build", folder / "x.fbin", "--out", coarse, *options, "--json")
    assert code == 0
    assert said in caplog.text
    content = json.loads(output[output.index("{") :])
    assert said in content["shortfall"]
    assert content["reach"]["highest"] == highest
    code, output = run("info", coarse)
    assert f"recall@10 at most {highest:.4f} measured with" in output
    assert said in output
    assert said in json.loads(run("info", coarse, "--json")[1])["shortfall"]


def test_nothing_is_said_where_all_is_well(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for name, nlist in (("many", 64), ("few", 8)):
            codec = "sq8" if name == "many" else "pq4x4"  # 16 lists are all of 8
            teravec.build(folder / "x.fbin", tmp_path / name, nlist=nlist, codec=codec)
            with teravec.open(tmp_path / name) as index:
                index.search(np.zeros((1, D), np.float32), 10)
    assert not caplog.text


def test_a_search_says_once_that_it_promises_nothing(
    coarse: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(coarse, tmp_path / "bare")
    (tmp_path / "bare" / "calibration.json").unlink()
    for root, why in ((coarse, "out of reach"), (tmp_path / "bare", "no calibration")):
        caplog.clear()
        with caplog.at_level(logging.WARNING), teravec.open(root) as index:
            for k in (10, 10, 7):
                assert index.effort(k=k) == Effort(16)
            index.range_search(np.zeros((1, D), np.float32), 1.0)
        assert len(caplog.records) == 1
        assert why in caplog.text
        assert "visit 16 lists" in caplog.text
        caplog.clear()
        with caplog.at_level(logging.WARNING), teravec.open(root) as index:
            index.search(np.zeros((1, D), np.float32), 10, nprobe=16)
        assert not caplog.records


def test_verify_and_info_say_that_there_is_no_calibration(coarse: Path, tmp_path: Path) -> None:
    shutil.copytree(coarse, tmp_path / "i")
    assert run("verify", tmp_path / "i", "-q")[1].strip().endswith("sound")
    assert json.loads(run("verify", tmp_path / "i", "--json")[1])["calibrated"]
    (tmp_path / "i" / "calibration.json").unlink()
    code, output = run("verify", tmp_path / "i", "-q")
    assert code == 0
    assert "sound; without a calibration: teravec calibrate" in output
    assert not json.loads(run("verify", tmp_path / "i", "--json")[1])["calibrated"]
    assert "no; teravec calibrate" in run("info", tmp_path / "i")[1]


def ticking(monkeypatch: pytest.MonkeyPatch, step_s: float) -> None:
    """A clock that goes on by so much whenever it is looked at."""
    ticks = count()
    monkeypatch.setattr(calibrating, "monotonic", lambda: next(ticks) * step_s)


def test_a_calibration_stops_by_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data, root = folder / "x.fbin", tmp_path / "i"
    teravec.build(data, root, nlist=64, niter=2, codec="sq8", calibrate=False)
    whole = teravec.calibrate(root, data=data)
    before = (root / "calibration.json").read_bytes()
    assert whole.stopped_s is None
    assert b"stopped_s" not in before
    assert teravec.calibrate(root, data=data, seconds=3600) == whole
    assert (root / "calibration.json").read_bytes() == before  # the limit was not reached
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        ticking(patched, 10.0)
        made = teravec.calibrate(root, data=data, seconds=60)
    assert made.stopped_s == 50.0
    assert made.points == whole.points[:5]  # what was measured is what it would have been
    assert f"stopped after 50 s at nprobe {made.points[-1].nprobe}" in caplog.text
    teravec.verify(root)
    assert "stopped after 50 s" in run("info", root)[1]
    with teravec.open(root) as index:
        assert index.calibration == made
        most = made.reach().promised
        assert index.effort(recall=most - 0.001).typical <= made.points[-1].nprobe
        with pytest.raises(InvalidArgument, match="stopped after 50 s"):
            index.effort(recall=0.9)
    for seconds in (0, -1, float("nan")):
        with pytest.raises(InvalidArgument, match="seconds"):
            teravec.calibrate(root, data=data, seconds=seconds)
    assert run("calibrate", root, "--data", data, "--seconds", 3600, "-q")[0] == 0
    assert (root / "calibration.json").read_bytes() == before


def test_a_build_gives_its_calibration_as_long_as_the_rest_took(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    monkeypatch.setattr(
        building,
        "calibrate_index",
        lambda *a: given.append(a[2].seconds),  # nothing is sealed
    )
    teravec.build(folder / "x.fbin", tmp_path / "i", nlist=64, niter=2)
    assert 30 <= given[0] < 1000
    ended_s = (tmp_path / "i/manifest.json").stat().st_mtime
    os.utime(tmp_path / "i/build.json", (ended_s, ended_s - 5000))  # as if it had begun then
    teravec.build(folder / "x.fbin", tmp_path / "i", nlist=64, niter=2)
    assert given[1] == pytest.approx(5000, abs=0.01)
