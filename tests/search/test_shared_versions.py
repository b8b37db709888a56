"""Versions of an index that are open at the same time share what both have."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import teravec
from teravec.search.effort import Effort
from tests.conftest import clustered

N, D, NLIST = 1500, 16, 12
QUERIES = clustered(20, D, seed=9)
CODECS = ["sq8", "rabitq1+sq8"]


@pytest.fixture(scope="module", params=CODECS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shared") / "index"
    teravec.build(
        clustered(N, D, seed=1),
        out,
        ids=np.arange(N),
        nlist=NLIST,
        codec=request.param,
        niter=2,
        slices=2,
        calibrate=False,
    )
    return out


@pytest.fixture
def path(built: Path, tmp_path: Path) -> Path:
    shutil.copytree(built, tmp_path / "index")
    return tmp_path / "index"


def add(path: Path, ids: np.ndarray, seed: int) -> None:
    teravec.add(path, clustered(len(ids), D, seed=seed), ids=ids)


def assert_as_fresh(index: teravec.Index) -> None:
    with teravec.open(index.root, version=index.version) as fresh:
        for nprobe in (NLIST, 3):
            found, true = index.search(QUERIES, 15, nprobe), fresh.search(QUERIES, 15, nprobe)
            np.testing.assert_array_equal(found[1], true[1])
            np.testing.assert_array_equal(found[0], true[0])


def test_what_was_kept_is_not_read_again(path: Path) -> None:
    with teravec.open(path) as index:
        index.search(QUERIES, 10, NLIST)
        add(path, np.arange(N, N + 50), 2)
        model, read = index.steps.opened.model, index.stats.lists_read
        assert index.refresh()
        assert index.steps.opened.model is model
        assert_as_fresh(index)
        new = index.stats.lists_read - read
        assert 0 < new <= NLIST  # the runs of the new segment
        assert index.ntotal == N + 50
        teravec.compact(path, full=True)
        read = index.stats.lists_read
        assert index.refresh()
        assert_as_fresh(index)
        assert index.stats.lists_read == read + NLIST  # all runs are others


def test_small_new_segments_are_read_at_once(path: Path) -> None:
    for number in range(5):
        add(path, np.arange(40) + 40 * number, 3 + number)
    with teravec.open(path) as index:
        index.search(QUERIES[:1], 1, 1)  # one list of 12
        read = index.stats.lists_read
        assert read > 4 * NLIST // 2
        found = index.search(QUERIES, 10, NLIST)
        assert index.stats.lists_read - read < NLIST
    with teravec.open(path, keep_lists=False) as index:
        np.testing.assert_array_equal(index.search(QUERIES, 10, NLIST)[1], found[1])


def test_a_damaged_small_segment_is_an_error_of_searches_that_want_it(path: Path) -> None:
    add(path, np.arange(200), 4)
    (new,) = (path / "segments").glob("*.lists")
    with teravec.open(path, version=1) as index:
        lists = index.steps.opened.segments[-1]
        sizes = np.diff(lists.starts)
        damaged = int(np.flatnonzero(sizes)[-1])
        at = int(lists.code_offset(int(lists.starts[damaged])))
    data = bytearray(new.read_bytes())
    data[at] ^= 1
    new.write_bytes(data)
    with teravec.open(path) as index:
        _, nearest, _ = index.steps.nearest_lists(QUERIES, Effort(1))
        sound = np.flatnonzero(nearest[:, 0] != damaged)
        index.search(QUERIES[sound], 5, 1)
        with pytest.raises(teravec.CorruptFile, match=new.name):
            index.search(QUERIES, 5, NLIST)


def test_either_version_may_be_closed_first(path: Path) -> None:
    first = teravec.open(path)
    first.search(QUERIES, 10, NLIST)
    add(path, np.arange(60), 5)
    second = first.at_version()
    teravec.delete(path, np.arange(100))
    third = second.at_version()
    assert [index.version for index in (first, second, third)] == [0, 1, 2]
    for index in (third, first, second):
        assert_as_fresh(index)
    first.close()
    assert_as_fresh(third)
    third.close()
    assert_as_fresh(second)
    older = second.at_version(0)
    second.close()
    assert_as_fresh(older)
    older.close()


def test_memory_that_does_not_fit_begins_anew(path: Path) -> None:
    with teravec.open(path) as index:
        index.search(QUERIES, 10, NLIST)
        add(path, np.arange(N, 3 * N), 6)  # more than was set aside for later versions
        assert index.refresh()
        assert_as_fresh(index)
        assert index.caches.kept_bytes > 0


OPS = st.sampled_from(["add", "replace", "delete", "compact", "full", "rollback", "close"])


@settings(max_examples=4, deadline=None)
@given(ops=st.lists(OPS, min_size=4, max_size=7), seed=st.integers(0, 1000))
def test_any_changes_are_found_by_all_open_versions(
    built: Path, tmp_path_factory: pytest.TempPathFactory, ops: list[str], seed: int
) -> None:
    path = tmp_path_factory.mktemp("changes") / "index"
    shutil.copytree(built, path)
    rng, next_id = np.random.default_rng(seed), N
    indexes = [teravec.open(path)]
    try:
        for op in ops:
            if op == "add":
                add(path, np.arange(next_id, next_id + 30), seed)
                next_id += 30
            elif op == "replace":
                add(path, rng.choice(next_id, 40, replace=False), seed + 1)
            elif op == "delete":
                teravec.delete(path, rng.choice(next_id, 60, replace=False))
            elif op in ("compact", "full"):
                teravec.compact(path, full=op == "full")
            elif op == "rollback":
                older = teravec.versions(path)[:-1]
                if older:
                    teravec.rollback(path, older[int(rng.integers(len(older)))].number)
            elif len(indexes) > 1:
                indexes.pop(int(rng.integers(len(indexes)))).close()
            indexes.append(indexes[-1].at_version())
            assert_as_fresh(indexes[-1])
            assert_as_fresh(indexes[int(rng.integers(len(indexes)))])
    finally:
        for index in indexes:
            index.close()


def test_searches_of_an_older_version_go_on(path: Path) -> None:
    with teravec.open(path) as index:
        true = index.search(QUERIES, 10, 6)[1]
        stop, wrong = threading.Event(), []

        def search() -> None:
            row = 0
            while not stop.is_set():
                row = (row + 1) % len(QUERIES)
                found = index.search(QUERIES[row : row + 1], 10, 6)[1][0]
                if not np.array_equal(found, true[row]):
                    wrong.append(row)

        threads = [threading.Thread(target=search) for _ in range(2)]
        for thread in threads:
            thread.start()
        newer = [index]
        for number in range(8):
            add(path, np.arange(40) + 40 * number, number)
            if number == 5:
                teravec.compact(path)
            newer.append(newer[-1].at_version())
            newer[-1].search(QUERIES, 10, 6)
            if number > 2:
                newer.pop(1).close()
        stop.set()
        for thread in threads:
            thread.join()
        for each in newer[1:]:
            assert_as_fresh(each)
            each.close()
    assert wrong == []
