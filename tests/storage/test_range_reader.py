"""Ranges of files: every way of reading gives the same bytes, and a failed read is an error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from teravec.errors import CorruptFile, StorageError
from teravec.storage.buffers import aligned_buffer
from teravec.storage.local_file import ALIGNMENT, LocalFile, LocalFiles
from teravec.storage.range_reader import RangeReader
from teravec.storage.store import Ranges

SIZE = 200 * ALIGNMENT + 77  # the last range ends beyond the file's end
WAYS = {
    "ring": (True, True),
    "direct threads": (True, False),
    "threads": (False, False),
    "buffered ring": (False, True),
}


@pytest.fixture
def data(tmp_path: Path) -> np.ndarray:
    """The bytes of tmp_path/file."""
    data = np.random.default_rng(2).integers(0, 256, SIZE, np.uint8)
    (tmp_path / "file").write_bytes(data.tobytes())
    return data


@pytest.fixture
def file(data: np.ndarray, tmp_path: Path) -> Iterator[LocalFile]:
    """That file, opened."""
    with LocalFile(tmp_path / "file") as file:
        yield file


@pytest.fixture(params=list(WAYS.values()), ids=list(WAYS))
def reader(request: pytest.FixtureRequest) -> Iterator[RangeReader]:
    """A reader of each way."""
    direct, ring = request.param
    reader = RangeReader(direct=direct, ring=ring)
    yield reader
    reader.close()


def _ranges(file: LocalFile, count: int) -> tuple[Ranges, np.ndarray]:
    """Random ranges of the file, and a buffer for them."""
    rng = np.random.default_rng(count)
    starts = rng.integers(0, 190, count)
    lengths = rng.integers(1, 12, count)
    at = np.cumsum(lengths) - lengths
    columns = (values * ALIGNMENT for values in (starts, lengths, at))
    ranges = Ranges(LocalFiles([file]), np.zeros(count, np.int64), *columns)
    return ranges, aligned_buffer(int(lengths.sum()) * ALIGNMENT)


def _range(file: LocalFile, start: int, count: int) -> Ranges:
    """One range, in sectors."""
    columns = (np.array([value * ALIGNMENT]) for value in (start, count, 0))
    return Ranges(LocalFiles([file]), np.zeros(1, np.int64), *columns)


@pytest.mark.parametrize("cold", [True, False])
@pytest.mark.parametrize("count", [1, 3, 100])
def test_every_way_gives_the_same_bytes(
    data: np.ndarray, file: LocalFile, reader: RangeReader, count: int, cold: bool
) -> None:
    os.fsync(file.fd)
    for _ in range(2):
        if cold:
            os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        ranges, buffer = _ranges(file, count)
        reader.read(ranges, buffer)
        for item in map(ranges.one, range(count)):
            expected = data[item.offset : item.offset + item.length]
            np.testing.assert_array_equal(buffer[item.at : item.at + len(expected)], expected)
            assert len(expected) == item.needed


@pytest.mark.parametrize("cold", [True, False])
def test_what_is_said_to_be_there_is_there(
    data: np.ndarray, file: LocalFile, reader: RangeReader, cold: bool
) -> None:
    os.fsync(file.fd)
    if cold:
        os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    ranges, buffer = _ranges(file, 90)
    buffer[:] = 0
    stops, begun = [1, 30, 31, 90], 0
    for stop in reader.filled(ranges, buffer, stops):
        assert stop in stops
        assert stop > begun
        for item in map(ranges.one, range(begun, stop)):
            expected = data[item.offset : item.offset + item.length]
            np.testing.assert_array_equal(buffer[item.at : item.at + len(expected)], expected)
        begun = stop
    assert begun == 90


def test_who_stops_looking_leaves_nothing_in_flight(
    file: LocalFile, reader: RangeReader, data: np.ndarray
) -> None:
    ranges, buffer = _ranges(file, 90)
    os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    arriving = reader.filled(ranges, buffer, [1, 90])
    next(arriving)
    arriving.close()
    buffer[:] = 7
    reader.read(_range(file, 0, 1), aligned_buffer(ALIGNMENT))
    assert (buffer == 7).all()


def test_a_forked_child_reads_too(data: np.ndarray, file: LocalFile, reader: RangeReader) -> None:
    ranges, buffer = _ranges(file, 30)
    reader.read(ranges, buffer)
    child = os.fork()
    if child == 0:  # nothing but this: threads and rings are the parent's
        status = 1
        try:
            os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            again = aligned_buffer(len(buffer))
            reader.read(ranges, again)
            items = list(map(ranges.one, range(30)))
            parts = [slice(item.at, item.at + item.needed) for item in items]
            status = 0 if all((again[part] == buffer[part]).all() for part in parts) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    reader.read(ranges, buffer)


def test_a_file_cut_after_it_was_opened_is_found(
    file: LocalFile, reader: RangeReader, tmp_path: Path
) -> None:
    os.truncate(tmp_path / "file", 100 * ALIGNMENT + 5)
    buffer = aligned_buffer(40 * ALIGNMENT)
    reader.read(_range(file, 0, 40), buffer)
    with pytest.raises(CorruptFile, match=r"file: ends at byte 51,205; 102,477 bytes expected"):
        reader.read(_range(file, 90, 40), buffer)


def test_a_failed_read_names_the_file(
    file: LocalFile, reader: RangeReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A descriptor of a directory: every read of it fails."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        monkeypatch.setattr(file, "fd", fd)
        monkeypatch.setattr(file, "direct_fd", None)
        monkeypatch.setattr(file, "open_direct", lambda: None)
        ranges, buffer = _ranges(file, 30)
        with pytest.raises(StorageError, match=r"file: cannot read: .*directory"):
            reader.read(ranges, buffer)
    finally:
        os.close(fd)


def test_short_reads_are_finished(
    data: np.ndarray, file: LocalFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that gives seven bytes at a time."""
    real = os.preadv

    def short(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags:
            return 0
        return real(file.fd, [buffers[0][:7]], offset)

    monkeypatch.setattr(os, "preadv", short)
    reader = RangeReader(ring=False)
    ranges, buffer = _ranges(file, 4)
    reader.read(ranges, buffer)
    reader.close()
    for item in map(ranges.one, range(4)):
        expected = data[item.offset : item.offset + item.length]
        np.testing.assert_array_equal(buffer[item.at : item.at + len(expected)], expected)


def test_a_ring_too_many_means_threads(
    data: np.ndarray, file: LocalFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a process has no descriptors left."""
    reader = RangeReader()

    def refused(depth: int) -> None:
        raise StorageError("io_uring is not to be had: Too many open files")

    monkeypatch.setattr("teravec.storage.range_reader.Uring", refused)
    ranges, buffer = _ranges(file, 9)
    os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    reader.read(ranges, buffer)
    reader.close()
    for item in map(ranges.one, range(9)):
        expected = data[item.offset : item.offset + item.length]
        np.testing.assert_array_equal(buffer[item.at : item.at + len(expected)], expected)


def test_no_ring_means_threads(
    data: np.ndarray, file: LocalFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(depth: int) -> None:
        raise StorageError("io_uring is not to be had")

    monkeypatch.setattr("teravec.storage.range_reader.Uring", refused)
    reader = RangeReader()
    ranges, buffer = _ranges(file, 9)
    reader.read(ranges, buffer)
    reader.close()
    first = ranges.one(0)
    expected = data[first.offset : first.offset + first.length]
    np.testing.assert_array_equal(buffer[first.at : first.at + len(expected)], expected)
