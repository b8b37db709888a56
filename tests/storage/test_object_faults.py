"""Requests that are delayed, refused, cut or lost: equal results or a clear error, nothing half."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from teravec.errors import AlreadyThere, CorruptFile, MissingFile, StorageError
from teravec.storage.object_address import ObjectAddress
from teravec.storage.object_requests import requests_of
from teravec.storage.object_store import ObjectStore
from teravec.storage.store import Ranges
from tests.storage.fault_proxy import FaultProxy, fault_proxy, first
from tests.storage.object_stand_in import KEYS, make_bucket, options_of
from tests.storage.store_suite import get, put, random_bytes

READING = ["429", "503", "500", "reset", "cut", "wrong range", "whole", "stall", "lost"]
WRITING = ["429", "503", "500", "reset", "stall", "lost"]
DATA = random_bytes(60_000)


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[FaultProxy]:
    with fault_proxy(s3_endpoint) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: FaultProxy, request: pytest.FixtureRequest) -> ObjectStore:
    """A store behind the proxy, which is patient; but not with stalled connections."""
    stalls = "stall" in request.node.name
    address = ObjectAddress("s3", make_bucket(proxy.endpoint), "p")
    timeout = "500ms" if stalls else "10s"
    return ObjectStore(address, options_of(proxy.url, timeout=timeout, retry_timeout="30s"))


def impatient(store: ObjectStore, proxy: FaultProxy) -> ObjectStore:
    """The same store, given up soon."""
    return ObjectStore(store.address, options_of(proxy.url, timeout="300ms", retry_timeout="0.3s"))


@pytest.mark.parametrize("fault", READING)
def test_reads_are_tried_again(store: ObjectStore, proxy: FaultProxy, fault: str) -> None:
    put(store, "d/f", DATA)
    count = 1 if fault == "stall" else 2
    proxy.choose = first(count, fault, "GET", "/p/d/f")
    with store.open("d/f") as file:
        assert file.size == len(DATA)
        proxy.choose = first(count, fault, "GET", "/p/d/f")
        assert file.read(30_000, 20_000) == DATA[20_000:50_000]
        starts = np.arange(0, 60_000, 6000)
        ranges = Ranges(store.group([file]), starts * 0, starts, starts * 0 + 6000, starts)
        buffer = np.zeros(len(DATA), np.uint8)
        proxy.choose = first(5, fault, "GET", "/p/d/f")
        reader = store.reader()
        reader.read(ranges, buffer)
        reader.close()
        assert buffer.tobytes() == DATA


@pytest.mark.parametrize("fault", READING)
def test_reads_that_fail_for_long_are_errors(
    store: ObjectStore, proxy: FaultProxy, fault: str
) -> None:
    put(store, "d/f", DATA)
    file = impatient(store, proxy).open("d/f")
    proxy.choose = first(10**9, fault, "GET")
    with pytest.raises(StorageError, match=r"s3://.*/p/d/f: cannot read: .*; tried \d+ times"):
        file.read(30_000, 20_000)
    proxy.choose = None
    assert file.read(30_000, 20_000) == DATA[20_000:50_000]


@pytest.mark.parametrize("fault", WRITING)
def test_writes_are_tried_again(store: ObjectStore, proxy: FaultProxy, fault: str) -> None:
    count = 1 if fault == "stall" else 2
    proxy.choose = first(count, fault, "PUT")
    put(store, "d/f", DATA)
    proxy.choose = first(count, fault, "PUT")
    store.create("versions/1", b"first")
    with pytest.raises(AlreadyThere):
        store.create("versions/1", b"second")
    proxy.choose = first(count, fault, "POST")
    store.remove("d/f")
    proxy.choose = first(count, fault, "GET", "list-type")
    assert store.names() == ["versions/1"]
    assert get(store, "versions/1") == b"first"


@pytest.mark.parametrize("fault", ["503", "reset", "403"])
def test_writes_that_fail_leave_nothing(store: ObjectStore, proxy: FaultProxy, fault: str) -> None:
    store = impatient(store, proxy)
    proxy.choose = first(10**9, fault, "PUT")
    with pytest.raises(StorageError, match=r"s3://.*/p/d/f: cannot write: "):
        put(store, "d/f", DATA)
    with pytest.raises(StorageError, match=r"s3://.*/p/versions/1: cannot write: "):
        store.create("versions/1", b"x")
    proxy.choose = None
    assert store.names() == []


def test_large_files_are_uploaded_in_parts(store: ObjectStore, proxy: FaultProxy) -> None:
    data = random_bytes(20 << 20)
    proxy.choose = first(3, "503", "PUT", "partNumber")
    with store.publish("large") as file:
        file.write(data, 0)
    assert proxy.requests["PUT"] == 3 + 3
    assert get(store, "large") == data
    proxy.choose = first(10**9, "403", "PUT", "partNumber=3")
    with (
        pytest.raises(StorageError, match="p/other: cannot write: no permission"),
        store.publish("other") as file,
    ):
        file.write(data, 0)
    assert store.names() == ["large"]


def test_a_refused_conflict_is_no_lost_race(store: ObjectStore, proxy: FaultProxy) -> None:
    """409 says that writers met, not that another one was first."""
    proxy.choose = first(2, "409", "PUT")
    store.create("versions/1", b"first")
    assert get(store, "versions/1") == b"first"
    proxy.choose = first(10**9, "409", "PUT")
    with pytest.raises(AlreadyThere, match="versions/1"):
        store.create("versions/1", b"second")
    with pytest.raises(StorageError, match="refused 6 times although the name is free"):
        store.create("versions/2", b"x")
    assert store.names() == ["versions/1"]


def test_an_object_that_was_replaced_is_no_longer_what_was_opened(store: ObjectStore) -> None:
    put(store, "f", DATA)
    file = store.open("f")
    put(store, "f", DATA[::-1])
    with pytest.raises(CorruptFile, match="p/f: the object was replaced after it was opened"):
        file.read(30_000, 20_000)


def test_each_round_of_racing_writers_has_one_winner(store: ObjectStore) -> None:
    """Also if many attempts lose their answers; and the stand-in itself refuses the losers."""
    names = [f"versions/{i}" for i in range(12)]
    proxied = ObjectStore(store.address, store.options)

    def create(number: int) -> list[str]:
        won = []
        for name in names:
            try:
                proxied.create(name, b"%d" % number)
                won.append(name)
            except AlreadyThere:
                pass
        return won

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert Counter(name for mine in won for name in mine) == Counter(names)
    for number, mine in enumerate(won):
        assert all(get(store, name) == b"%d" % number for name in mine)


def test_racing_writers_whose_answers_are_lost(store: ObjectStore, proxy: FaultProxy) -> None:
    rng = np.random.default_rng(3)
    lost = rng.random(10_000) < 0.4
    proxy.choose = lambda method, path, number: "lost" if method == "PUT" and lost[number] else None
    test_each_round_of_racing_writers_has_one_winner(store)


def test_the_stand_in_refuses_losers(s3_endpoint: str) -> None:
    """Without this, the races above would prove nothing."""
    import obstore

    address = ObjectAddress("s3", make_bucket(s3_endpoint), "")
    client = requests_of(address, options_of(s3_endpoint)).connection.client
    obstore.put(client, "v", b"first", mode="create")
    with pytest.raises(obstore.exceptions.AlreadyExistsError, match="412 Precondition Failed"):
        obstore.put(client, "v", b"second", mode="create")
    assert obstore.get(client, "v").bytes().to_bytes() == b"first"


def test_the_window_shrinks_and_grows(store: ObjectStore, proxy: FaultProxy) -> None:
    put(store, "f", DATA)
    store = ObjectStore(store.address, options_of(proxy.url, retry_timeout="30s", gap_bytes=9))
    file = store.open("f")
    starts = np.arange(0, 60_000, 600)
    ranges = Ranges(store.group([file]), starts * 0, starts, starts * 0 + 590, starts)
    buffer, reader = np.zeros(len(DATA), np.uint8), store.reader()
    proxy.latency_s, proxy.most_in_flight = 0.02, 0
    reader.read(ranges, buffer)
    assert proxy.most_in_flight > 24
    proxy.choose = first(30, "503", "GET")
    reader.read(ranges, buffer)
    proxy.most_in_flight = 0
    reader.read(ranges, buffer)
    assert proxy.most_in_flight <= 48
    found, expected = buffer.reshape(-1, 600), np.frombuffer(DATA, np.uint8).reshape(-1, 600)
    np.testing.assert_array_equal(found[:, :590], expected[:, :590])


def test_errors_say_what_to_do_and_tell_no_secret(s3_endpoint: str) -> None:
    secret = KEYS["secret_access_key"]
    nowhere = ObjectStore(ObjectAddress("s3", "no-such-bucket", "p"), options_of(s3_endpoint))
    for call in (lambda: nowhere.open("f"), lambda: put(nowhere, "f", b"x"), nowhere.names):
        with pytest.raises(StorageError, match=r"s3://no-such-bucket.*: there is no such bucket"):
            call()
    bucket = make_bucket(s3_endpoint)
    address = ObjectAddress("s3", bucket, "p")
    closed = ObjectStore(
        address, options_of("http://127.0.0.1:9", retry_timeout="0.3s", connect_timeout="200ms")
    )
    with pytest.raises(StorageError, match=f"s3://{bucket}/p/f: cannot read: the connection") as e:
        closed.open("f")
    https_only = [pair for pair in options_of(s3_endpoint) if pair[0] != "allow_http"]
    with pytest.raises(StorageError, match="the option allow_http=true"):
        ObjectStore(address, tuple(https_only)).open("f")
    with pytest.raises(MissingFile, match=f"s3://{bucket}/p/f: cannot read: no such file"):
        ObjectStore(address, options_of(s3_endpoint)).open("f")
    for text in (str(e.value), repr(closed), repr(nowhere), str(e.value.__cause__)):
        assert secret not in text
