"""Servers and coordinators go over to new versions by themselves, and drop no request."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pyarrow as pa
import pytest

import teravec
from teravec.errors import OldVersion, OtherIndex
from teravec.serving.server.versions import MOST_OPEN
from teravec.serving.wire.security import Address
from tests.conftest import clustered
from tests.serving.conftest import NLIST, QUERIES, D, Launch, addresses, built, url
from tests.serving.test_changes import Load, true_ids
from tests.serving.test_faults import until

NEW = clustered(400, D, seed=77)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return built(tmp_path, "l2", "flat", calibrate=False)


def added(path: Path, row: int, count: int = 1) -> int:
    """Add some rows; return the version."""
    return teravec.add(path, NEW[row : row + count]).number


def test_a_server_follows(path: Path, serve: Launch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "teravec.serving")
    server = serve(path)
    with teravec.connect(url(server)) as remote:
        remote.search(QUERIES, 10, NLIST)
        first = server.service.backend.versions.current
        teravec.add(path, NEW[:50])
        nearest = remote.search(NEW[:1], 1, NLIST, min_version=1)[1]
        teravec.delete(path, nearest[0])
        until(lambda: remote.info()["number"] == 2)
        with teravec.open(path) as local:
            true = local.search(QUERIES, 10, NLIST)
            found = remote.search(QUERIES, 10, NLIST)
            for mine, theirs in zip(found, true, strict=True):
                np.testing.assert_array_equal(mine, theirs)
        assert remote.search(NEW[:1], 1, NLIST)[1] != nearest
    current = server.service.backend.versions.current
    assert current.shares_with(first)
    text = server.service.metrics.text().decode()
    assert "teravec_index_version_number 2.0" in text
    assert "teravec_follow_failures_total 0.0" in text
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("serving version 2 (") for line in lines)


def test_versions_come_quickly_and_no_request_fails(path: Path, serve: Launch) -> None:
    servers = [serve(path, lists="0:25", follow_s=0.02), serve(path, lists="25:60", follow_s=0.1)]
    coordinator = serve(path, servers=addresses(servers), follow_s=0.02)
    expected = [true_ids(path)]
    load = Load(url(coordinator), expected, clients=3)
    with load.running(), teravec.connect(url(coordinator)) as remote:
        for number in range(MOST_OPEN + 4):
            if number % 4 == 1:
                gone = expected[-1][number % len(QUERIES), :3]
                version = teravec.delete(path, gone).number
            elif number % 4 == 3:
                compacted = teravec.compact(path)
                version = version if compacted is None else compacted.number
            else:
                version = added(path, 5 * number, 5)
            expected.append(true_ids(path))
            if number % 3 == 2:
                found = remote.search(QUERIES, 10, 60, min_version=version)[1]
                np.testing.assert_array_equal(found, expected[-1])
        until(lambda: remote.info()["number"] == version)
        assert [server["state"] for server in remote.statistics()["servers"]] == ["live"] * 2
    assert load.errors == []
    assert load.times
    for server in servers:
        assert len(server.service.backend.versions.open) <= MOST_OPEN


def test_lists_that_a_rebalance_appends_have_an_owner(path: Path, serve: Launch) -> None:
    servers = [serve(path, lists="0:25"), serve(path, lists="25:")]
    coordinator = serve(path, servers=addresses(servers))
    near = np.random.default_rng(0).normal(NEW[7], 0.02, (3000, D)).astype(np.float32)
    teravec.add(path, near)
    rebalanced = teravec.rebalance(path)
    assert rebalanced is not None
    assert rebalanced.nlist > NLIST
    with teravec.connect(url(coordinator)) as remote, teravec.open(path) as local:
        found = remote.search(near[:50], 10, rebalanced.nlist, min_version=rebalanced.number)
        for mine, theirs in zip(found, local.search(near[:50], 10, local.nlist), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_every_answer_is_of_one_version(path: Path, serve: Launch) -> None:
    """Each version moves one vector to another id: a mix would have both ids, or none."""
    servers = [serve(path, lists="0:25", follow_s=0.05), serve(path, lists="25:60", follow_s=0.2)]
    coordinator = serve(path, servers=addresses(servers))
    vectors = np.stack([NEW[0], -NEW[0]])  # far from each other, so of two servers' lists
    teravec.add(path, vectors, ids=np.array([10**6, 10**6 + 1]))
    wrong: list[str] = []
    stop = threading.Event()
    with teravec.connect(url(coordinator)) as remote:
        remote.refresh(1)

        def ask() -> None:
            while not stop.is_set():
                ids = remote.search(vectors, 1, 60)[1][:, 0] - 10**6
                pair = ids // 2
                if pair[0] != pair[1] or ids[0] % 2 or not ids[1] % 2:
                    wrong.append(str(ids))

        thread = threading.Thread(target=ask)
        thread.start()
        for number in range(1, 6):
            ids = 10**6 + 2 * number + np.array([0, 1])
            teravec.add(path, vectors * (1 + 1e-4 * number), ids=ids)
            teravec.delete(path, ids - 2)
            time.sleep(0.3)
        stop.set()
        thread.join()
    # Between an addition and the deletion both pairs are there; the nearest is the older one.
    assert wrong == []


def test_clients_read_their_own_writes(path: Path, serve: Launch) -> None:
    server = serve(path, http=Address("127.0.0.1", 0))
    coordinator = serve(path, servers=addresses([server]))
    with teravec.connect(url(server)) as whole, teravec.connect(url(coordinator)) as remote:
        for number in range(3):
            version = added(path, number)
            for each in (remote, whole):
                distances, _ = each.search(NEW[number], 1, NLIST, min_version=version)
                assert distances[0] < 0.1
        version = added(path, 10)
        radius = 0.1
        assert len(remote.range_search(NEW[10], radius, NLIST, min_version=version)[2]) == 1
        http = f"http://{server.http_address}/search"
        version = added(path, 11)
        body = {"query": NEW[11].tolist(), "k": 1, "nprobe": NLIST, "min_version": version}
        with urlopen(Request(http, json.dumps(body).encode())) as answer:
            found = json.load(answer)
        assert found["number"] == version
        assert found["results"][0]["distances"][0] < 0.1
        version = added(path, 12)
        column = pa.FixedSizeListArray.from_arrays(NEW[12], D)
        sink = pa.BufferOutputStream()
        batch = pa.record_batch([column], ["query"])
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        request = Request(
            f"{http}?k=1&nprobe={NLIST}&min_version={version}",
            sink.getvalue().to_pybytes(),
            {"content-type": "application/vnd.apache.arrow.stream"},
        )
        with urlopen(request) as answer:
            table = pa.ipc.open_stream(answer.read()).read_all()
        assert table.schema.metadata[b"number"] == str(version).encode()
        assert table["distance"][0].as_py() < 0.1


def test_a_version_that_does_not_come_is_an_error_that_says_so(path: Path, serve: Launch) -> None:
    server = serve(path, follow_s=None)
    added(path, 0)
    with teravec.connect(url(server)) as remote:
        with pytest.raises(OldVersion, match=r"version 1 or .* has version 0 .* \(--no-follow\)"):
            remote.search(QUERIES, 5, 4, min_version=1, timeout_s=0.8)
        assert remote.search(QUERIES, 5, 4, min_version=0)[1].shape == (len(QUERIES), 5)
        with pytest.raises(teravec.InvalidArgument, match="min_version"):
            remote.search(QUERIES, 5, 4, min_version=-1)
    with pytest.raises(OldVersion, match="has version 0"):
        teravec.connect(url(server), min_version=1, timeout_s=0.5)


def test_a_source_of_queries_is_answered_by_one_version(
    path: Path, serve: Launch, tmp_path: Path
) -> None:
    server = serve(path, follow_s=0.02)
    with teravec.connect(url(server)) as remote:
        effort, seal = remote.effort(NLIST), remote.seal
        true = remote.search_at(QUERIES, 5, effort)[1]
        added(path, 0, 30)
        until(lambda: remote.info()["number"] == 1)
        np.testing.assert_array_equal(remote.search_at(QUERIES, 5, effort)[1], true)
        remote.refresh()
        assert (remote.version, remote.seal != seal, remote.ntotal) == (1, True, 6030)
        with teravec.open(path) as local:
            newer = local.search(QUERIES, 5, NLIST)[1]
        np.testing.assert_array_equal(remote.search_at(QUERIES, 5, effort)[1], newer)
        for number in range(MOST_OPEN + 2):
            version = added(path, 50 + number)
            until(lambda version=version: remote.info()["number"] >= version)  # type: ignore[misc]
        with pytest.raises(OtherIndex, match="connect and search again"):
            remote.search_at(QUERIES, 5, effort)


def test_a_version_that_cannot_be_opened_changes_nothing(
    path: Path, serve: Launch, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(path, follow_s=0.02)
    with teravec.connect(url(server)) as remote:
        true = remote.search(QUERIES, 10, NLIST)[1]
        (path / "versions").mkdir()
        (path / "versions" / ".new").write_text("{}")
        (path / "versions" / ".new").rename(path / "versions" / "0000000001.json")
        until(lambda: "teravec_follow_failures_total 0.0" not in metrics_of(server))
        time.sleep(0.2)
        np.testing.assert_array_equal(remote.search(QUERIES, 10, NLIST)[1], true)
        (path / "versions" / "0000000001.json").unlink()
        version = added(path, 0)
        assert remote.search(NEW[:1], 1, NLIST, min_version=version)[0] < 0.1
    failures = [r for r in caplog.records if "cannot follow the index" in r.getMessage()]
    assert len(failures) == 1  # however often it was tried


def metrics_of(server: object) -> str:
    return server.service.metrics.text().decode()  # type: ignore[attr-defined,no-any-return]


def test_numbers_that_were_removed_are_passed_over(path: Path, serve: Launch) -> None:
    server = serve(path, follow_s=None)
    for number in range(3):
        added(path, number)
    teravec.compact(path, purge=True)
    assert not (path / "versions" / "0000000001.json").exists()
    backend = server.service.backend
    for _ in range(20):
        backend.follow()
    assert backend.versions.current.number == 4


def test_an_earlier_version_that_a_coordinator_wants_gets_a_place(
    path: Path, serve: Launch
) -> None:
    server = serve(path, follow_s=None)
    backend = server.service.backend
    first = backend.versions.current.version
    for number in range(MOST_OPEN + 1):
        added(path, number)
        backend.follow()
    opened = {index.version for index in backend.versions.open}
    assert len(opened) == MOST_OPEN
    assert first not in opened
    backend.want({first: ""})
    until(lambda: first in {index.version for index in backend.versions.open})
    assert len(backend.versions.open) == MOST_OPEN
    # An addition may join small segments, in a version of its own.
    assert backend.versions.current.number == teravec.versions(path)[-1].number
