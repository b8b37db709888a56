"""io_uring: the bytes are those of pread, in whatever order reads end."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from teravec.errors import StorageError
from teravec.storage import uring
from teravec.storage.uring import Uring


@pytest.fixture
def ring() -> Iterator[Uring]:
    """A ring of four reads, where the kernel has one."""
    try:
        opened = Uring(4)
    except StorageError as error:
        pytest.skip(str(error))
    with opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "x").write_bytes(np.random.default_rng(0).bytes(100_000))
    fd = os.open(tmp_path / "x", os.O_RDONLY)
    yield fd
    os.close(fd)


def test_many_reads_through_few_places(ring: Uring, file: int) -> None:
    rng = np.random.default_rng(1)
    offsets, buffer = rng.integers(0, 99_000, 200).tolist(), np.zeros((200, 700), np.uint8)
    done: list[tuple[int, int]] = []
    for i, offset in enumerate(offsets):
        if ring.in_flight == 4:
            done += ring.wait(int(rng.integers(1, 5)))
        ring.read(file, buffer[i].ctypes.data, 700, offset, i)
    done += ring.wait(ring.in_flight)
    assert ring.in_flight == 0
    assert sorted(done) == [(i, 700) for i in range(200)]
    for i, offset in enumerate(offsets):
        assert buffer[i].tobytes() == os.pread(file, 700, offset)


def test_short_and_failed_reads_are_told(ring: Uring, file: int) -> None:
    buffer = np.zeros((3, 700), np.uint8)
    ring.read(file, buffer[0].ctypes.data, 700, 99_900, 0)
    ring.read(file, buffer[1].ctypes.data, 700, 200_000, 1)
    ring.read(-1, buffer[2].ctypes.data, 700, 0, 2)
    assert sorted(ring.wait(3)) == [(0, 100), (1, 0), (2, -errno.EBADF)]


def test_a_full_ring_takes_no_more(ring: Uring, file: int) -> None:
    buffer = np.zeros(5, np.uint8)
    for i in range(4):
        ring.read(file, buffer[i:].ctypes.data, 1, i, i)
    with pytest.raises(ValueError, match="4 reads in flight"):
        ring.read(file, buffer[4:].ctypes.data, 1, 4, 4)


def test_waiting_for_nothing_returns(ring: Uring) -> None:
    assert list(ring.wait()) == []


def test_a_kernel_that_forbids_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uring, "_SETUP", 1_000_000)  # no such system call
    with pytest.raises(StorageError, match="io_uring is not to be had"):
        Uring(4)
