"""Fairness: shares of a bound, turns in the queue, and small requests beside floods."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import teravec
from teravec.errors import Busy
from teravec.serving.server.batching import Batcher, Job
from teravec.serving.server.budget import Budget
from teravec.serving.server.fairness import FairQueue, FairShares
from teravec.serving.server.origin import Origin
from teravec.serving.server.work import WorkEstimate
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.protocol import SearchRequest, Wanted
from teravec.serving.wire.security import ServerSecurity
from teravec.serving.wire.tokens import Tokens
from tests.serving.conftest import QUERIES, Launch, url
from tests.serving.test_batching import Search
from tests.serving.test_faults import until


@dataclass(eq=False)
class Item:
    caller: str
    work: int


def taken(queue: FairQueue[Item]) -> list[Item]:
    """All items, in the order in which they are taken."""
    found = []
    while len(queue):
        found.append(next(iter(queue)))
        queue.take(found[-1])
    return found


def test_callers_take_turns_by_work() -> None:
    queue: FairQueue[Item] = FairQueue()
    items = [Item("flood", 100) for _ in range(50)] + [Item("small", 10) for _ in range(20)]
    for item in items:
        queue.append(item)
    order = taken(queue)
    # By work: ten small ones for each large one, and each caller's own order.
    assert [item.caller for item in order[:12]].count("small") >= 9
    assert [item for item in order if item.caller == "flood"] == items[:50]
    assert [item for item in order if item.caller == "small"] == items[50:]


def test_who_comes_back_has_no_credit() -> None:
    queue: FairQueue[Item] = FairQueue()
    for _ in range(20):
        queue.append(Item("busy", 5))
        taken(queue)
    for caller in ("busy", "idle") * 6:
        queue.append(Item(caller, 5))
    assert [item.caller for item in taken(queue)][:6].count("idle") in (3, 4)


@given(st.lists(st.tuples(st.sampled_from("ab "), st.integers(0, 9)), max_size=40))
def test_a_queue_holds_what_was_put_in(content: list[tuple[str, int]]) -> None:
    queue: FairQueue[Item] = FairQueue()
    items = [Item(caller.strip(), work) for caller, work in content]
    for item in items:
        queue.append(item)
    for item in items[::3]:
        assert queue.give_up(item)
        assert not queue.give_up(item)
    left = [item for item in items if item not in items[::3]]
    assert sorted(map(id, taken(queue))) == sorted(map(id, left))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=300), st.integers(16, 64))
def test_the_last_place_is_for_a_caller_that_holds_none(callers: list[int], most: int) -> None:
    shares, held, holding = FairShares(most), 0, set[int]()
    for caller in callers:
        if held < most and shares.may_take(str(caller), 1, held):
            shares.add(str(caller), 1)
            held += 1
            assert held < most or caller not in holding
            holding.add(caller)
        else:
            assert held == most or caller in holding  # a new caller takes what is free


def test_one_caller_without_a_name_may_have_all() -> None:
    shares = FairShares(8)
    assert all(shares.may_take("", 1, held) for held in range(8))


def test_a_queue_full_of_one_caller_takes_another() -> None:
    search = Search()
    batcher = Batcher(search, Limits(queue=16))

    def ask(caller: str) -> object:
        job = Job("k", caller, 1, 1, Deadline.after(10), caller, 100)
        try:
            return batcher.answer(job).version
        except Busy as error:
            return error

    with ThreadPoolExecutor(40) as pool:
        flood = [pool.submit(ask, "flood") for _ in range(30)]
        until = time.monotonic() + 60
        while sum(each.done() for each in flood) < 18 and time.monotonic() < until:
            time.sleep(0.005)
        assert batcher.waiting == 12  # three quarters
        others = [pool.submit(ask, name) for name in ("one", "two")]
        while batcher.waiting < 14 and time.monotonic() < until:
            time.sleep(0.005)
        search.go.set()
        assert [each.result() for each in others] == ["one", "two"]
        refused = [each.result() for each in flood if isinstance(each.result(), Busy)]
        assert len(refused) == 18
        assert "one token may have" in str(refused[0])


def test_bytes_are_shared_too() -> None:
    budget = Budget(1000, 10)
    with budget.share("flood") as first, budget.share("flood") as second:
        first.hold(500)
        with pytest.raises(Busy):
            second.hold(400)  # would leave a tenth for all others
        second.hold(10)  # a small request is never refused
        with budget.share("other") as other:
            other.hold(450)
        with budget.share() as nameless:
            nameless.hold(490)
    with budget.share("large") as alone:
        alone.hold(2000)  # a lone request has its own bound


def test_much_work_in_few_queries_is_not_small(index: Path, serve: Launch) -> None:
    served, estimate = serve(index).service.backend.versions.current, WorkEstimate()

    def work(rows: int, k: int, **effort: float) -> int:
        request = SearchRequest(
            np.zeros((rows, 24), np.float32),
            Wanted(k),
            **effort,  # type: ignore[arg-type]
        )
        return estimate.of(request, served)

    assert work(1, 10, nprobe=2) * 2 < work(1, 10, nprobe=8) < work(4, 10, nprobe=8)
    assert work(1, 10, nprobe=1 << 20) == work(1, 10, nprobe=60)  # there are no more lists
    assert work(1, 10, recall=0.95) >= work(1, 10, recall=0.5) > 0
    assert work(1, 5000, nprobe=1) > 100 * work(1, 10, nprobe=1)
    small = Job("k", None, 1, 1, Deadline.after(1), work=1 << 20)
    assert small.is_small
    assert not Job("k", None, 1, 1, Deadline.after(1), work=1 << 30).is_small


def test_a_long_search_of_one_query_does_not_keep_small_ones() -> None:
    search = Search()
    batcher = Batcher(search, Limits())
    with ThreadPoolExecutor(3) as pool:
        jobs = [Job(f"long {n}", f"long {n}", 1, 1, Deadline.after(9), "", 1 << 40) for n in "ab"]
        long = [pool.submit(batcher.answer, job) for job in jobs]
        search.begun.wait(60)
        small = pool.submit(batcher.answer, Job("small", "small", 1, 1, Deadline.after(9)))
        until = time.monotonic() + 60
        while len(search.batches) < 2 and time.monotonic() < until:
            time.sleep(0.005)
        assert search.batches[1] == ["small"]  # the second long one waits
        search.go.set()
        assert small.result().version == "small"
        assert {each.result().version for each in long} == {"long a", "long b"}


def test_names_of_tokens(tmp_path: Path) -> None:
    path, admins = tmp_path / "tokens", tmp_path / "admins"
    path.write_text(
        "# plain comment\na-token-of-16-chars-1\n\n# name: web\na-token-of-16-chars-2\n"
        "a-token-of-16-chars-3\n# name: batch\na-token-of-16-chars-4\n"
    )
    admins.write_text("a-token-of-16-chars-5\n")
    tokens = Tokens.read(path, admins)
    found = [tokens.find(f"a-token-of-16-chars-{n}") for n in range(1, 6)]
    assert [token and token.name for token in found] == [
        "token-1",
        "web",
        "web",
        "batch",
        "admin-1",
    ]
    assert [bool(token and token.is_admin) for token in found] == [False] * 4 + [True]
    assert tokens.find("a-token-of-16-chars-6") is None
    assert tokens.count_of_names == 4
    assert "a-token-of" not in repr(found)
    assert Origin.of("x", found[1], tokens) == Origin("x", "web", "web")
    assert Origin.of("x", found[1], Tokens(("y" * 16,))).share == ""  # nobody to share with


def test_one_token_cannot_fill_the_server(index: Path, serve: Launch, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("# name: flood\n" + "f" * 16 + "\n# name: small\n" + "s" * 16 + "\n")
    server = serve(
        index, http=None, security=ServerSecurity(token_file=tokens), limits=Limits(queue=16)
    )
    ended, refused = threading.Event(), []

    def flood() -> None:
        with teravec.connect(url(server), token="f" * 16) as remote:
            while not ended.is_set():
                try:
                    remote.search(np.repeat(QUERIES, 10, axis=0), 100, 60, timeout_s=0.5)
                except teravec.TeravecError as error:
                    refused.append(error)

    with ThreadPoolExecutor(24) as pool:
        floods = [pool.submit(flood) for _ in range(24)]
        with teravec.connect(url(server), token="s" * 16) as remote:
            until = time.monotonic() + 60
            while server.service.statistics()["waiting"] < 10 and time.monotonic() < until:
                time.sleep(0.01)
            local = teravec.open(index)
            for row in range(30):
                query = QUERIES[row : row + 1]
                found = remote.search(query, 5, 8, timeout_s=5)
                np.testing.assert_array_equal(found[1], local.search(query, 5, 8)[1])
            local.close()
        ended.set()
        for each in floods:
            each.result()


def test_http_searches_are_shared(
    index: Path, serve: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("f" * 16 + "\n" + "s" * 16 + "\n")
    from teravec.serving.wire.security import Address

    server = serve(
        index,
        http=Address("127.0.0.1", 0),
        security=ServerSecurity(token_file=tokens),
        limits=Limits(queue=8),
    )
    body = {"queries": QUERIES[:1].tolist(), "k": 3, "nprobe": 4}
    search, go = server.service.backend.search, threading.Event()

    def held(*arguments: Any) -> Any:
        go.wait(60)
        return search(*arguments)

    def status(token: str) -> int:
        answer = httpx.post(
            f"http://{server.http_address}/search",
            json=body,
            headers={"authorization": f"Bearer {token}"},
            timeout=60,
        )
        return answer.status_code

    assert status("f" * 16) == status("s" * 16) == 200
    monkeypatch.setattr(server.service.backend, "search", held)
    with ThreadPoolExecutor(8) as pool:
        flood = [pool.submit(status, "f" * 16) for _ in range(6)]
        until(lambda: server.service.statistics()["waiting"] == 6)
        assert status("f" * 16) == 503
        other = pool.submit(status, "s" * 16)
        until(lambda: server.service.statistics()["waiting"] == 7)
        go.set()
        assert other.result() == 200
        assert {each.result() for each in flood} == {200}
