"""Caches that are given up, or leave room to others, while searches go on."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import teravec
from tests.conftest import clustered

N, D, NLIST = 8000, 32, 40
QUERIES = clustered(60, D, seed=8)
CODECS = ["sq8", "rabitq2+sq8"]


@pytest.fixture(scope="module", params=CODECS)
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("caches")
    np.save(root / "x.npy", clustered(N, D, seed=2))
    out = root / "index"
    teravec.build(
        root / "x.npy", out, nlist=NLIST, codec=request.param, niter=3, slices=2, calibrate=False
    )
    return out


def test_released_caches_keep_nothing_and_find_the_same(index: Path) -> None:
    with teravec.open(index) as opened:
        true = [opened.search(QUERIES, 10, nprobe) for nprobe in (NLIST, 5)]
        assert opened.caches.kept_bytes > N * 8
        opened.caches.release()
        assert opened.caches.kept_bytes == 0
        assert opened.caches.lists.capacity_bytes == 0
        if opened.caches.refiner is not None:
            assert opened.caches.refiner.capacity_bytes == 0
        for nprobe, (distances, ids) in zip((NLIST, 5), true, strict=True):
            found = opened.search(QUERIES, 10, nprobe)
            np.testing.assert_array_equal(found[0], distances)
            np.testing.assert_array_equal(found[1], ids)
        assert opened.caches.kept_bytes == 0


def test_what_is_held_back_stays_free(index: Path) -> None:
    with teravec.open(index) as opened:
        opened.search(QUERIES, 10, NLIST)
        whole = opened.caches.kept_bytes
    with teravec.open(index) as opened:
        lists = opened.caches.lists.capacity_bytes
        fine = opened.caches.refiner
        capacity = lists + (fine.capacity_bytes if fine is not None else 0)
        opened.caches.hold_back(capacity)
        for query in QUERIES:
            opened.search(query[None], 10, NLIST)
        assert opened.caches.kept_bytes == 0
        opened.caches.hold_back(0)
        opened.search(QUERIES, 10, NLIST)
        assert opened.caches.kept_bytes == whole


def test_release_while_others_search(index: Path) -> None:
    with teravec.open(index) as local:
        true = local.search(QUERIES, 10, 20)[1]
    wrong: list[int] = []
    for _ in range(8):
        with teravec.open(index) as opened:
            done = threading.Event()

            def search(opened: teravec.Index = opened, done: threading.Event = done) -> None:
                row = 0
                while not done.is_set() or row % 20:
                    row = (row + 1) % len(QUERIES)
                    found = opened.search(QUERIES[row : row + 1], 10, 20)[1][0]
                    if not np.array_equal(found, true[row]):
                        wrong.append(row)

            threads = [threading.Thread(target=search) for _ in range(3)]
            for thread in threads:
                thread.start()
            done.wait(0.05)
            opened.caches.release()
            done.set()
            for thread in threads:
                thread.join()
            assert opened.caches.kept_bytes == 0
    assert wrong == []
