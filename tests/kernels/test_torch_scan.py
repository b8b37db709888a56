"""Assignment by PyTorch: on its processor device everywhere, on a GPU where there is one.

Without PyTorch these are left out; `make test-gpu` installs it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import teravec
from teravec.cli.main import app
from teravec.errors import InvalidArgument
from teravec.index.opened import OpenedIndex
from teravec.kernels import device as devices
from teravec.kernels import torch_scan
from teravec.kernels.assignment import CentroidAssigner
from tests.conftest import clustered, write_fbin
from tests.kernels.test_assignment import check_nearest, squared

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make test-gpu installs it")

NO_GPU = pytest.mark.skipif(not devices.found_gpus()[0], reason=devices.found_gpus()[1] or "none")
DEVICES = ["torch-cpu", pytest.param("cuda", marks=NO_GPU)]
on_each = pytest.mark.parametrize("device", DEVICES)


@on_each
@pytest.mark.parametrize("d", [1, 7, 96])
@pytest.mark.parametrize("n", [0, 1, 3000])
@pytest.mark.parametrize("nlist", [1, 33, 700])
def test_the_nearest_is_found(device: str, n: int, d: int, nlist: int) -> None:
    rng = np.random.default_rng(n + d)
    x = rng.standard_normal((n, d), np.float32)
    centroids = rng.standard_normal((nlist, d), np.float32)
    assigner = CentroidAssigner.on_device(centroids, x, device, threads=2)
    assert assigner.agreement >= 0.997
    assert (assigner.ngroups, assigner.nlist, assigner.d) == (1, nlist, d)
    check_nearest(x, centroids, assigner.assign(x, threads=2))


@on_each
def test_blocks_of_rows_and_of_centroids(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """Small integers are exact, so ties show: they go to the lowest list, across blocks too."""
    monkeypatch.setattr(torch_scan.TorchScan, "rows", 500)
    few = {"cuda": 500 * 7, "cpu": 500 * 7}
    monkeypatch.setattr(torch_scan.TorchScan, "score_floats", few)
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 3, (1730, 6)).astype(np.float32)
    centroids = rng.integers(-2, 3, (60, 6)).astype(np.float32)
    centroids = centroids[rng.integers(60, size=100)]  # with duplicates
    true = squared(x, centroids)
    for threads in (1, 3):
        assigner = CentroidAssigner.on_device(centroids, x, device, threads=threads)
        lists, distance = assigner.assign(x, threads=threads)
        np.testing.assert_array_equal(lists, true.argmin(1))
        np.testing.assert_array_equal(distance, true.min(1))


@on_each
def test_products_are_of_float32(device: str) -> None:
    """Whatever the program around us chose: TF32 would lose what tells these centroids apart."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        rng = np.random.default_rng(0)
        centroids = 1 + 5e-3 * rng.standard_normal((500, 64), np.float32)
        x = centroids[rng.integers(500, size=2000)]
        assigner = CentroidAssigner.on_device(centroids, x, device, threads=2)
        check_nearest(x, centroids, assigner.assign(x, threads=2))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_device_that_computes_wrongly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    x = clustered(2000, 8)

    def wrong(self: object, x: np.ndarray, list_no: np.ndarray, distance: np.ndarray) -> None:
        list_no[:], distance[:] = 0, 0

    monkeypatch.setattr(torch_scan.TorchScan, "__call__", wrong)
    with pytest.raises(InvalidArgument, match=r"of \d\.\d+% of 2,000 vectors; at least 99\.7%"):
        CentroidAssigner.on_device(x[:50], x, "torch-cpu", threads=1)


@on_each
def test_a_build_on_the_device(tmp_path: Path, device: str) -> None:
    vectors = clustered(6000, 16)
    base = write_fbin(tmp_path / "x.fbin", vectors)
    options = {"nlist": 300, "sample": 6000, "niter": 6, "calibrate": False}
    teravec.build(base, tmp_path / "cpu", **options)  # type: ignore[arg-type]
    teravec.build(base, tmp_path / "device", device=device, **options)  # type: ignore[arg-type]
    with OpenedIndex(tmp_path / "device") as index, OpenedIndex(tmp_path / "cpu") as ours:
        objective = [e["objective"] for e in index.model.description.history]
        reference = [e["objective"] for e in ours.model.description.history]
        # The processor's iterations go through groups and assign 99 % as exact.
        np.testing.assert_allclose(objective, reference, rtol=0.01)
        assert index.runs.list_sizes.sum() == 6000
        lists, _ = CentroidAssigner.exact(index.model.centroids).assign(vectors, threads=2)
        expected = np.bincount(lists, minlength=300)
        assert np.abs(index.runs.list_sizes - expected).sum() <= 0.006 * 6000  # 99.7 % agree
    teravec.verify(tmp_path / "device")


@on_each
def test_resumed_on_another_device(tmp_path: Path, device: str) -> None:
    """What was trained here is sharded there: the build does not remember its device."""
    base = str(write_fbin(tmp_path / "x.fbin", clustered(3000, 8)))
    out = ["--out", str(tmp_path / "i")]
    runner = CliRunner()
    for command in (
        ["train", base, *out, "--nlist", "30", "--niter", "3", "--quiet"],
        ["shard", base, *out, "--device", device, "--quiet"],
        ["merge", *out, "--quiet"],
    ):
        result = runner.invoke(app, command)
        assert result.exit_code == 0, result.output
    teravec.verify(tmp_path / "i")


def test_a_gpu_that_is_not_there() -> None:
    count = len(devices.found_gpus()[0])
    with pytest.raises(InvalidArgument, match=rf"device cuda:{count}: PyTorch .* finds"):
        devices.open_torch(f"cuda:{count}")
