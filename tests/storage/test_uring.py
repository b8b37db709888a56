"""io_uring: the bytes are those of pread, in whatever order reads end."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from teravec.errors import StorageError
from teravec.native import extensions as compiled
from teravec.storage.uring import PENDING, Uring


@pytest.fixture
def ring() -> Iterator[Uring]:
    """A ring of four reads, where the kernel has one."""
    try:
        opened = Uring(4)
    except StorageError as error:
        pytest.skip(str(error))
    yield opened
    opened.drain()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "x").write_bytes(np.random.default_rng(0).bytes(100_000))
    fd = os.open(tmp_path / "x", os.O_RDONLY)
    yield fd
    os.close(fd)


def _reads(fds: list[int], offsets: list[int], length: int) -> np.ndarray:
    """Reads of one length, one after another in the buffer."""
    n = len(offsets)
    return np.array([fds, offsets, [length] * n, [i * length for i in range(n)]], np.int64)


@pytest.mark.parametrize("steps", [1, 3, 200])
def test_many_reads_through_few_places(ring: Uring, file: int, steps: int) -> None:
    offsets = np.random.default_rng(1).integers(0, 99_000, 200).tolist()
    buffer, results = np.zeros((200, 700), np.uint8), np.empty(200, np.int64)
    ring.begin(_reads([file] * 200, offsets, 700), buffer, results)
    assert (results == PENDING).all()
    for stop in np.linspace(0, 200, steps + 1).astype(int).tolist():
        ended = ring.wait(stop)
        assert ended >= stop
        assert (results[:ended] == 700).all()
    for i, offset in enumerate(offsets):
        assert buffer[i].tobytes() == os.pread(file, 700, offset)


def test_short_and_failed_reads_are_told(ring: Uring, file: int) -> None:
    buffer, results = np.zeros((3, 700), np.uint8), np.empty(3, np.int64)
    ring.begin(_reads([file, file, -1], [99_900, 200_000, 0], 700), buffer, results)
    assert ring.wait(3) == 3
    assert results.tolist() == [100, 0, -errno.EBADF]


def test_a_drained_ring_begins_no_more_and_serves_again(ring: Uring, file: int) -> None:
    buffer, results = np.zeros((100, 700), np.uint8), np.empty(100, np.int64)
    reads = _reads([file] * 100, [0] * 100, 700)
    ring.begin(reads, buffer, results)
    ring.wait(1)
    ring.drain()
    begun = results != PENDING
    assert 1 <= begun.sum() < 100
    assert (buffer[~begun] == 0).all()
    ring.begin(reads, buffer, results)
    assert ring.wait(100) == 100


def test_reads_in_flight_are_not_forgotten(ring: Uring, file: int) -> None:
    buffer, results = np.zeros((4, 700), np.uint8), np.empty(4, np.int64)
    read, write = os.pipe()
    try:
        reads = _reads([read] * 4, [0] * 4, 700)
        ring.begin(reads, buffer, results)
        ring.wait(0)  # handed over, and waiting for somebody to write
        with pytest.raises(ValueError, match="in flight"):
            ring.begin(reads, buffer, results)
    finally:
        os.close(write)
        ring.drain()
        os.close(read)
    assert results.tolist() == [0, 0, 0, 0]


def test_reads_beyond_the_buffer_are_refused(ring: Uring, file: int) -> None:
    buffer, results = np.zeros(1400, np.uint8), np.empty(3, np.int64)
    with pytest.raises(ValueError, match=r"read 2: 700 bytes .* to byte 1400 of 1400"):
        ring.begin(_reads([file] * 3, [0] * 3, 700), buffer, results)
    with pytest.raises(ValueError, match="reads has"):
        ring.begin(_reads([file] * 2, [0] * 2, 700), buffer, results)
    with pytest.raises(ValueError, match="stop is 1 of 0"):
        ring.wait(1)


def test_a_kernel_that_forbids_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(depth: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(compiled, "ringing", SimpleNamespace(Ring=refuse))
    with pytest.raises(StorageError, match="io_uring is not to be had: Operation not permitted"):
        Uring(4)
    monkeypatch.setattr(compiled, "ringing", None)
    with pytest.raises(StorageError, match="not compiled"):
        Uring(4)
