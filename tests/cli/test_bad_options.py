"""Every option of every command with values that it cannot have: one line, and the right code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from click.testing import CliRunner

import teravec
from teravec.cli.main import app
from tests.conftest import clustered

BAD = [
    "",
    "-1",
    "0",
    "--5",
    "²",
    "1e400",
    "nan",
    "9" * 5000,
    "99999999999",
    "1,,2",
    "50%",
    "no\nsuch",
    "\udcff\udcfe",
]

# A command's arguments that would do, but for one option.
COMMANDS: dict[str, list[str]] = {
    "build": ["x.npy", "--out", "new", "-q"],
    "train": ["x.npy", "--out", "new", "-q"],
    "shard": ["x.npy", "--out", "trained", "-q"],
    "merge": ["--out", "trained", "-q"],
    "calibrate": ["i", "--data", "x.npy", "-q"],
    "search": ["i", "q.npy", "--json"],
    "range-search": ["i", "q.npy", "--radius", "1", "--json"],
    "eval": ["i", "q.npy", "t.npy", "-k", "1", "--nprobe", "2", "--json"],
    "groundtruth": ["x.npy", "q.npy", "-k", "1", "--out", "g.npz", "-q"],
    "info": ["i"],
    "verify": ["i", "-q"],
    "export-faiss": ["i", "f.faiss", "-q"],
    "import-faiss": ["none.faiss", "--out", "new", "-q"],
    "cp": ["i", "copy", "-q"],
    "duplicates": ["i", "x.npy", "--threshold", "1", "--out", "d.parquet", "-q"],
    "add": ["i", "x.npy", "-q"],
    "delete": ["i", "--ids", "3"],
    "get": ["i", "--ids", "3"],
    "compact": ["i", "-q"],
    "rebalance": ["i", "-q"],
    "maintain": ["i", "-q"],
    "versions": ["i"],
    "rollback": ["i", "0"],
    "vacuum": ["i"],
    "bench-disk": ["i", "--seconds", "0.01", "--size", "1", "-q"],
    "serve": ["i"],
    "plan": ["--ntotal", "1e6", "--d", "8", "--constants", "none.json"],
    "advise": ["x.npy", "--codecs", "sq8", "--seconds", "0.01", "-q"],
    "slurm": ["--nodes", "1", "--time", "1", "--script", "job", "--json", "build"],
}
# What an option of any value would start, or write into the place where the tests run.
LEFT_OUT = ("--engine", "--address", "--workers")
runner = CliRunner(env={"COLUMNS": "80"})
GROUP: Any = typer.main.get_command(app)  # once: it takes longer than to refuse an option


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors, queries, truth, an index and a trained model."""
    place = tmp_path_factory.mktemp("options")
    vectors = clustered(220, 8)
    np.save(place / "x.npy", vectors[:200])
    np.save(place / "q.npy", vectors[200:203])
    np.save(place / "t.npy", np.arange(3)[:, None])
    teravec.build(place / "x.npy", place / "i", nlist=2, niter=1)
    teravec.train(place / "x.npy", place / "trained", options=teravec.TrainOptions(nlist=2))
    return place


def cases() -> Iterator[tuple[str, str]]:
    for command in COMMANDS:
        for parameter in GROUP.commands[command].params:
            flags = [f for f in parameter.opts if f.startswith("--")]
            if flags and not getattr(parameter, "is_flag", False) and flags[0] not in LEFT_OUT:
                yield command, flags[0]


def test_every_command_is_tried() -> None:
    assert set(GROUP.commands) - set(COMMANDS) == {"selftest", "version"}


@pytest.mark.parametrize(("command", "option"), list(cases()))
def test_no_value_ends_in_a_traceback(
    command: str, option: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise teravec.InvalidArgument("stopped here")

    monkeypatch.chdir(place)
    for what in (
        "serving.deploy.launch.launch",
        "measuring.calibrate_index",
        "training.train.kmeans",
    ):
        monkeypatch.setattr(f"teravec.{what}", stop)
    for value in BAD:
        given = list(COMMANDS[command])
        if option in given:
            del given[given.index(option) : given.index(option) + 2]
        result = runner.invoke(GROUP, [command, f"{option}={value}", *given])
        told = f"{command} {option}={value[:40]!r}: {result.exception!r} {result.stderr}"
        assert result.exception is None or isinstance(result.exception, SystemExit), told
        assert result.exit_code in (0, 1, 2), told
        assert "Traceback" not in result.stderr, told
        if result.exit_code and "Usage:" not in result.stderr:
            errors = [s for s in result.stderr.splitlines() if s.startswith("teravec: ")]
            assert len(errors) >= 1, told
