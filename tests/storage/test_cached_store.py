"""A cache on a local disk: the shared suite in front of each store, and what only it does."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from teravec.errors import CorruptFile, InvalidArgument
from teravec.storage.buffers import aligned_buffer
from teravec.storage.cache_counts import counts_of
from teravec.storage.cached_store import CachedStore
from teravec.storage.disk_cache import DiskCache
from teravec.storage.local_store import LocalStore
from teravec.storage.object_store import ObjectStore
from teravec.storage.store import OpenFile, Ranges, Sealed, Store
from tests.storage.fault_proxy import FaultProxy, fault_proxy
from tests.storage.memory_store import MemoryStore
from tests.storage.object_stand_in import new_store, options_of
from tests.storage.store_suite import StoreSuite, get, put, random_bytes

MIB = 1 << 20


@dataclass(frozen=True)
class SealingStore(CachedStore):
    """Opens every file with its seal, as the manifest of an index does."""

    def open(self, name: str, **options: Any) -> OpenFile:
        with self.store.open(name) as file:
            data = bytes(file.read(file.size, 0))
        sealed = Sealed(len(data), xxhash.xxh3_64_hexdigest(data))
        return super().open(name, **{**options, "sealed": sealed})


class CachedSuite(StoreSuite):
    # Writing, which these are about, goes by the cache.
    shared = False
    test_removing_beside_writing: Any = None
    test_of_many_threads_one_creates: Any = None

    @pytest.fixture
    def directory(self, tmp_path: Path) -> str:
        return str(tmp_path / "cache")

    def cut(self, store: Store, name: str, size: int) -> None:
        assert isinstance(store, CachedStore)
        put(store.store, name, get(store.store, name)[:size])

    def test_what_was_read_is_read_from_the_cache(self, store: Store) -> None:
        assert isinstance(store, CachedStore)
        for seed in (3, 3):
            ranges, buffer, expected = self.ranges(store, 40, seed)
            reader = store.reader()
            reader.read(ranges, buffer)
            for i in range(40):
                item = ranges.one(i)
                assert buffer[item.at : item.at + item.needed].tobytes() == expected[i]
            reader.close()
            self.close(ranges)
        counts = counts_of(store.directory)
        assert (counts.hits, counts.misses) == (40, 40)
        assert counts.hit_bytes == counts.miss_bytes == sum(map(len, expected))


class TestCachedLocal(CachedSuite):
    @pytest.fixture
    def store(self, tmp_path: Path, directory: str) -> Store:
        return SealingStore(LocalStore(tmp_path / "store"), directory, 4 * MIB)

    @pytest.fixture(autouse=True)
    def root(self, tmp_path: Path) -> None:
        (tmp_path / "store").mkdir()

    def cut(self, store: Store, name: str, size: int) -> None:
        os.truncate(store.locate(name), size)


class TestCachedS3(CachedSuite):
    @pytest.fixture
    def store(self, s3_endpoint: str, directory: str) -> Store:
        return SealingStore(new_store(s3_endpoint), directory, 4 * MIB)


class TestCachedS3WithFaults(CachedSuite):
    """Of the requests, some are refused, cut, or answered with other bytes."""

    @pytest.fixture
    def proxy(self, s3_endpoint: str) -> Iterator[FaultProxy]:
        with fault_proxy(s3_endpoint) as proxy:
            faults = ["503", "reset", "cut", "wrong range", "whole"]
            proxy.choose = lambda method, path, number: (
                faults[number // 7 % 5] if method == "GET" and number % 7 == 3 else None
            )
            yield proxy

    @pytest.fixture
    def store(self, s3_endpoint: str, proxy: FaultProxy, directory: str) -> Store:
        inner = new_store(s3_endpoint)
        return SealingStore(ObjectStore(inner.address, options_of(proxy.url)), directory, 4 * MIB)


class TestCachedInMemory(CachedSuite):
    @pytest.fixture
    def store(self, directory: str) -> Store:
        return SealingStore(MemoryStore(), directory, 4 * MIB)


# ---------------------------------------------------------------- what only a cache does

DATA = random_bytes(200_000)
SEALED = Sealed(len(DATA), "a" * 16)


@pytest.fixture
def inner() -> MemoryStore:
    return MemoryStore({"f": DATA})


def read(store: CachedStore, count: int = 20) -> bytes:
    """Read blocks of 4,000 bytes through a reader; their bytes."""
    file, reader = store.open("f", sealed=SEALED), store.reader()
    offsets = np.arange(count) * 8192
    ranges = Ranges(
        store.group([file]), offsets * 0, offsets, offsets * 0 + 4096, np.arange(count) * 4096
    )
    buffer = aligned_buffer(count * 4096)
    reader.read(ranges, buffer)
    reader.close()
    file.close()
    return buffer[: count * 4096].tobytes()


def wanted(count: int = 20) -> bytes:
    return b"".join(DATA[i * 8192 : i * 8192 + 4096] for i in range(count))


def counted(store: CachedStore) -> tuple[int, int, int]:
    counts = counts_of(store.directory)
    return counts.hits, counts.misses, counts.damaged


def test_a_damaged_block_is_read_again(inner: MemoryStore, tmp_path: Path) -> None:
    store = CachedStore(inner, str(tmp_path), MIB)
    assert read(store) == wanted()
    path = tmp_path / "cache.data"
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    data[40_000] ^= 128
    path.write_bytes(data)
    assert read(store) == wanted()
    assert counted(store) == (18, 22, 2)
    assert read(store) == wanted()  # they were written again
    assert counted(store) == (38, 22, 2)


@pytest.mark.parametrize("name", ["cache.table", "cache.data"])
@pytest.mark.parametrize("size", [0, 700, 50_000])
def test_files_that_were_cut(inner: MemoryStore, tmp_path: Path, name: str, size: int) -> None:
    store = CachedStore(inner, str(tmp_path), MIB)
    assert read(store) == wanted()
    os.truncate(tmp_path / name, size)
    assert read(store) == wanted()
    with store.open("f", sealed=SEALED) as file:
        assert file.read(4096, 8192) == DATA[8192:12288]


def test_a_table_of_garbage(inner: MemoryStore, tmp_path: Path) -> None:
    store = CachedStore(inner, str(tmp_path), MIB)
    assert read(store) == wanted()
    path = tmp_path / "cache.table"
    rng = np.random.default_rng(0)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(rng.bytes(path.stat().st_size - 4096))
    assert read(store) == wanted()
    path.write_bytes(rng.bytes(path.stat().st_size))  # its header too, for who opens it next
    assert read(store) == wanted()
    assert read(CachedStore(inner, str(tmp_path))) == wanted()


def test_the_cache_stays_within_its_bytes(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, MIB)
    for number in range(60):
        data = random_bytes(50_000, number)
        cache.keep_range(Sealed(50_000, f"{number}"), 0, 50_000, memoryview(data))
        held = cache.read_range(Sealed(50_000, f"{number}"), 0, 50_000)
        assert held is not None
        assert held == memoryview(data)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= MIB
    newest = [cache.read_range(Sealed(50_000, f"{n}"), 0, 50_000) is not None for n in range(60)]
    assert newest == [False] * newest.index(True) + [True] * (60 - newest.index(True))
    assert 15 <= sum(newest) <= 20
    too_large = memoryview(random_bytes(MIB))
    cache.keep_range(Sealed(MIB, "large"), 0, MIB, too_large)
    assert cache.read_range(Sealed(MIB, "large"), 0, MIB) is None


def test_what_is_wanted_often_stays(tmp_path: Path) -> None:
    cache, often = DiskCache(tmp_path, MIB), Sealed(50_000, "often")
    data = random_bytes(50_000)
    cache.keep_range(often, 0, 50_000, memoryview(data))
    for number in range(100):
        cache.keep_range(Sealed(50_000, f"{number}"), 0, 50_000, memoryview(data))
        assert cache.read_range(often, 0, 50_000) is not None


def test_files_of_the_same_seal_share_blocks_and_others_do_not(
    inner: MemoryStore, tmp_path: Path
) -> None:
    store = CachedStore(inner, str(tmp_path), MIB)
    assert read(store) == wanted()
    inner.files["moved"] = inner.files.pop("f")
    with store.open("moved", sealed=SEALED) as file:
        inner.files["moved"] = bytes(len(DATA))
        assert file.read(4096, 8192) == DATA[8192:12288]
    for other in (Sealed(len(DATA), "b" * 16), Sealed(len(DATA) - 1, SEALED.seal)):
        with store.open("moved", sealed=other) as file:
            assert file.read(4096, 8192) == bytes(4096)


def test_first_reads_come_from_the_cache(inner: MemoryStore, tmp_path: Path) -> None:
    store = CachedStore(inner, str(tmp_path), MIB)
    for data in (DATA, bytes(len(DATA))):
        inner.files["f"] = data
        with store.open("f", sealed=SEALED, ahead=[(0, 128), (1000, 9000)]) as file:
            assert file.read(128, 0) == DATA[:128]
            assert file.read(10, 1000) + file.read(7990, 1010) == DATA[1000:9000]
    # What a caller found to be wrong is read from the store, and replaces what was kept.
    file = store.open("f", sealed=SEALED, ahead=[(0, 128)])
    assert file.read(128, 0) == DATA[:128]
    file.distrust()
    assert file.read(128, 0) == bytes(128)
    with store.open("f", sealed=SEALED, ahead=[(0, 128)]) as again:
        assert again.read(128, 0) == bytes(128)


def test_files_without_a_seal_are_not_kept(inner: MemoryStore, tmp_path: Path) -> None:
    store = CachedStore(inner, str(tmp_path), MIB)
    put(store, "g", b"old")
    assert get(store, "g") == b"old"
    put(store, "g", b"new")
    assert get(store, "g") == b"new"
    assert counted(store) == (0, 0, 0)


def test_a_full_disk_is_no_error_and_said_once(
    inner: MemoryStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = CachedStore(inner, str(tmp_path), MIB)
    assert read(store, 5) == wanted(5)

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("teravec.storage.disk_cache.PAUSE_S", 0.0)
    monkeypatch.setattr(os, "pwritev", refuse)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert read(store) == wanted()
    assert [record.message.count("no space left") for record in caplog.records] == [1]
    assert counted(store)[0] == 3 * 5  # what is there is used
    monkeypatch.undo()
    assert read(store) == wanted()
    assert read(store) == wanted()
    assert counted(store)[0] == 4 * 5 + 20


def test_a_directory_that_cannot_be_used(
    inner: MemoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    store = CachedStore(inner, str(tmp_path / "file" / "cache"), MIB)
    with caplog.at_level(logging.WARNING):
        assert read(store) == wanted()
        assert read(store) == wanted()
    assert len(caplog.records) == 1
    assert "is read without a cache" in caplog.text
    with pytest.raises(InvalidArgument, match="at least 1,048,576 expected"):
        read(CachedStore(inner, str(tmp_path / "small"), 1000))


def test_another_size(inner: MemoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = CachedStore(inner, str(tmp_path), MIB)
    opened = first.open("f", sealed=SEALED)  # holds the cache
    assert read(first) == wanted()
    other = CachedStore(inner, str(tmp_path), 2 * MIB)
    with caplog.at_level(logging.WARNING):
        assert read(other) == wanted()
    assert "stays as it is" in caplog.text
    assert counted(other) == (20, 20, 0)
    assert read(CachedStore(inner, str(tmp_path))) == wanted()
    opened.close()
    del opened
    assert read(other) == wanted()
    assert counted(other) == (40, 40, 0)
    sizes = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert MIB < sizes <= 2 * MIB


_FILL = """
import sys
from pathlib import Path
import numpy as np
from teravec.storage.disk_cache import DiskCache
from teravec.storage.store import Sealed

cache, rng = DiskCache(Path(sys.argv[1]), 1 << 20), np.random.default_rng(int(sys.argv[2]))
for step in range(1000 if sys.argv[3] == "killed" else 100):
    name = int(rng.integers(0, 60))
    data = np.random.default_rng(name).bytes(1000 + 300 * name)
    sealed = Sealed(len(data), str(name))
    held = cache.read_range(sealed, 0, len(data))
    assert held is None or held == data
    cache.keep_range(sealed, 0, len(data), memoryview(data))
    if step == 50:
        print("at work", flush=True)
"""


def test_processes_share_it_also_when_some_are_killed(tmp_path: Path) -> None:
    def start(number: int, end: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _FILL, str(tmp_path), str(number), end]
        return subprocess.Popen(command, stdout=subprocess.PIPE)

    processes = [start(number, "killed" if number == 0 else "ends") for number in range(3)]
    out = processes[0].stdout
    assert out is not None
    assert out.readline() == b"at work\n"
    processes[0].kill()
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [-signal.SIGKILL, 0, 0]
    cache = DiskCache(tmp_path)
    found = 0
    for name in range(60):
        data = random_bytes(1000 + 300 * name, name)
        held = cache.read_range(Sealed(len(data), str(name)), 0, len(data))
        found += held is not None
        assert held is None or held == data
    assert found > 20


def test_an_object_that_is_cut_is_an_error_behind_the_cache_too(
    s3_endpoint: str, tmp_path: Path
) -> None:
    inner = new_store(s3_endpoint)
    put(inner, "f", DATA[:-1])
    store = CachedStore(inner, str(tmp_path), MIB)
    with (
        pytest.raises(CorruptFile, match=r"/f: 199,999 bytes found, 200,000 expected"),
        store.open("f", sealed=SEALED, ahead=[(0, 128)]) as file,
    ):
        file.read(128, 0)
