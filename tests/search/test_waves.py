"""Opening an index in an object store, and searching it, waits for few waves of requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import teravec
from teravec.errors import CorruptFile
from teravec.storage.cache_counts import counts_of
from teravec.storage.object_store import ObjectStore
from teravec.storage.store import Store
from tests.conftest import clustered
from tests.storage.fault_proxy import FaultProxy, count_bytes, count_waves, fault_proxy
from tests.storage.object_stand_in import new_store, options_of
from tests.storage.store_suite import get, put

ROWS = clustered(6000, 24)
QUERIES = ROWS[::100] + 0.01
NPROBE = 8


@pytest.fixture(scope="module")
def proxy(s3_endpoint: str) -> Iterator[FaultProxy]:
    with fault_proxy(s3_endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Indexes of one stage and two, in directories."""
    paths = {}
    for codec in ("sq8", "rabitq1+sq8"):
        paths[codec] = tmp_path_factory.mktemp("built") / "index"
        options: dict[str, Any] = {"nlist": 64, "niter": 2, "slices": 3, "codec": codec}
        options["calibrate"] = codec == "sq8"
        teravec.build(ROWS, paths[codec], ids=np.arange(6000) * 2, **options)
    return paths


@pytest.fixture
def place(
    proxy: FaultProxy, s3_endpoint: str, built: dict[str, Path]
) -> Callable[[str], tuple[Store, Store]]:
    """Copies an index to a store; returns the store behind the proxy, and the store itself."""

    def make(codec: str) -> tuple[Store, Store]:
        there = new_store(s3_endpoint)
        teravec.copy(built[codec], there)
        return ObjectStore(there.address, options_of(proxy.url)), there

    return make


def watch(proxy: FaultProxy, call: Callable[[], Any]) -> tuple[Any, int, int]:
    """Call; return the answer, and the waves and bytes of its requests."""
    proxy.latency_s = 0.06
    proxy.spans.clear()
    try:
        answer = call()
        return answer, count_waves(proxy.spans), count_bytes(proxy.spans)
    finally:
        proxy.latency_s = 0.0


@pytest.mark.parametrize("codec", ["sq8", "rabitq1+sq8"])
def test_two_waves_to_open_and_two_a_query(
    proxy: FaultProxy, place: Callable[[str], tuple[Store, Store]], codec: str, built: Any
) -> None:
    store, _ = place(codec)
    index, waves, _ = watch(proxy, lambda: teravec.open(store))
    assert waves <= 2
    with index, teravec.open(built[codec]) as local:
        for row in range(3):
            mine = QUERIES[row : row + 1]
            found, waves, _ = watch(proxy, partial(index.search, mine, 5, nprobe=NPROBE))
            assert waves <= 2
            for one, other in zip(found, local.search(mine, 5, nprobe=NPROBE), strict=True):
                np.testing.assert_array_equal(one, other)
        if codec == "sq8":  # the calibration came with the opening
            (_, waves, _) = watch(proxy, lambda: index.search(QUERIES[9:10], 5, recall=0.8))
            assert waves <= 2


def test_an_index_with_versions_opens_in_two_waves(
    proxy: FaultProxy, place: Callable[[str], tuple[Store, Store]]
) -> None:
    store, there = place("sq8")
    teravec.add(there, ROWS[:10], ids=np.arange(10) * 2 + 1)
    teravec.delete(there, [0, 4])
    index, waves, _ = watch(proxy, lambda: teravec.open(store))
    assert waves <= 2
    assert index.version == 2
    index.close()
    older, waves, _ = watch(proxy, lambda: teravec.open(store, version=1))
    assert waves <= 3
    assert older.version == 1
    older.close()
    # What was noted is believed only if it is the newest version.
    data = bytes(there.open("manifest.json").read(there.size("manifest.json"), 0))
    teravec.delete(there, [6])
    with there.publish("manifest.json") as file:
        file.write(data, 0)
    with teravec.open(store) as index:
        assert index.version == 3
    there.remove("manifest.json")
    with teravec.open(store) as index:
        assert index.version == 3


def test_damage_in_the_store_ends_when_it_is_repaired(
    place: Callable[[str], tuple[Store, Store]], tmp_path: Path
) -> None:
    """The cache has kept the damaged bytes, with a right checksum of its own."""
    _, there = place("sq8")
    names = ("slices/00001.lists", "model/centroids.npy")
    sound = {name: get(there, name) for name in names}
    put(there, names[1], sound[names[1]][:-1] + b"x")
    with pytest.raises(CorruptFile, match=names[1]):
        teravec.open(there, cache=tmp_path, cache_bytes="4MiB")
    put(there, names[1], sound[names[1]])
    put(there, names[0], bytes(byte ^ (i == 500) for i, byte in enumerate(sound[names[0]])))
    with teravec.open(there, cache=tmp_path) as index, pytest.raises(CorruptFile, match=names[0]):
        index.search(ROWS, 3, nprobe=64)
    put(there, names[0], sound[names[0]])
    with teravec.open(there, cache=tmp_path) as index:
        with suppress(CorruptFile):  # the damaged block is met once more, and then read again
            index.search(ROWS, 3, nprobe=64)
        assert (index.search(ROWS, 1, nprobe=64)[1][:, 0] == np.arange(6000) * 2).all()


def test_bytes_are_close_to_those_of_the_lists(
    proxy: FaultProxy, place: Callable[[str], tuple[Store, Store]]
) -> None:
    store, _ = place("sq8")
    with teravec.open(store, keep_lists=False) as index:
        _, _, asked = watch(proxy, lambda: index.search(QUERIES, 5, nprobe=NPROBE))
        assert asked <= 1.2 * index.stats.bytes_read


@pytest.mark.parametrize("codec", ["sq8", "rabitq1+sq8"])
def test_a_cache_on_disk_spares_the_requests(
    proxy: FaultProxy,
    place: Callable[[str], tuple[Store, Store]],
    built: dict[str, Path],
    tmp_path: Path,
    codec: str,
) -> None:
    store, _ = place(codec)
    with teravec.open(built[codec]) as local:
        expected = local.search(QUERIES, 5, nprobe=NPROBE)
    for number in range(2):
        opening: dict[str, Any] = {"cache": tmp_path, "cache_bytes": "4MiB", "keep_lists": False}
        index, waves, _ = watch(proxy, partial(teravec.open, store, **opening))
        with index:
            assert waves <= 2
            search = partial(index.search, QUERIES, 5, nprobe=NPROBE)
            found, waves, more = watch(proxy, search)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
        if number:
            assert (waves, more) == (0, 0)
    counts = counts_of(str(tmp_path))
    assert counts.hits == counts.misses > 50
    # A damaged cache changes nothing.
    data = (tmp_path / "cache.data").read_bytes()
    flipped = np.frombuffer(data, np.uint8) ^ (np.arange(len(data)) % 900 == 7)
    (tmp_path / "cache.data").write_bytes(flipped.tobytes())
    with teravec.open(store, cache=tmp_path) as index:
        for one, other in zip(index.search(QUERIES, 5, nprobe=NPROBE), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert counts.damaged > 10
