"""Devices by name, and what is said where PyTorch or a GPU is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from teravec import granting
from teravec.cli.main import app
from teravec.engines.options import EngineOptions
from teravec.errors import InvalidArgument
from teravec.kernels import device as devices
from tests.conftest import clustered, write_fbin


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:12", "torch-cpu"])
def test_names(name: str) -> None:
    assert devices.parse_device(name) == name


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "CUDA", "cuda:0,1", "cpu "])
def test_other_names(name: str) -> None:
    with pytest.raises(InvalidArgument, match="cpu, cuda or cuda:N expected"):
        devices.parse_device(name)


def test_without_pytorch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line that says what to install, before anything is begun."""
    monkeypatch.setattr(devices, "find_spec", lambda name: None)
    data = str(write_fbin(tmp_path / "x.fbin", clustered(500, 4)))
    for command in ("build", "train", "shard"):
        out = ["--out", str(tmp_path / "i"), "--device", "cuda"]
        result = CliRunner().invoke(app, [command, data, *out])
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert "device cuda needs PyTorch, which is not here: pip install" in result.stderr
    assert not (tmp_path / "i").exists()
    assert devices.found_gpus() == (
        [],
        "device cuda needs PyTorch, which is not here: pip install 'teravec[gpu]', or in a "
        "checkout pip install '.[gpu]'",
    )


def test_a_worker_of_ray_takes_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its machine's GPUs count, not ours; a share asked for stays when it is more."""
    asked: list[EngineOptions] = []
    monkeypatch.setattr(granting, "open_engine", lambda options, *_: asked.append(options))
    for device, gpus in (("cpu", 0), ("cuda", 0), ("cuda", 2), ("torch-cpu", 0)):
        granting.resources(None, None, None, EngineOptions("ray", gpus=gpus), device)
    assert [options.gpus for options in asked] == [0, 1, 2, 0]
