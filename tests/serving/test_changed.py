"""An index that was changed is served as it is searched here, by any split of its lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import teravec
from tests.conftest import clustered
from tests.serving.conftest import NLIST, QUERIES, D, Launch, addresses, built, url


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
