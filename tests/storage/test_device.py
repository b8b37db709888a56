"""Measuring a disk: what is measured is there and plausible, and what follows is arithmetic."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from teravec.errors import CorruptFile, InvalidArgument, MissingFile, StorageError
from teravec.progress import NoProgress
from teravec.storage import device_reads
from teravec.storage.device import (
    BLOCKS,
    DEPTHS,
    DeviceProfile,
    Rate,
    measure_device,
    measured_gap_bytes,
)
from teravec.storage.device_reads import Method, time_reads
from teravec.storage.jsonfile import read_json


def measure(path: Path) -> DeviceProfile:
    """A measurement that is as quick as one can be."""
    return measure_device(path, seconds=0.3, scratch_bytes=16 << 20, progress=NoProgress())


def made_up(read_s: float, byte_s: float, *, direct: float = 1.0) -> DeviceProfile:
    """A disk that follows the cost model; by O_DIRECT it does ``direct`` times as much."""
    rates = [
        Rate(method, False, block, depth, scale * min(depth, 8) / 8 / (read_s + byte_s * block))
        for method, scale in ((Method.PREAD, 1.0), (Method.DIRECT, direct))
        for block in BLOCKS
        for depth in DEPTHS
    ]
    return DeviceProfile(tuple(rates), {"io_uring": "not in this test"}, True)


def test_every_cell_is_measured_and_the_scratch_file_is_gone(tmp_path: Path) -> None:
    profile = measure(tmp_path)
    assert list(tmp_path.iterdir()) == []
    methods = [method for method in Method if str(method) not in profile.unavailable]
    assert Method.PREAD in methods
    random = {(r.method, r.block_bytes, r.depth) for r in profile.rates if not r.sequential}
    assert random == {(m, b, d) for m in methods for b in BLOCKS for d in DEPTHS}
    assert [r.method for r in profile.rates if r.sequential] == methods
    for rate in profile.rates:
        assert 1e5 < rate.bytes_per_s < 1e12
        assert rate.latency_s == pytest.approx(rate.depth / rate.reads_per_s)
    assert profile.recommended.bytes_per_s >= 0.9 * profile.best.bytes_per_s
    read_s, byte_s = profile.cost_model()
    assert read_s >= 0
    assert byte_s >= 0


@pytest.mark.parametrize("method", list(Method))
def test_each_read_is_counted_once(method: Method, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(1 << 20))
    offsets = list(range(0, 1 << 20, 4096))
    try:
        timed = time_reads(path, method, offsets, 4096, 5, 60.0)
    except StorageError as error:
        pytest.skip(str(error))
    assert timed.reads == 256
    assert time_reads(path, method, offsets, 4096, 5, 0.0).reads <= 5


def test_a_method_that_is_not_there_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StorageError("io_uring is not to be had: Operation not permitted")

    monkeypatch.setattr(device_reads, "Uring", refuse)
    profile = measure(tmp_path)
    assert "not permitted" in profile.unavailable["io_uring"]
    assert Method.URING not in {rate.method for rate in profile.rates}


@pytest.mark.parametrize(("read_s", "byte_s"), [(2e-5, 5e-10), (1e-4, 1e-8), (3e-3, 5e-9)])
def test_the_cost_model_is_found_again(read_s: float, byte_s: float) -> None:
    profile = made_up(read_s, byte_s)
    np.testing.assert_allclose(profile.cost_model(), (read_s, byte_s), rtol=1e-9)
    np.testing.assert_allclose(profile.cost_model(1), (8 * read_s, 8 * byte_s), rtol=1e-9)
    assert profile.worthwhile_gap_bytes == pytest.approx(read_s / byte_s, abs=1)


@pytest.mark.parametrize(("read_s", "byte_s"), [(1e-4, -1e-12), (-1e-7, 5e-10)])
def test_no_cost_is_negative(read_s: float, byte_s: float) -> None:
    found = made_up(read_s, byte_s).cost_model()
    assert min(found) == 0
    assert max(found) == pytest.approx(max(read_s, byte_s), rel=0.05)


def test_recommends_the_simplest_that_is_enough() -> None:
    even = made_up(2e-5, 5e-10).recommended
    # 1 MiB is best, at 96 % of what bytes alone would take; 256 KiB are at 87 %.
    assert (even.method, even.block_bytes, even.depth) == (Method.PREAD, 256 << 10, 8)
    cheap_reads = made_up(1e-7, 5e-10).recommended
    assert (cheap_reads.block_bytes, cheap_reads.depth) == (4 << 10, 8)
    assert made_up(2e-5, 5e-10, direct=1.05).recommended.method is Method.PREAD
    assert made_up(2e-5, 5e-10, direct=1.5).recommended.method is Method.DIRECT


def test_a_profile_is_kept(tmp_path: Path) -> None:
    path, profile = tmp_path / "device.json", made_up(2e-5, 5e-10)
    profile.write(path)
    content = read_json(path, "teravec-device", 1)
    assert content == {"format": "teravec-device", "version": 1, **profile.to_dict()}


def test_what_cannot_be_measured_is_said(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(bytes(1000))
    with pytest.raises(InvalidArgument, match="1,000 bytes found"):
        measure(small)
    with pytest.raises(MissingFile, match="absent"):
        measure(tmp_path / "absent")
    with pytest.raises(InvalidArgument, match="seconds"):
        measure_device(tmp_path, seconds=0, scratch_bytes=1 << 30, progress=NoProgress())
    assert os.listdir(tmp_path) == ["small"]  # noqa: PTH208


@pytest.mark.parametrize(
    ("read_s", "byte_s", "gap_bytes"),
    [(20e-6, 0.5e-9, 40_000), (1e-7, 1e-9, 4096), (8e-3, 5e-9, 1 << 20)],  # the last: a platter
)
def test_the_gap_that_was_measured(
    read_s: float, byte_s: float, gap_bytes: int, tmp_path: Path
) -> None:
    path = tmp_path / "device.json"
    assert measured_gap_bytes(path) is None
    profile = made_up(read_s, byte_s)
    profile.write(path)
    assert measured_gap_bytes(path) == pytest.approx(gap_bytes, rel=1e-3)
    dataclasses.replace(profile, cold=False).write(path)  # rates of memory
    assert measured_gap_bytes(path) is None
    path.write_text(path.read_text().replace("gap", "gab"))
    with pytest.raises(CorruptFile, match=r"device\.json"):
        measured_gap_bytes(path)
