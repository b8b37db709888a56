"""What an operator sees of servers that are lost, damaged or back: one line each, and gauges."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

import teravec
from teravec.errors import CorruptFile
from teravec.serving.deploy.program import Server
from tests.serving.conftest import QUERIES, Launch, Process, addresses, built, url
from tests.serving.test_faults import assert_exact, state_of, until

Spawn = Callable[..., Process]


def gauges(server: Server) -> dict[tuple[str, ...], float]:
    """All samples, by name and the values of their labels."""
    families = text_string_to_metric_families(server.service.metrics.text().decode())
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def lines(caplog: pytest.LogCaptureFixture, server: Server | None = None) -> list[str]:
    """What was logged of servers, or of one, at warning and above."""
    word = "server " if server is None else str(server.address)
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and word in record.getMessage()
    ]


def damage(path: Path, to: Path, every: int = 1009) -> Path:
    """A copy of an index whose slices are damaged all over."""
    shutil.copytree(path, to)
    for part in (to / "slices").iterdir():
        data = bytearray(part.read_bytes())
        for at in range(300, len(data) * 2 // 3, every):
            data[at] ^= 0x55
        part.write_bytes(data)
    return to


def test_a_lost_server_is_one_line_and_a_gauge(
    index: Path, serve: Launch, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = serve(index), serve(index, lists="0:30")
    coordinator = serve(index, servers=addresses([one, two]))
    name = str(two.address)
    before = gauges(coordinator)
    assert before["teravec_server_up", name] == 1
    assert before["teravec_lists_covered_ratio",] == 1
    assert before["teravec_lists_one_owner_ratio",] == 0.5
    version = coordinator.service.info()["version"]
    assert before["teravec_index_info", version] == 1
    assert lines(caplog) == []  # all is as it should be
    with teravec.connect(url(coordinator)) as remote:
        two.close()
        until(lambda: gauges(coordinator)["teravec_server_up", name] == 0)
        assert_exact(remote, index, rounds=10)
        until(lambda: bool(lines(caplog, two)))
        after = gauges(coordinator)
        assert after["teravec_server_state", name, "down"] == 1
        assert after["teravec_server_state", name, "live"] == 0
        assert after["teravec_lists_one_owner_ratio",] == 1
        assert after["teravec_server_failures_total", name] > 0
        # Shutting down, then down.
        assert len(lines(caplog, two)) in (1, 2)
        assert "is down: no server answers" in lines(caplog, two)[-1]
        one.close()
        until(lambda: gauges(coordinator)["teravec_lists_covered_ratio",] == 0)
        assert gauges(coordinator)["teravec_ready",] == 0


def test_a_server_of_another_version_and_its_return(
    index: Path, serve: Launch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    link = tmp_path / "current"
    link.symlink_to(built(tmp_path, seed=11, calibrate=False))
    right, other = serve(index), serve(link)
    coordinator = serve(index, servers=addresses([right, other]))
    until(lambda: len(lines(caplog, other)) == 1)
    assert "is refused: serves index version" in lines(caplog, other)[0]
    link.unlink()
    link.symlink_to(index)
    other.reload()
    until(lambda: len(lines(caplog, other)) == 2)
    assert "is live again, after refused" in lines(caplog, other)[1]
    assert gauges(coordinator)["teravec_server_up", str(other.address)] == 1


def test_a_damaged_server_is_asked_last(
    index: Path, serve: Launch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = serve(damage(index, tmp_path / "bad")), serve(index)
    coordinator = serve(index, servers=addresses([bad, good]))
    with teravec.connect(url(coordinator)) as remote:
        assert_exact(remote, index, rounds=30)
        assert state_of(remote, bad)["state"] == "damaged"
        calls = state_of(remote, bad)["calls"]
        assert_exact(remote, index, rounds=10)
        assert state_of(remote, bad)["calls"] == calls <= 5
        assert state_of(remote, bad)["failures"] >= 3
        assert [line for line in lines(caplog, bad) if "is damaged: " in line] == lines(caplog, bad)
        assert len(lines(caplog, bad)) == 1
        assert gauges(coordinator)["teravec_server_up", str(bad.address)] == 0
        until(lambda: state_of(remote, bad)["damaged_lists"] > 0)
        good.close()  # now no other owner exists
        until(lambda: gauges(coordinator)["teravec_server_up", str(good.address)] == 0)
        assert gauges(coordinator)["teravec_lists_covered_ratio",] == 1
        with pytest.raises(
            teravec.TeravecError, match=r"no live owner \(.* is damaged: .*checksum"
        ):
            remote.search(QUERIES, 10, 60, timeout_s=2)
        assert state_of(remote, bad)["calls"] > calls


def test_the_owner_logs_each_damaged_list_once(
    index: Path, serve: Launch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = damage(index, tmp_path / "bad")
    server = serve(bad)
    with teravec.connect(url(server)) as remote:
        for _ in range(3):
            for row in range(10):
                with contextlib.suppress(CorruptFile):
                    remote.search(QUERIES[row : row + 1], 10, 2)
        met = remote.statistics()
        assert 0 < met["damaged_lists"] <= 60
        assert "checksum" in met["damage"][0]
        told = [r.getMessage() for r in caplog.records if "damaged: " in r.getMessage()]
        assert len(told) == met["damaged_lists"] == len(set(told))
        assert gauges(server)["teravec_damaged_lists",] == met["damaged_lists"]
        shutil.rmtree(bad)
        shutil.copytree(index, bad)  # repaired: the same version, and other files
        server.reload()
        assert remote.statistics()["damaged_lists"] == 0
        assert_exact(remote, index)


def test_gauges_of_queue_and_reloads(index: Path, serve: Launch, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(index, copy)
    server = serve(copy)
    before = gauges(server)
    assert before["teravec_queue_requests",] == 0
    assert before["teravec_last_reload_success",] == 1
    (copy / "manifest.json").write_bytes(b"{}")
    server.reload()
    failed = gauges(server)
    assert failed["teravec_last_reload_success",] == 0
    assert (
        failed["teravec_last_reload_timestamp_seconds",]
        == before["teravec_last_reload_timestamp_seconds",]
    )
    shutil.copy(index / "manifest.json", copy)
    server.reload()
    after = gauges(server)
    assert after["teravec_last_reload_success",] == 1
    assert (
        after["teravec_last_reload_timestamp_seconds",]
        > before["teravec_last_reload_timestamp_seconds",]
    )


def test_labels_are_those_of_the_topology(index: Path, serve: Launch, tmp_path: Path) -> None:
    servers = [serve(index), serve(index)]
    topology = tmp_path / "topology.json"

    def write(listed: list[Server]) -> None:
        entries = ", ".join(f'{{"address": "{server.address}"}}' for server in listed)
        topology.with_suffix(".new").write_text(f'{{"servers": [{entries}]}}')
        topology.with_suffix(".new").rename(topology)

    def named(coordinator: Server) -> set[str]:
        return {key[1] for key in gauges(coordinator) if key[0] == "teravec_server_up"}

    write(servers)
    coordinator = serve(index, topology=topology)
    assert named(coordinator) == {str(server.address) for server in servers}
    write(servers[1:])
    until(lambda: named(coordinator) == {str(servers[1].address)})


def test_lines_have_time_level_and_logger(index: Path, spawn: Spawn) -> None:
    server = spawn(str(index))
    front = spawn(str(index), "--servers", server.address, http="127.0.0.1:0")
    server.end()
    until(
        lambda: (
            f'teravec_server_up{{address="{server.address}"}} 0.0'
            in httpx.get(f"{front.http}/metrics").text
        ),
        10,
    )
    assert front.process is not None
    assert front.process.stdout is not None
    front.process.terminate()
    told = [line for line in front.process.stdout if server.address in line]
    assert len(told) == 1
    words = told[0].split()
    assert words[0].count("-") == words[1].count(":") == 2
    assert words[2:4] == ["WARNING", "teravec.serving.coordinator.fleet:"]
