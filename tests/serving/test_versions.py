"""Two versions of an index: they share one limit on memory, and the old one ends."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

import teravec
from teravec.errors import OtherIndex
from teravec.search.effort import Effort
from teravec.serving.deploy.program import Server
from teravec.serving.server.local import LocalLists
from teravec.serving.server.served import ServedIndex
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.protocol import ListRequest, Wanted
from tests.serving.conftest import NLIST, QUERIES, Launch, addresses, built, url
from tests.serving.test_faults import until


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Versions of an index."""
    root = tmp_path_factory.mktemp("versions")
    return [built(root, seed=seed, calibrate=False) for seed in (20, 21, 22, 23)]


class Link:
    """A path that points to one version after another."""

    def __init__(self, path: Path, first: Path) -> None:
        self.path = path
        path.symlink_to(first)

    def move(self, to: Path) -> None:
        following = self.path.with_name("following")
        following.symlink_to(to)
        following.rename(self.path)


@pytest.fixture
def link(several: list[Path], tmp_path: Path) -> Link:
    return Link(tmp_path / "current", several[0])


def lists_request(path: Path, version: str) -> ListRequest:
    with teravec.open(path) as local:
        prepared, list_nos, distances = local.steps.nearest_lists(QUERIES, Effort(NLIST))
    counts = np.full(len(QUERIES), NLIST, np.uint32)
    return ListRequest(
        version,
        prepared,
        counts,
        list_nos.ravel().astype(np.uint32),
        distances.ravel(),
        Wanted(k=10),
        10.0,
    )


def versions_of(server: Server) -> tuple[ServedIndex, ...]:
    return server.service.backend.versions.open


def test_the_old_one_gives_its_memory_up_and_answers(
    several: list[Path], link: Link, serve: Launch
) -> None:
    server = serve(link.path, idle_s=1.0)
    with teravec.connect(url(server)) as remote:
        true = remote.search(QUERIES, 10, NLIST)
        old = versions_of(server)[0]
        filled = old.cached_bytes
        assert filled > 100_000
        link.move(several[1])
        server.reload()
        assert [len(versions_of(server)), old.cached_bytes] == [2, 0]
        request = lists_request(several[0], old.version)
        for _ in range(2):
            answer = server.service.backend.search_lists(request, Deadline.after(10))
            distances, ids = answer.top_k(10, np.inf)
            np.testing.assert_array_equal(distances, true[0])
            np.testing.assert_array_equal(ids, true[1])
        remote.search(QUERIES, 10, NLIST)
        assert sum(version.cached_bytes for version in versions_of(server)) <= filled * 1.05
        until(lambda: len(versions_of(server)) == 1)
        with pytest.raises(OtherIndex, match=old.version):
            server.service.backend.search_lists(request, Deadline.after(10))
        with pytest.raises(teravec.InvalidArgument, match="closed"):
            old.nearest_lists(QUERIES, Effort(4))


def test_the_new_one_leaves_room_for_the_old_model(
    several: list[Path], link: Link, serve: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(link.path, idle_s=0.5)
    held: list[int] = []
    hold_back = ServedIndex.hold_back

    def noted(index: ServedIndex, size: int) -> None:
        held.append(size)
        hold_back(index, size)

    monkeypatch.setattr(ServedIndex, "hold_back", noted)
    model_bytes = versions_of(server)[0].model_bytes
    link.move(several[1])
    server.reload()
    until(lambda: len(held) == 2)
    assert held == [model_bytes, 0]
    assert model_bytes > 0


def test_never_more_than_two(several: list[Path], link: Link, serve: Launch) -> None:
    server = serve(link.path)
    opened = [versions_of(server)[0]]
    with teravec.connect(url(server)) as remote:
        for path in (*several[1:], *several):
            remote.search(QUERIES, 10, NLIST)
            link.move(path)
            server.reload()
            opened.append(versions_of(server)[-1])
            assert len(versions_of(server)) == 2
            assert [index.is_closed for index in opened[:-2]] == [True] * (len(opened) - 2)
            assert versions_of(server)[0].cached_bytes == 0


def test_a_request_under_way_keeps_its_version(
    several: list[Path], tmp_path: Path, link: Link, serve: Launch
) -> None:
    server = serve(link.path, idle_s=0.1)
    versions = server.service.backend.versions
    with versions.using() as old:
        for path in several[1:3]:
            link.move(path)
            server.reload()
        time.sleep(0.3)
        assert not old.is_closed
        old.nearest_lists(QUERIES, Effort(4))
    assert old.is_closed


def test_a_version_that_a_coordinator_wants_stays(
    several: list[Path], link: Link, serve: Launch
) -> None:
    server = serve(link.path, idle_s=0.8)
    coordinator = serve(link.path, servers=addresses([server]))
    with teravec.open(several[0]) as local:
        true = local.search(QUERIES, 10, NLIST)[1]
    link.move(several[1])
    server.reload()
    time.sleep(1.8)  # without one request: the coordinator's polls tell
    with teravec.connect(url(coordinator)) as remote:
        np.testing.assert_array_equal(remote.search(QUERIES, 10, NLIST)[1], true)
        before = versions_of(coordinator)[0]
        coordinator.reload()
        until(lambda: versions_of(coordinator)[-1] is not before)
        until(lambda: before.is_closed)  # nobody names a version to a coordinator
        until(lambda: len(versions_of(server)) == 1)
        assert len(remote.search(QUERIES, 10, NLIST)[1]) == len(QUERIES)


def test_closing_ends_the_waiting_timer(several: list[Path], link: Link, serve: Launch) -> None:
    server = serve(link.path)
    link.move(several[1])
    server.reload()
    assert any(thread.name == "teravec-versions" for thread in threading.enumerate())
    assert isinstance(server.service.backend, LocalLists)
    server.service.backend.versions.close()
    until(lambda: all(thread.name != "teravec-versions" for thread in threading.enumerate()))
