"""The script's text: what is asked for, quoting, refusals, and that bash takes it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from teravec.cli.main import app
from teravec.errors import InvalidArgument, StorageError
from teravec.slurm import SlurmOptions, script, submit

OPTIONS = SlurmOptions(3, "12:00:00", 8, "32G", "main", 1 << 30, ("--account=x",))
BUILD = ["build", "a b.npy", "--out", "it's"]


def test_bash_takes_it() -> None:
    text = script(OPTIONS, BUILD)
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_directives_come_first() -> None:
    lines = script(OPTIONS, BUILD).splitlines()
    assert lines[0] == "#!/bin/bash"
    given = []
    for line in lines[1:]:
        if not line.startswith("#SBATCH "):
            break
        given.append(line.removeprefix("#SBATCH "))
    for wanted in (
        "--nodes=3",
        "--time=12:00:00",
        "--cpus-per-task=8",
        "--mem=32G",
        "--partition=main",
        "--account=x",
        "--ntasks-per-node=1",
    ):
        assert wanted in given
    assert "--mem" not in SlurmOptions(1, "5").directives()


def test_words_are_quoted() -> None:
    text = script(OPTIONS, BUILD)
    line = next(line for line in text.splitlines() if "-m teravec build" in line)
    assert "'a b.npy'" in line
    shown = subprocess.run(
        ["bash", "-c", f"PYTHON=echo ADDRESS=h:1; {line.rstrip('&')}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == "-m teravec build a b.npy --out it's --engine ray --address h:1\n"


def test_no_secret_and_no_ray_stop_in_it() -> None:
    text = script(OPTIONS, BUILD)
    assert "RAY_AUTH_TOKEN=$(od" in text
    assert "ray.scripts.scripts stop" not in text


@pytest.mark.parametrize(
    "command",
    [[], ["search", "x"], ["rm", "-rf"], [*BUILD, "--engine", "ray"], [*BUILD, "--address=x:1"]],
)
def test_commands_that_cannot_run_there(command: list[str]) -> None:
    with pytest.raises(InvalidArgument):
        script(OPTIONS, command)


@pytest.mark.parametrize(
    "change",
    [
        {"nodes": 0},
        {"cpus": 0},
        {"time": "soon"},
        {"time": "1\n#SBATCH -p x"},
        {"more": ("account",)},
        {"more": ("--x=1\n",)},
        {"partition": "a\nb"},
    ],
)
def test_bad_options(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        SlurmOptions(**{"nodes": 1, "time": "10", **change})


def test_command_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "job.sbatch"
    shown = CliRunner().invoke(
        app,
        ["slurm", "--nodes", "2", "--time", "10", "--script", str(path), "--json", "--", *BUILD],
    )
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.output) == {"script": str(path), "job": None}
    assert path.read_text() == script(SlurmOptions(2, "10"), BUILD)
    assert os.access(path, os.X_OK)


def test_submitting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StorageError, match="not on the PATH"):
        submit(tmp_path / "job")
    sbatch = tmp_path / "sbatch"
    for text, status in (("echo '17;main'", 0), ("echo no such partition >&2; exit 1", 1)):
        sbatch.write_text(f"#!/bin/sh\n{text}\n")
        sbatch.chmod(0o755)
        if status:
            with pytest.raises(StorageError, match="no such partition"):
                submit(tmp_path / "job")
        else:
            assert submit(tmp_path / "job") == "17"
