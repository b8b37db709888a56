"""Index and search know stores only: an index in memory, behind a store that waits and fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import teravec
from teravec.engines.resources import Resources
from teravec.errors import CorruptFile, MissingFile, StorageError, TeravecError
from teravec.index.calibration import read_calibration
from teravec.index.manifest import read_manifest
from teravec.index.opened import OpenedIndex
from teravec.index.verify import verify
from teravec.model.description import ModelDescription
from teravec.progress import NoProgress
from teravec.search.index import Index
from teravec.search.memory_shares import MemoryShares
from teravec.segments.merge import MergeOptions, merge
from teravec.segments.shard import sealed_shards, shard
from teravec.sources import open_source
from teravec.storage.layout import IndexPaths
from teravec.storage.local_store import LocalStore
from teravec.storage.store import Store
from tests.storage.latency_store import LatencyStore
from tests.storage.memory_store import MemoryStore

N, D, NLIST = 3000, 24, 40
CODECS = ["sq8", "rabitq2+sq8"]


@pytest.fixture(scope="module", params=CODECS)
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated index of two slices, and its vectors beside it."""
    folder = tmp_path_factory.mktemp("stores")
    rng = np.random.default_rng(5)
    np.save(folder / "base.npy", rng.standard_normal((N, D), np.float32))
    teravec.build(
        folder / "base.npy", folder / "index", nlist=NLIST, codec=request.param, slices=2, niter=2
    )
    return folder / "index"


def in_memory(root: Path) -> MemoryStore:
    """The files of a local index, in memory."""
    local, files = LocalStore(root), {}
    for name in local.names():
        with local.open(name) as file:
            files[name] = bytes(file.read(file.size, 0))
    return MemoryStore(files)


def opened(store: Store, *, keep_lists: bool = True) -> Index:
    index = OpenedIndex(store)
    shares = MemoryShares.of(index, 64 << 20, keep_lists=keep_lists)
    return Index(index, shares=shares, threads=2)


def queries(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D), np.float32)


def searched(index: Index) -> list[np.ndarray]:
    """What every kind of search finds."""
    found: list[Any] = [*index.search(queries(50), 10, 8), *index.search(queries(1), 10, 20)]
    found += index.search(queries(7, seed=1), 10, recall=0.8)
    found += index.range_search(queries(9), 20.0, 8)
    return found


def test_every_search_finds_the_same(root: Path) -> None:
    store = LatencyStore(in_memory(root), latency_s=1e-3)
    with teravec.open(root, memory="64MiB", threads=2) as index:
        expected = searched(index)
    for keep_lists in (True, False):
        with opened(store, keep_lists=keep_lists) as index:
            for one, other in zip(searched(index), expected, strict=True):
                np.testing.assert_array_equal(one, other)
            assert index.stats.reads > 0


def test_requests_of_a_query(root: Path) -> None:
    """The ranges of a query are asked for together, each file once opened."""
    store = LatencyStore(in_memory(root))
    with opened(store, keep_lists=False) as index:
        files = {name for name in store.store.names() if name.startswith(("slices/", "model/"))}
        assert store.requests["open"] <= 2 * (len(files) + 3)
        store.requests.clear()
        index.search(queries(1), 10, 8)
        assert set(store.requests) == {"ranges"}
        assert 1 <= store.requests["ranges"] == index.stats.reads


def test_failed_requests_name_the_file(root: Path) -> None:
    failing: set[str] = set()

    def fail(kind: str, where: str) -> Exception | None:
        if kind not in failing:
            return None
        return StorageError(f"{where}: cannot read: the connection was lost")

    store = LatencyStore(in_memory(root), fail=fail)
    for kind in ("open", "read"):
        failing.add(kind)
        with pytest.raises(StorageError, match=r"memory:manifest\.json: cannot read"):
            opened(store)
        failing.clear()
    with opened(store, keep_lists=False) as index:
        expected = index.search(queries(5), 10, 8)
        failing.add("ranges")
        with pytest.raises(StorageError, match=r"memory:slices/.*: cannot read: the connection"):
            index.search(queries(5), 10, 8)
        failing.clear()
        for one, other in zip(index.search(queries(5), 10, 8), expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_damage_is_found_and_named(root: Path) -> None:
    store = in_memory(root)
    assert verify(store, NoProgress()) == []
    for name, data in sorted(store.files.items()):
        middle = len(data) // 2
        store.files[name] = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        try:
            damages = verify(store, NoProgress())
        except TeravecError as error:
            damages = [error]
        assert [str(damage).startswith(f"memory:{name}: ") for damage in damages] == [True]
        store.files[name] = data
    for name in store.names("slices/"):
        data = store.files.pop(name)
        with pytest.raises(MissingFile, match=f"memory:{name}: cannot read"):
            opened(store)
        store.files[name] = data[:-1]
        with pytest.raises(CorruptFile, match=f"memory:{name}: .* bytes found"):
            opened(store)
        store.files[name] = data
    del store.files["manifest.json"]
    with pytest.raises(MissingFile, match="memory:: the build is not finished"):
        opened(store)


def test_messages_name_the_store(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = in_memory(root)
    assert read_calibration(IndexPaths(store), read_manifest(IndexPaths(store))) is not None
    with opened(store) as index:
        assert "memory:" in repr(index)
        with pytest.raises(StorageError, match="memory:: a directory of a local file system"):
            assert index.root
    del store.files["calibration.json"]
    with (
        opened(store) as index,
        pytest.raises(teravec.InvalidArgument, match="memory: is not calibrated"),
    ):
        index.search(queries(1), 10, recall=0.8)
    with caplog.at_level("WARNING"), opened(store) as index:
        index.search(queries(1), 10)
    assert "memory:: no calibration" in caplog.text


def test_shards_and_slices_are_written_to_a_store(root: Path) -> None:
    """Sharding and merging in a store of memory give the bytes that they give in a directory."""
    whole = in_memory(root)
    kept = {n: data for n, data in whole.files.items() if n.startswith(("model/", "build.json"))}
    store = LatencyStore(MemoryStore(kept))
    paths, model = IndexPaths(store), ModelDescription.read(IndexPaths(store).model)
    resources = Resources(256 << 20, 2)
    source = open_source(root.parent / "base.npy")
    for rows in ((1000, N), (0, 1000)):
        shard(source, model, paths, None, rows, resources)
    assert [path.name for path in sealed_shards(paths)] == sorted(store.names("shards/"))
    options = MergeOptions(
        model.tag, model.code_size, model.sketch_size, model.nlist, source.ntotal, 2
    )
    entries = merge(paths, options, resources)
    assert tuple(entries) == read_manifest(IndexPaths(whole)).slices
    for name in whole.names("slices/"):
        assert kept[name] == whole.files[name]
    assert merge(paths, options, resources) == entries
