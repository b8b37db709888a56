"""An index that was changed is served as it is searched here, by any split of its lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import teravec
from tests.conftest import clustered
from tests.serving.conftest import NLIST, QUERIES, D, Launch, N, addresses, built, url


@pytest.mark.parametrize("codec", ["sq8", "rabitq1+sq8"])
def test_changed_indexes_by_several_servers(tmp_path: Path, serve: Launch, codec: str) -> None:
    path = built(tmp_path, "l2", codec, calibrate=False)
    for seed in (1, 2):
        teravec.add(path, clustered(700, D, seed=seed))
    with teravec.open(path) as local:
        nearest = local.search(QUERIES, 20, NLIST)[1]
    teravec.delete(path, np.unique(nearest[:, ::2]))
    servers = [serve(path, lists=lists) for lists in ("0:11", "11:40", "40:60")]
    whole, coordinator = serve(path), serve(path, servers=addresses(servers))
    with teravec.open(path) as local:
        for server in (whole, coordinator):
            with teravec.connect(url(server)) as remote:
                assert remote.ntotal == local.ntotal
                for k, nprobe in ((1, 1), (10, 7), (30, NLIST)):
                    found = remote.search(QUERIES, k, nprobe)
                    true = local.search(QUERIES, k, nprobe)
                    np.testing.assert_array_equal(found[1], true[1])
                    np.testing.assert_array_equal(found[0], true[0])
                radius = float(np.median(local.search(QUERIES, 30, NLIST)[0][:, -1]))
                ranges = (
                    remote.range_search(QUERIES, radius, 9),
                    local.range_search(QUERIES, radius, 9),
                )
                for mine, theirs in zip(*ranges, strict=True):
                    np.testing.assert_array_equal(mine, theirs)


def test_a_reload_takes_up_the_new_version(tmp_path: Path, serve: Launch) -> None:
    path = built(tmp_path, "l2", "sq8", calibrate=False)
    server = serve(path, follow_s=None)
    with teravec.connect(url(server)) as remote:
        first = remote.search(QUERIES, 1, NLIST)[1]
        teravec.delete(path, np.unique(first))
        np.testing.assert_array_equal(remote.search(QUERIES, 1, NLIST)[1], first)
        server.service.reload()
        with teravec.connect(url(server)) as again, teravec.open(path) as local:
            found = again.search(QUERIES, 1, NLIST)[1]
            assert not np.isin(found, first).any()
            np.testing.assert_array_equal(found, local.search(QUERIES, 1, NLIST)[1])


@pytest.mark.parametrize("codec", ["sq8", "rabitq1+sq8"])
def test_an_index_that_lost_all_of_its_rows(tmp_path: Path, serve: Launch, codec: str) -> None:
    path = built(tmp_path, "l2", codec, calibrate=False)
    servers = [serve(path, lists="0:11"), serve(path, lists="11:60")]
    coordinator = serve(path, servers=addresses(servers))
    teravec.delete(path, np.arange(N))
    for compacted in (False, True):
        if compacted:
            teravec.compact(path, full=True)
        version = teravec.versions(path)[-1].number
        with teravec.open(path) as local, teravec.connect(url(coordinator)) as remote:
            assert local.ntotal == (0 if compacted else N)
            for distances, ids in (
                local.search(QUERIES, 3, 7),
                remote.search(QUERIES, 3, 7, min_version=version),
            ):
                assert (ids == -1).all()
                assert np.isinf(distances).all()
            assert len(local.range_search(QUERIES, 1e9, 7)[1]) == 0
            assert len(remote.range_search(QUERIES, 1e9, 7, min_version=version)[1]) == 0
    teravec.add(path, QUERIES[:5])
    with teravec.open(path) as local:
        assert sorted(local.search(QUERIES[:1], 5, NLIST)[1][0]) == list(range(N, N + 5))
