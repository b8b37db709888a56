"""A file read at any offset: short reads, ends and errors."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from teravec.errors import CorruptFile, MissingFile, StorageError
from teravec.storage.memory_file import memory_file
from teravec.storage.positioned import PositionedFile

DATA = np.random.default_rng(1).bytes(10_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "f").write_bytes(DATA)
    return tmp_path / "f"


def read(file: PositionedFile, start: int, stop: int) -> bytes:
    out = bytearray(stop - start)
    file.read_into(memoryview(out), start)
    return bytes(out)


@pytest.mark.parametrize("step", [None, 1, 7])
def test_reads(path: Path, step: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may read fewer bytes than asked for."""
    preadv, pread = os.preadv, os.pread
    if step is not None:
        monkeypatch.setattr(os, "preadv", lambda fd, b, at: preadv(fd, [b[0][:step]], at))
        monkeypatch.setattr(os, "pread", lambda fd, n, at: pread(fd, min(n, step), at))
    with PositionedFile(path) as file:
        assert (file.path, file.size) == (path, len(DATA))
        for start, stop in ((0, 0), (0, 100), (9_950, 10_000), (3, 4), (10_000, 10_000)):
            assert read(file, start, stop) == file.read(stop - start, start) == DATA[start:stop]


def test_the_end(path: Path) -> None:
    with PositionedFile(path) as file:
        assert file.read(100, 9_990) == DATA[9_990:]
        assert file.read(100, 20_000) == b""
        for start, stop, end in ((9_990, 10_001, 10_000), (20_000, 20_001, 20_000)):
            with pytest.raises(CorruptFile, match=f"f: ends at byte {end:,}; {stop:,} bytes"):
                read(file, start, stop)


def test_readers_share_no_position(path: Path) -> None:
    with PositionedFile(path) as file, ThreadPoolExecutor(4) as pool:
        starts = [7 * i for i in range(1000)]
        assert list(pool.map(lambda at: read(file, at, at + 50), starts)) == [
            DATA[at : at + 50] for at in starts
        ]


def test_errors_name_the_file(path: Path) -> None:
    with pytest.raises(MissingFile, match="no: cannot open: no such file"):
        PositionedFile(path.parent / "no")
    with PositionedFile(path.parent) as folder:  # opens, as any directory does
        with pytest.raises(StorageError, match=f"{path.parent}: cannot read"):
            folder.read(1, 0)
        with pytest.raises(StorageError, match=f"{path.parent}: cannot read"):
            read(folder, 0, 1)


def test_closed_twice(path: Path) -> None:
    file = PositionedFile(path)
    file.close()
    other = os.open(path, os.O_RDONLY)  # takes the number that is free now
    file.close()
    with pytest.raises(StorageError, match="f: cannot read"):
        read(file, 0, 1)
    os.close(other)


def test_memory_file() -> None:
    with memory_file(DATA) as path:
        assert path.read_bytes() == path.read_bytes() == DATA
    assert not path.exists()
