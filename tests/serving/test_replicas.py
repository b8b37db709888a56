"""The replicas' state machine, with times as we like them."""

from __future__ import annotations

import pytest

from teravec.serving.coordinator.replicas import Replicas, State
from teravec.serving.server.served import Ranges

V: dict[str, Ranges] = {"v": ((0, 10),)}
MIB = 1 << 20


@pytest.fixture
def replicas() -> Replicas:
    made = Replicas(["a", "b", "c"])
    for address in "abc":
        made.status(address, V, "", 0.0)
    return made


def live(replicas: Replicas, version: str = "v") -> str:
    return "".join(r.address for r in replicas.live(version))


def called(replicas: Replicas, address: str, seconds: float, now_s: float, times: int = 1) -> None:
    for _ in range(times):
        replicas.started(address, MIB)
        replicas.ended(address, MIB, seconds, now_s)


def test_unknown_until_told() -> None:
    replicas = Replicas(["a"])
    assert live(replicas) == ""
    replicas.status("a", V, "", 1.0)
    assert live(replicas) == "a"
    assert live(replicas, "other") == ""


def test_down_and_back(replicas: Replicas) -> None:
    replicas.failed("b", "refused the connection", 1.0)
    assert live(replicas) == "ac"
    assert replicas["b"].why == "refused the connection"
    replicas.status("b", V, "", 1.5)
    assert live(replicas) == "abc"


def test_refused_says_why(replicas: Replicas) -> None:
    replicas.status("a", {"w": ((0, 10),)}, "serves version w", 1.0)
    assert str(replicas["a"].state) == State.REFUSED
    assert live(replicas) == "bc"


def test_garbage_keeps_one_out_longer_each_time(replicas: Replicas) -> None:
    replicas.failed("a", "garbage", 0.0, harmful=True)
    replicas.status("a", V, "", 1.0)
    assert live(replicas) == "bc"
    replicas.status("a", V, "", 2.5)
    assert live(replicas) == "abc"
    replicas.failed("a", "garbage", 3.0, harmful=True)
    replicas.status("a", V, "", 6.0)
    assert live(replicas) == "bc"
    replicas.status("a", V, "", 7.5)
    called(replicas, "a", 0.01, 8.0)
    replicas.failed("a", "garbage", 9.0, harmful=True)  # a good answer forgave the first two
    replicas.status("a", V, "", 11.5)
    assert live(replicas) == "abc"


def test_members_come_and_go(replicas: Replicas) -> None:
    replicas.started("b", MIB)
    replicas.update(["b", "d"])
    assert live(replicas) == "b"
    assert replicas["b"].outstanding_bytes == MIB
    replicas.ended("a", MIB, 0.1, 1.0)  # a call to one that left
    replicas.failed("a", "gone", 1.0)
    replicas.status("a", V, "", 1.0)
    replicas.status("d", V, "", 1.0)
    assert live(replicas) == "bd"


def test_load_is_bytes_under_way(replicas: Replicas) -> None:
    replicas.started("a", 100 * MIB)
    assert replicas["a"].load(0.0) > replicas["b"].load(0.0)
    replicas.ended("a", 100 * MIB, None, 1.0)
    assert replicas["a"].load(1.0) == pytest.approx(replicas["b"].load(1.0))


def test_busy_is_asked_last_for_a_moment(replicas: Replicas) -> None:
    replicas.busy("a", 1.0)
    assert replicas["a"].load(1.01) > 1e9
    assert replicas["a"].load(1.2) == pytest.approx(replicas["b"].load(1.2))


def test_hedging_follows_what_is_usual(replicas: Replicas) -> None:
    unknown = replicas.hedge_after_s(MIB)
    called(replicas, "a", 0.03, 1.0, times=50)
    assert 0.03 < replicas.hedge_after_s(MIB) < unknown
    assert replicas.hedge_after_s(10_000 * MIB) == unknown  # another size: nothing known


def test_a_slow_one_is_found_and_does_not_teach(replicas: Replicas) -> None:
    called(replicas, "a", 0.03, 1.0, times=50)
    usual = replicas.hedge_after_s(MIB)
    called(replicas, "b", 1.0, 1.0, times=20)
    slow = {r["address"]: r["slow"] for r in replicas.describe(1.0)}
    assert slow == {"a": False, "b": True, "c": False}
    assert replicas["b"].load(1.0) > 4 * replicas["a"].load(1.0)
    assert replicas.hedge_after_s(MIB) < 10 * usual
    assert replicas["b"].slowness_at(60.0) < 1.1  # it is tried again


def test_calls_that_do_not_return_count_as_slow(replicas: Replicas) -> None:
    called(replicas, "a", 0.03, 1.0, times=50)
    for _ in range(10):
        replicas.overdue("b", MIB, 2.0, 1.0)
    assert replicas["b"].slowness_at(1.0) > 4


def test_hedges_have_a_budget(replicas: Replicas) -> None:
    hedges = 0
    while replicas.may_hedge():
        replicas.started("a", MIB, hedge=True)
        hedges += 1
    assert 15 < hedges < 30
    for _ in range(10):
        replicas.started("a", MIB)
    assert replicas.may_hedge()


def damage(replicas: Replicas, address: str, now_s: float, times: int = 3) -> None:
    for _ in range(times):
        replicas.damaged(address, "list 3 is damaged", now_s)


def test_a_damaged_one_is_asked_last(replicas: Replicas) -> None:
    damage(replicas, "a", 1.0, times=2)
    assert str(replicas["a"].state) == State.LIVE
    damage(replicas, "a", 1.0, times=1)
    assert str(replicas["a"].state) == State.DAMAGED
    assert replicas["a"].failures == 3
    replicas.busy("b", 1.0)
    assert replicas["a"].load(1.01) > replicas["b"].load(1.01) > replicas["c"].load(1.01)
    assert live(replicas) == "abc"  # where no other has the lists, it may have them
    assert replicas["a"].why == "list 3 is damaged"


def test_a_damaged_one_is_looked_at_again_later_each_time(replicas: Replicas) -> None:
    damage(replicas, "a", 0.0)
    replicas.status("a", V, "", 29.0)
    assert str(replicas["a"].state) == State.DAMAGED
    replicas.status("a", V, "", 31.0)
    assert str(replicas["a"].state) == State.LIVE
    damage(replicas, "a", 32.0, times=1)  # once is enough now
    replicas.status("a", V, "", 91.0)
    assert str(replicas["a"].state) == State.DAMAGED
    replicas.status("a", V, "", 93.0)
    assert str(replicas["a"].state) == State.LIVE
    damage(replicas, "a", 1000.0, times=2)  # long ago: it begins anew
    assert str(replicas["a"].state) == State.LIVE


def test_repaired_files_are_looked_at_at_once(replicas: Replicas) -> None:
    damage(replicas, "a", 0.0)
    replicas.status("a", V, "", 1.0, 3)
    assert str(replicas["a"].state) == State.DAMAGED
    replicas.status("a", V, "", 2.0, 0)
    assert str(replicas["a"].state) == State.LIVE
    damage(replicas, "a", 3.0, times=2)
    assert str(replicas["a"].state) == State.LIVE


def test_changes_of_state_are_told_once(replicas: Replicas) -> None:
    assert [(c.address, c.after) for c in replicas.changes()] == [(a, "live") for a in "abc"]
    for _ in range(3):
        replicas.failed("a", "gone", 1.0)
        replicas.status("b", V, "", 1.0)
        replicas.status("c", {"w": ((0, 10),)}, "serves version w", 1.0)
    changes = replicas.changes()
    assert [(c.address, c.before, c.after, c.why) for c in changes] == [
        ("a", "live", "down", "gone"),
        ("c", "live", "refused", "serves version w"),
    ]
    assert replicas.changes() == []
    replicas.status("a", V, "", 2.0)
    assert [(c.before, c.after) for c in replicas.changes()] == [("down", "live")]


def test_one_that_fails_whenever_it_is_back_stays_out(replicas: Replicas) -> None:
    for now_s in range(1, 4):
        replicas.failed("a", "gone", float(now_s))
        replicas.status("a", V, "", now_s + 0.5)
    assert live(replicas) == "bc"  # after the third time
    replicas.status("a", V, "", 5.5)
    assert live(replicas) == "abc"
    for now_s in range(6, 20):
        replicas.failed("b", "not in time", float(now_s), polled=True)
    replicas.status("b", V, "", 20.0)
    assert live(replicas) == "abc"  # polls alone do not count
