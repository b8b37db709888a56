"""An index in an object store is made, searched, changed and copied as one in a directory is."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import teravec
from teravec.errors import CorruptFile, InvalidArgument, MissingFile, OutputExists, StorageError
from teravec.index.pending import list_pending
from teravec.storage.layout import IndexPaths
from teravec.storage.object_store import ObjectStore
from teravec.storage.store import Store
from tests.storage.fault_proxy import fault_proxy, first
from tests.storage.object_stand_in import new_store, options_of
from tests.storage.store_suite import get, put
from tests.writing.conftest import BASE, NLIST, ROWS, MakeIndex

FIRST = ROWS[:40]


def searched(place: Path | Store, version: int | None = None) -> list[np.ndarray]:
    with teravec.open(place, memory="64MiB", threads=1, version=version) as index:
        found = [*index.search(FIRST, 9, nprobe=6), *index.range_search(FIRST[:5], 20.0, 4)]
    return [np.asarray(each) for each in found]


def assert_same(one: Path | Store, other: Path | Store, version: int | None = None) -> None:
    for mine, theirs in zip(searched(one, version), searched(other, version), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def contents(store: Store) -> dict[str, bytes]:
    return {name: get(store, name) for name in store.names()}


@pytest.fixture
def store(s3_endpoint: str) -> ObjectStore:
    return new_store(s3_endpoint)


def test_a_build_has_the_bytes_of_a_local_one(store: ObjectStore, tmp_path: Path) -> None:
    np.save(tmp_path / "base.npy", ROWS[:1000])
    options: dict[str, Any] = {
        "nlist": NLIST,
        "codec": "rabitq2+sq8",
        "shards": 2,
        "slices": 2,
        "niter": 2,
    }
    local = teravec.build(tmp_path / "base.npy", tmp_path / "index", **options)
    assert teravec.build(tmp_path / "base.npy", store, **options) == local
    there = contents(store)
    assert {n: (tmp_path / "index" / n).read_bytes() for n in there} | {
        "calibration.json": there["calibration.json"]
    } == there  # a calibration ends by the clock
    assert_same(store, tmp_path / "index")
    assert teravec.info(store)["ntotal"] == 1000
    teravec.verify(store)
    teravec.build(tmp_path / "base.npy", store, **options)  # there is nothing to do
    assert contents(store) == there
    with pytest.raises(OutputExists, match=f"{store} holds another index: codec"):
        teravec.build(tmp_path / "base.npy", store, **{**options, "codec": "sq8"})
    with pytest.raises(InvalidArgument, match="only a directory can be overwritten"):
        teravec.build(tmp_path / "base.npy", store, overwrite=True, **options)


def test_a_build_goes_on_after_a_store_failed(s3_endpoint: str, tmp_path: Path) -> None:
    np.save(tmp_path / "base.npy", ROWS)
    options: dict[str, Any] = {
        "nlist": NLIST,
        "codec": "sq8",
        "shards": 3,
        "slices": 2,
        "calibrate": False,
    }
    teravec.build(tmp_path / "base.npy", tmp_path / "index", **options)
    with fault_proxy(s3_endpoint) as proxy:
        there = new_store(s3_endpoint)
        store = ObjectStore(there.address, options_of(proxy.url, retry_timeout="0.1s"))
        for part in ("/build.json", "/model/", "/shards/", "/slices/00001", "/manifest.json"):
            proxy.choose = first(10**9, "500", "PUT", part)
            with pytest.raises(StorageError, match=f"{store}{part}.*cannot write"):
                teravec.build(tmp_path / "base.npy", store, **options)
            with pytest.raises(MissingFile):
                teravec.open(store)
        proxy.choose = None
        teravec.build(tmp_path / "base.npy", store, **options)
    for name, data in contents(there).items():
        assert (tmp_path / "index" / name).read_bytes() == data
    assert not [name for name in there.names() if name.startswith(("shards/", "training/"))]


def test_something_else_is_not_overwritten(store: ObjectStore) -> None:
    put(store, "notes.txt", b"x")
    with pytest.raises(OutputExists, match=r"notes\.txt found"):
        teravec.build(ROWS, store, nlist=NLIST)
    assert store.names() == ["notes.txt"]


def test_each_change_gives_what_it_gives_in_a_directory(
    store: ObjectStore, index_of: MakeIndex, tmp_path: Path
) -> None:
    local = index_of("rabitq1+sq8", ids=True)
    teravec.copy(local, store)
    for place in (local, store):
        teravec.add(place, ROWS[BASE:2500], ids=np.arange(500) * 10 + 5)
        teravec.delete(place, [0, 10, 15])
        teravec.compact(place, full=True)
        teravec.rollback(place, 2)
    assert [v.what for v in teravec.versions(store)] == [v.what for v in teravec.versions(local)]
    for version in range(5):
        assert_same(store, local, version)
    assert teravec.vacuum(store, older_than="0s").versions == (0, 1, 2, 3)
    assert_same(store, local)
    teravec.verify(store)
    built = index_of("sq8")
    teravec.copy(built, plain := ObjectStore(store.address / "plain", store.options))
    teravec.export_faiss(plain, tmp_path / "a.faiss")
    teravec.export_faiss(built, tmp_path / "b.faiss")
    assert (tmp_path / "a.faiss").read_bytes() == (tmp_path / "b.faiss").read_bytes()


def test_streams_are_spooled_in_the_work_directory(
    store: ObjectStore, index_of: MakeIndex, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    store = ObjectStore(store.address, store.options, str(tmp_path / "work"))
    teravec.build(
        iter([ROWS[:1000], ROWS[1000:BASE]]), store, nlist=NLIST, codec="flat", calibrate=False
    )
    teravec.add(store, iter([ROWS[BASE:2500], ROWS[2500:]]))
    assert not any((tmp_path / "work").iterdir())
    with teravec.open(store) as index:
        np.testing.assert_array_equal(
            index.search(ROWS[::100], 1, nprobe=NLIST)[1][:, 0], np.arange(0, 3000, 100)
        )


def test_writers_at_once(store: ObjectStore, index_of: MakeIndex) -> None:
    """Each version has one winner, and no change is lost."""
    teravec.copy(index_of("flat"), store)
    rows = np.split(ROWS[BASE:], 8)

    def write(number: int) -> None:
        teravec.add(store, rows[number])
        teravec.delete(store, [number])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history = teravec.versions(store)
    assert [each.number for each in history] == list(range(len(history)))
    assert [each.parent for each in history[1:]] == list(range(len(history) - 1))
    joined = [each for each in history if each.what.startswith("compact")]  # by an addition
    assert len(history) - len(joined) == 17
    assert history[-1].ntotal == len(ROWS)
    assert history[-1].deleted_ids == 8
    with teravec.open(store) as index:
        found = index.search(ROWS, 1, nprobe=NLIST)
    there = np.arange(len(ROWS)) >= 8
    assert (found[0][there, 0] == 0).all()
    assert len(np.unique(found[1][there, 0])) == there.sum()
    assert not [name for name in store.names() if name.startswith("adding/")]


def test_the_same_addition_twice_at_once_is_made_once(
    store: ObjectStore, index_of: MakeIndex
) -> None:
    """A second process goes on with a change whose first is alive, as nothing tells it."""
    teravec.copy(index_of("flat"), store)
    barrier = threading.Barrier(2)
    errors = []

    def write() -> None:
        barrier.wait()
        try:
            teravec.add(store, ROWS[BASE:], append=True)
        except (OutputExists, MissingFile) as error:
            errors.append(error)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    added = sum(each.what.startswith("add") for each in teravec.versions(store))
    assert 1 <= added <= 2  # two, if neither saw the other's record
    assert teravec.info(store)["ntotal"] == BASE + added * (len(ROWS) - BASE)
    teravec.verify(store)


def test_vacuum_spares_what_may_be_in_progress(store: ObjectStore, index_of: MakeIndex) -> None:
    teravec.copy(index_of("flat"), store)

    class Stop(Exception):
        pass

    before, create = set(store.names()), ObjectStore.create

    def stop(self: ObjectStore, name: str, data: bytes) -> None:
        if name == "versions/0000000001.json":
            raise Stop
        create(self, name, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectStore, "create", stop)
        with pytest.raises(Stop):
            teravec.add(store, ROWS[BASE:])
    assert len(list_pending(IndexPaths(store))) == 1
    written = set(store.names()) - before
    assert any(name.startswith("segments/") for name in written)
    teravec.vacuum(store, older_than="0s")
    assert set(store.names()) - before == written
    teravec.vacuum(store, older_than="0s", grace="0s")
    assert set(store.names()) - before == {"versions/0000000000.json"}
    # A change that vacuum took for a killed one does not commit.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "teravec.writing.adding.check_pending",
            lambda pending, check=teravec.index.pending.check_pending: (
                pending.record.remove(),
                check(pending),
            ),
        )
        with pytest.raises(OutputExists, match="this change was ended meanwhile"):
            teravec.add(store, ROWS[BASE:])
    assert len(teravec.versions(store)) == 1


def test_copies(store: ObjectStore, index_of: MakeIndex, tmp_path: Path) -> None:
    local = index_of("rabitq2+flat")
    first_copy = teravec.copy(local, store)
    assert (first_copy.version, first_copy.kept) == (0, 0)
    assert contents(store) == {n: (local / n).read_bytes() for n in store.names()}
    assert teravec.copy(local, store).files == 0
    teravec.add(local, ROWS[BASE:])
    teravec.delete(local, [3])
    assert teravec.copy(local, store, version=1).files == 2
    assert_same(store, local, 1)
    assert teravec.copy(local, store).version == 2
    assert_same(store, local)
    back = tmp_path / "back"
    teravec.copy(store, back, version=1)
    assert [each.number for each in teravec.versions(back)] == [1]
    assert_same(back, local, 1)
    teravec.add(back, ROWS[:3])
    with pytest.raises(OutputExists, match="another version of this number"):
        teravec.copy(local, back)
    with pytest.raises(OutputExists, match="another index found"):
        teravec.copy(index_of("sq8"), store)
    with pytest.raises(OutputExists, match="a new or empty place"):
        teravec.copy(store, tmp_path)


def test_a_copy_goes_on_and_finds_damage(store: ObjectStore, index_of: MakeIndex) -> None:
    local = index_of("sq8")
    teravec.copy(local, store)
    put(store, "slices/00001.lists", b"x" * store.size("slices/00001.lists"))
    store.remove("manifest.json")
    store.remove("slices/00002.lists")
    copied = teravec.copy(local, store)
    assert copied.files == 2
    teravec.verify(store)
    damaged = bytearray((local / "slices/00001.lists").read_bytes())
    damaged[5000] ^= 1
    (local / "slices/00001.lists").write_bytes(damaged)
    store.remove("slices/00001.lists")
    with pytest.raises(CorruptFile, match=r"slices/00001\.lists"):
        teravec.copy(local, store)
    assert not store.exists("slices/00001.lists")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
