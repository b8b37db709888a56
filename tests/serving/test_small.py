"""Small searches of many connections: joined on the port, answered together, each exactly."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import teravec
from teravec.errors import Busy, InvalidArgument, LimitExceeded, ProtocolError
from teravec.serving.flight.messages import flight_data, frame_alone
from teravec.serving.loop.gathering import Gatherer
from teravec.serving.server.budget import Share
from teravec.serving.server.origin import HERE
from teravec.serving.server.service import SearchService
from teravec.serving.server.small import Asked, SmallSearches
from teravec.serving.wire.context import RequestContext
from teravec.serving.wire.frames import encode, encode_rows, read_prefix
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.protocol import Answer, SearchRequest, Wanted
from teravec.serving.wire.security import Address
from tests.conftest import clustered
from tests.serving.conftest import QUERIES, D, Launch, url
from tests.serving.test_faults import until

LOCAL = Address("127.0.0.1", 0)
REQUEST = SearchRequest(QUERIES[:1], Wanted(k=5), 8, timeout_s=5.0)


def asked(service: SearchService, small: SmallSearches, *requests: SearchRequest) -> list[Asked]:
    found = [small.read(memoryview(request.encode())) for request in requests]
    return [Asked(search, Share(service.budget), HERE) for search in found if search is not None]


def test_answers_are_those_of_each_alone(index: Path, serve: Launch) -> None:
    service = serve(index).service
    small = SmallSearches(service)
    requests = [replace(REQUEST, queries=QUERIES[n : n + 1]) for n in range(30)]
    together = asked(service, small, *requests)
    assert len({each.search.key for each in together}) == 1
    frames = small.answer(together)
    alone = [service.answer_frame("search", memoryview(r.encode())) for r in requests]
    assert frames == [b"".join(parts) for parts in alone]


@pytest.mark.parametrize("rows", [1, 3])
def test_fewer_results_than_asked_for(rows: int, index: Path, serve: Launch) -> None:
    """With one list of a hundred vectors a query, some have fewer than k results."""
    service = serve(index).service
    small = SmallSearches(service)
    requests = [
        SearchRequest(QUERIES[n : n + rows], Wanted(k=120), 1, timeout_s=5.0) for n in range(20)
    ]
    frames = small.answer(asked(service, small, *requests))
    counts = [Answer.decode(frame).counts.tolist() for frame in frames]
    assert len({tuple(each) for each in counts}) > 1
    for request, frame in zip(requests, frames, strict=True):
        one = b"".join(service.answer_frame("search", memoryview(request.encode())))
        assert bytes(frame) == one


def test_one_that_is_wrong_fails_alone(index: Path, serve: Launch) -> None:
    service = serve(index).service
    small = SmallSearches(service)
    small.read(memoryview(REQUEST.encode()))  # its header is known
    good, bad = REQUEST.encode(), np.full((1, D), np.nan, np.float32)
    arrays = {"queries": bad}
    header = {"nprobe": 8, "timeout_s": 5.0, "allow_partial": False, "k": 5}
    frames = [memoryview(good), memoryview(encode(header, arrays)), memoryview(good)]
    read = [small.read(frame) for frame in frames]
    assert all(search is not None for search in read)
    together = [Asked(s, Share(service.budget), HERE) for s in read if s is not None]
    first, wrong, last = small.answer(together)
    assert Answer.decode(first).counts.tolist() == Answer.decode(last).counts.tolist() == [5]
    with pytest.raises(InvalidArgument, match="NaN"):
        Answer.decode(wrong)


@pytest.mark.parametrize(
    "request_",
    [
        SearchRequest(QUERIES[:1], Wanted(radius=1.0), 8),
        SearchRequest(clustered(200, D, seed=1), Wanted(k=5), 8),
        SearchRequest(QUERIES[:1], Wanted(k=5000), 8),
        replace(REQUEST, context=RequestContext("mine")),
        replace(REQUEST, timeout_s=1e5),
        replace(REQUEST, wanted=Wanted(k=20_000)),
    ],
    ids=["radius", "large", "large answer", "context", "timeout", "k"],
)
def test_others_go_the_usual_way(request_: SearchRequest, index: Path, serve: Launch) -> None:
    small = SmallSearches(serve(index).service)
    assert small.read(memoryview(request_.encode())) is None
    assert small.read(memoryview(REQUEST.encode())) is not None


@pytest.mark.parametrize("at", [0, 4, 8, 16, 23, *range(24, 200, 7)])
def test_damaged_frames_go_the_usual_way(at: int, index: Path, serve: Launch) -> None:
    service = serve(index).service
    small = SmallSearches(service)
    whole = REQUEST.encode()
    assert small.read(memoryview(whole)) is not None
    damaged = bytearray(whole)
    damaged[at] ^= 1
    assert small.read(memoryview(bytes(damaged))) is None
    for cut in (0, 10, 24, len(whole) - 1):
        assert small.read(memoryview(whole[:cut])) is None
    assert small.read(memoryview(whole + b"\0")) is None


def test_headers_are_bounded(index: Path, serve: Launch) -> None:
    small = SmallSearches(serve(index).service)
    for nprobe in range(1, 700):
        assert small.read(memoryview(replace(REQUEST, nprobe=nprobe).encode())) is not None
    assert small.kinds <= 256


def test_many_clients_at_once(index: Path, serve: Launch) -> None:
    server = serve(index, http=LOCAL)
    wrong: list[Any] = []
    with teravec.open(index) as local:
        options = [(5, 4), (5, 4), (10, 16), (1, 60)]
        true = [local.search(QUERIES, k, nprobe) for k, nprobe in options]

    def client(number: int) -> None:
        k, nprobe = options[number % len(options)]
        distances, ids = true[number % len(options)]
        with teravec.connect(url(server)) as remote:
            for n in range(number, number + 30):
                row = n % len(QUERIES)
                found = remote.search(QUERIES[row : row + 1], k, nprobe)
                if not (
                    np.array_equal(found[0][0], distances[row])
                    and np.array_equal(found[1][0], ids[row])
                ):
                    wrong.append((number, row))

    threads = [threading.Thread(target=client, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    text = httpx.get(f"http://{server.http_address}/metrics").text
    assert 'teravec_requests_total{code="ok",method="search"} 480.0' in text
    assert 'teravec_queries_total{method="search"} 480.0' in text
    assert 'teravec_request_seconds_count{method="search"} 480.0' in text
    until(lambda: server.service.budget.held_bytes == 0)


def test_more_than_the_queue_has_room_for(
    index: Path, serve: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serve(index, limits=Limits(queue=2)).service
    small = SmallSearches(service)
    search, go = service.backend.search, threading.Event()

    def held(*arguments: Any) -> Any:
        go.wait(60)
        return search(*arguments)

    monkeypatch.setattr(service.backend, "search", held)
    whole = replace(REQUEST, queries=QUERIES)
    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(service.search, whole) for _ in range(2)]
        until(lambda: service.statistics()["waiting"] == 2)
        for frame in small.answer(asked(service, small, *[REQUEST] * 3)):
            with pytest.raises(Busy):
                Answer.decode(frame)
        go.set()
        assert all(len(each.result().distances) for each in others)


def test_rows_are_encoded_as_frames_alone() -> None:
    random = np.random.default_rng(0)
    counts = np.full((7, 1), 3, np.uint32)
    distances, ids = random.random((7, 3), np.float32), random.integers(0, 9, (7, 3))
    header = {"version": "v", "missing": 0.0}
    frames = encode_rows(header, {"counts": counts, "distances": distances, "ids": ids})
    for row, frame in enumerate(frames):
        one = {"counts": counts[row], "distances": distances[row], "ids": ids[row]}
        assert frame == encode(header, one)
        assert read_prefix(memoryview(frame), 512) is not None


@pytest.mark.parametrize("size", [1, 127, 128, 1000, 16000, 20000])
def test_a_message_that_is_a_frame_alone(size: int) -> None:
    message = memoryview(b"".join(flight_data(bytes(size)))[5:])
    found = frame_alone(message)
    assert (found is None) == (size > 16383)
    assert found is None or bytes(found) == bytes(size)
    assert frame_alone(message[:-1]) is None
    assert frame_alone(memoryview(bytes(message) + b"\x08\x01")) is None


class Loop:
    """A loop and what its gatherer handed over."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.batches: list[tuple[Hashable, list[Any]]] = []
        self.gatherer = Gatherer(self.loop, lambda key, some: self.batches.append((key, some)))

    def run(self, seconds: float = 0.0) -> list[list[Any]]:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        if not seconds:
            for _ in range(5):
                self.loop.run_until_complete(asyncio.sleep(0))
        done, self.batches = self.batches, []
        return [some for _, some in done]


def test_gathering() -> None:
    on = Loop()
    try:
        on.gatherer.add("a", 1)
        assert on.run() == [[1]]  # a lone one does not wait
        on.gatherer.add("a", 2)
        on.gatherer.add("a", 3)
        assert on.run() == []  # the first is under way
        on.gatherer.ended("a", 1)
        assert on.run() == [[2, 3]]
        on.gatherer.ended("a", 2)
        on.gatherer.add("a", 4)
        on.gatherer.add("b", 5)
        assert on.run() == [[5]]  # two are expected of a, and b has nothing to do with it
        on.gatherer.add("a", 6)
        assert on.run() == [[4, 6]]
        on.gatherer.ended("a", 2)
        on.gatherer.add("a", 7)
        assert on.run(0.02) == [[7]]  # waited long enough
        on.gatherer.add("a", 8)
        assert on.run(0.02) == [[8]]  # and so for a slow batch under way
    finally:
        on.loop.close()


def test_gathering_of_many_keys_is_bounded() -> None:
    on = Loop()
    try:
        assert all(on.gatherer.add(key, key) for key in range(64))
        assert not on.gatherer.add(64, 64)
        assert len(on.run()) == 64
        for key in range(64):
            on.gatherer.ended(key, 1)
        assert on.gatherer.add(64, 64)
        assert on.run() == [[64]]
    finally:
        on.loop.close()


def test_errors_of_old_frames_stay_typed(index: Path, serve: Launch) -> None:
    service = serve(index).service
    with pytest.raises(ProtocolError):
        Answer.decode(b"".join(service.answer_frame("search", memoryview(b"TVFR"))))
    over = SearchRequest(QUERIES[:1], Wanted(k=20_000), 8).encode()
    with pytest.raises(LimitExceeded):
        Answer.decode(b"".join(service.answer_frame("search", memoryview(over))))
