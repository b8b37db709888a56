"""A new version by restarts, one process at a time, in any order: no request is lost."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import teravec
from teravec.serving.deploy.program import Server
from teravec.serving.server.served import index_version, version_beside
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.peer import ServerPeer
from teravec.serving.wire.security import ClientSecurity
from tests.serving.conftest import NLIST, QUERIES, Launch, addresses, built, url
from tests.serving.test_changes import Load, true_ids
from tests.serving.test_faults import until


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("restarts")
    return [built(root, seed=seed, calibrate=False) for seed in (30, 31)]


class Fleet:
    """Servers of two ranges and two coordinators, behind a link, that are restarted."""

    def __init__(self, serve: Launch, link: Path) -> None:
        self._serve, self._link = serve, link
        self._options: list[dict[str, Any]] = [{"lists": "0:30"}, {"lists": "30:60"}]
        self.processes = [serve(link, **options) for options in self._options]
        servers = addresses(self.processes)
        self._options += [{"servers": servers}] * 2
        self.processes += [serve(link, **options) for options in self._options[2:]]

    @property
    def urls(self) -> str:
        return ",".join(url(front) for front in self.processes[2:])

    def restart(self, number: int) -> None:
        address = self.processes[number].address
        self.processes[number].close(5)
        self.processes[number] = self._serve(self._link, listen=address, **self._options[number])

    def move(self, to: Path) -> None:
        following = self._link.with_name("following")
        following.symlink_to(to)
        following.rename(self._link)

    def versions(self) -> set[str]:
        return {server.service.info()["version"] for server in self.processes}


@pytest.mark.parametrize("order", ["0123", "2301", "2013"])
def test_restarts_one_by_one(order: str, two: list[Path], serve: Launch, tmp_path: Path) -> None:
    # Beside each other, as versions of an index are kept.
    link = two[0].parent / f"current-{order}"
    link.symlink_to(two[0])
    fleet = Fleet(serve, link)
    load = Load(fleet.urls, [true_ids(path) for path in two], clients=2)
    with load.running():
        time.sleep(0.3)
        fleet.move(two[1])
        for number in map(int, order):
            fleet.restart(number)
            time.sleep(0.7)
        until(lambda: len(fleet.versions()) == 1)
        time.sleep(0.2)
    assert load.errors == []
    assert len(load.times) > 50
    with teravec.connect(fleet.urls) as remote:
        np.testing.assert_array_equal(remote.search(QUERIES, 10, NLIST)[1], true_ids(two[1]))


def test_a_server_that_comes_late_has_what_is_wanted(
    two: list[Path], serve: Launch, tmp_path: Path
) -> None:
    """As after a reboot, when the path had moved on meanwhile."""
    link = two[0].parent / "current-late"
    link.symlink_to(two[0])
    first, other = serve(link, lists="0:30"), serve(link, lists="30:60")
    coordinator = serve(link, servers=addresses([first, other]))
    address = first.address
    first.close()
    link.unlink()
    link.symlink_to(two[1])
    late = serve(link, listen=address, lists="0:30", idle_s=0.5)
    with teravec.connect(url(coordinator)) as remote:
        np.testing.assert_array_equal(remote.search(QUERIES, 10, NLIST)[1], true_ids(two[0]))
        assert len(open_versions(late)) == 2
        assert open_versions(late)[0].cached_bytes == 0
        for server in (coordinator, other):
            server.reload()
        until(lambda: remote.info()["version"] == open_versions(late)[-1].version)
        until(lambda: len(open_versions(late)) == 1)


def open_versions(server: Server) -> Any:
    return server.service.backend.versions.open


def test_only_the_named_version_beside_is_opened(two: list[Path], tmp_path: Path) -> None:
    from teravec.index.manifest import read_manifest
    from teravec.storage.layout import IndexPaths

    version = index_version(read_manifest(IndexPaths(two[0])))
    assert version_beside(two[1], version, two[0].name) == two[0].resolve()
    link = tmp_path / "link"
    link.symlink_to(two[1])
    assert version_beside(link, version, two[0].name) == two[0].resolve()
    assert version_beside(two[1], "another", two[0].name) is None
    far = f"../{two[0].parent.name}/{two[0].name}"
    for name in ("", ".", "..", "none", "x\0y", far, str(two[0]), f"{two[0].name}/", "\ud800"):
        assert version_beside(two[1], version, name) is None


def test_callers_cannot_have_much_opened(two: list[Path], serve: Launch) -> None:
    server = serve(two[0])
    peer = ServerPeer(url(server), ClientSecurity())
    try:
        for start in itertools.count(0, 100):
            names = {f"version-{n}": two[1].name for n in range(start, start + 100)}
            body = teravec_json({"wanted": names})
            assert peer.tell("statistics", Deadline.after(5), body)["ready"]
            if start == 500:
                break
        backend: Any = server.service.backend
        assert backend.looked_for <= 64
        assert len(open_versions(server)) == 1
        for bad in (b"x", b"[]", b'{"wanted": 3}', b'{"wanted": ["a"]}'):
            with pytest.raises(teravec.ProtocolError, match="wanted"):
                peer.tell("statistics", Deadline.after(5), bad)
    finally:
        peer.close()


def teravec_json(content: object) -> bytes:
    import json

    return json.dumps(content).encode()
