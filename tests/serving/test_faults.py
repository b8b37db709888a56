"""Servers that are slow, hang, answer garbage or have another index: named, and routed around."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import teravec
from teravec.errors import Busy, CorruptFile, DeadlineExceeded, TeravecError, Unavailable
from teravec.search.effort import Effort
from teravec.search.steps import SearchSteps
from teravec.serving.deploy.program import Server
from teravec.serving.server.step_sizes import StepSizes
from teravec.serving.wire.client import RemoteIndex
from teravec.serving.wire.limits import Limits
from tests.serving.conftest import QUERIES, Launch, addresses, built, url

Mangle = Callable[[bytes], bytes]


@pytest.fixture
def cluster(index: Path, serve: Launch) -> Iterator[tuple[list[Server], Server, RemoteIndex]]:
    """Two servers that each have every list, and a third with half of them; a coordinator."""
    servers = [serve(index), serve(index), serve(index, lists="0:30")]
    coordinator = serve(index, servers=addresses(servers))
    with ExitStack() as stack:
        yield servers, coordinator, stack.enter_context(teravec.connect(url(coordinator)))


def state_of(remote: RemoteIndex, server: Server) -> dict:
    described = remote.statistics()["servers"]
    return next(s for s in described if s["address"] == str(server.address))


def assert_exact(remote: RemoteIndex, index: Path, rounds: int = 1) -> None:
    with teravec.open(index) as local:
        true = local.search(QUERIES, 10, 60)
    for _ in range(rounds):
        found = remote.search(QUERIES, 10, 60)
        np.testing.assert_array_equal(found[1], true[1])
        np.testing.assert_array_equal(found[0], true[0])


def late(seconds: float, act: Callable[..., Any], *arguments: Any) -> Any:
    time.sleep(seconds)
    return act(*arguments)


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)


def test_a_slow_server_is_found_and_passed_over(
    cluster: tuple[list[Server], Server, RemoteIndex], index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers, _, remote = cluster
    assert_exact(remote, index, rounds=10)
    slow = servers[1].service
    search = slow.backend.search_lists
    monkeypatch.setattr(slow.backend, "search_lists", lambda *a: late(3.0, search, *a))
    times = []
    for _ in range(10):
        started = time.perf_counter()
        assert_exact(remote, index)
        times.append(time.perf_counter() - started)
    assert np.median(times) < 2.5
    until(lambda: state_of(remote, servers[1])["slow"])


def test_a_server_that_hangs(
    cluster: tuple[list[Server], Server, RemoteIndex], index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers, _, remote = cluster
    assert_exact(remote, index, rounds=5)
    awake = threading.Event()
    hanging = servers[0].service
    for name in ("answer_frame", "statistics"):
        act = getattr(hanging, name)
        monkeypatch.setattr(hanging, name, lambda *a, act=act: (awake.wait(120), act(*a))[1])
    started = time.perf_counter()
    assert_exact(remote, index, rounds=3)
    assert time.perf_counter() - started < 60
    until(lambda: state_of(remote, servers[0])["state"] == "down")
    assert "in time" in state_of(remote, servers[0])["why"]
    awake.set()
    until(lambda: state_of(remote, servers[0])["state"] == "live")


def swapped(frame: bytes) -> bytes:
    """An answer with a right checksum whose rows are in the wrong order."""
    from teravec.serving.wire.protocol import Answer

    a = Answer.decode(frame)
    return Answer(a.version, a.counts, a.distances[::-1].copy(), a.ids).encode()


@pytest.mark.parametrize(
    "mangle",
    [
        lambda frame: frame[: len(frame) // 2],
        lambda frame: b"",
        lambda frame: b"\x00" * 500,
        lambda frame: frame[:60] + b"\xff" + frame[61:],
        swapped,
    ],
    ids=["cut", "empty", "zeros", "flipped", "out of order"],
)
def test_garbage_is_found_and_routed_around(
    mangle: Mangle,
    cluster: tuple[list[Server], Server, RemoteIndex],
    index: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servers, _, remote = cluster
    for server in servers[1:]:
        answer_frame = server.service.answer_frame
        monkeypatch.setattr(
            server.service,
            "answer_frame",
            lambda *arguments, act=answer_frame: [mangle(b"".join(act(*arguments)))],
        )
    assert_exact(remote, index, rounds=3)
    told = [state_of(remote, server) for server in servers[1:]]
    assert any(s["failures"] and s["state"] == "down" for s in told)
    assert all(s["why"] for s in told if s["failures"])


def test_an_error_of_the_transport(
    cluster: tuple[list[Server], Server, RemoteIndex], index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers, _, remote = cluster

    def broken(*_: object) -> bytes:
        raise pa.ArrowInvalid("broken")

    monkeypatch.setattr(servers[0].service, "answer_frame", broken)
    assert_exact(remote, index, rounds=3)


def test_another_index_is_refused_and_named(index: Path, serve: Launch, tmp_path: Path) -> None:
    other = serve(built(tmp_path, seed=9))
    right = serve(index, lists="0:60")
    coordinator = serve(index, servers=addresses([other, right]))
    with teravec.connect(url(coordinator)) as remote:
        assert_exact(remote, index)
        told = state_of(remote, other)
        assert told["state"] == "refused"
        assert "serves index version" in told["why"]


def test_a_damaged_list_is_routed_around_and_named(
    index: Path, serve: Launch, tmp_path: Path
) -> None:
    import shutil

    damaged = tmp_path / "damaged"
    shutil.copytree(index, damaged)
    slice_file = sorted((damaged / "slices").iterdir())[2]
    data = bytearray(slice_file.read_bytes())
    data[200] ^= 1
    slice_file.write_bytes(data)
    servers = [serve(damaged), serve(index)]
    coordinator = serve(index, servers=addresses(servers))
    with teravec.connect(url(coordinator)) as remote:
        assert_exact(remote, index, rounds=3)
    with teravec.connect(url(servers[0])) as alone, pytest.raises(CorruptFile, match="slices"):
        alone.search(QUERIES, 10, 60)


def test_lists_without_an_owner(index: Path, serve: Launch) -> None:
    server = serve(index, lists="0:45")
    coordinator = serve(index, servers=addresses([server]))
    with teravec.open(index) as local, teravec.connect(url(coordinator), timeout_s=1.5) as remote:
        with pytest.raises(Unavailable, match="no live owner"):
            remote.search(QUERIES, 10, 60)
        D, ids, missing = remote.search_partial(QUERIES, 10, 60)
        prepared = local.steps.nearest_lists(QUERIES, Effort(60))
        sizes = local.list_sizes.astype(np.float64)
        sizes[45:] = local.ntotal / local.nlist  # nobody who has them was ever seen
        wanted = sizes[prepared[1]]
        assert missing == pytest.approx(wanted[prepared[1] >= 45].sum() / wanted.sum(), rel=1e-6)
        kept = np.where(prepared[1] < 45, prepared[1], -1)
        true = local.steps.search_lists(prepared[0], kept, prepared[2], 10)
        np.testing.assert_array_equal(ids, true[1])
        np.testing.assert_array_equal(D, true[0])
        assert remote.range_search_partial(QUERIES, 5.0, 60)[3] == missing
    with (
        teravec.connect(url(server), timeout_s=1) as part,
        pytest.raises(Unavailable, match="0:45"),
    ):
        part.search(QUERIES, 10, 60)


def test_a_full_server_says_busy(
    index: Path, serve: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(index, limits=Limits(queue=1))
    search, begun, go = SearchSteps.search_lists, threading.Event(), threading.Event()

    def held(*arguments: Any, **more: Any) -> object:
        begun.set()
        go.wait(60)
        return search(*arguments, **more)

    monkeypatch.setattr(SearchSteps, "search_lists", held)
    with (
        teravec.connect(url(server)) as first,
        teravec.connect(url(server), timeout_s=0.5) as second,
        ThreadPoolExecutor(1) as pool,
    ):
        answered = pool.submit(first.search, QUERIES, 10, 5)
        assert begun.wait(60)
        with pytest.raises(Busy, match="at most 1"):
            second.search(QUERIES, 10, 5)
        go.set()
        assert answered.result(60)[1].shape == (40, 10)


def test_work_past_its_deadline_stops(
    index: Path, serve: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(index, steps=StepSizes(scanned_bytes=1000))
    steps, search = list[int](), SearchSteps.search_lists

    def slowly(*arguments: Any, **more: Any) -> object:
        steps.append(1)
        time.sleep(0.05)
        return search(*arguments, **more)

    monkeypatch.setattr(SearchSteps, "search_lists", slowly)
    with teravec.connect(url(server)) as remote:
        with pytest.raises(DeadlineExceeded):
            remote.search(QUERIES, 10, 60, timeout_s=0.3)
        done = -1
        while done < len(steps) < 100:
            done = len(steps)
            time.sleep(0.3)
        assert len(steps) == done


def test_nobody_there() -> None:
    started = time.perf_counter()
    with pytest.raises(TeravecError):
        teravec.connect("grpc://127.0.0.1:9", timeout_s=1)
    assert time.perf_counter() - started < 30


def test_a_second_coordinator_takes_over(index: Path, serve: Launch) -> None:
    server = serve(index)
    one, two = (serve(index, servers=addresses([server])) for _ in range(2))
    with teravec.connect(f"{url(one)},{url(two)}") as remote:
        assert_exact(remote, index)
        one.close()
        assert_exact(remote, index)
