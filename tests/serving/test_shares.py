"""Every pair goes to one owner of its list, and the loads come out even."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from teravec.serving.coordinator.shares import Owner, Pairs, shared_out

MIB = 1 << 20


def pairs_of(list_nos: np.ndarray, list_bytes: np.ndarray) -> Pairs:
    return Pairs.of(list_nos, np.ones(list_nos.shape, np.float32), list_bytes, 1)


RANGE = st.tuples(st.integers(0, 39), st.integers(1, 40)).map(lambda r: (min(r), max(r) + 1))


@given(
    st.lists(st.tuples(RANGE, st.integers(0, 50)), min_size=0, max_size=6),
    st.integers(0, 1 << 32),
    st.sampled_from([1, MIB, 20 * MIB]),
)
def test_each_pair_once_to_an_owner(
    ranges: list[tuple[tuple[int, int], int]], seed: int, scale: int
) -> None:
    rng = np.random.default_rng(seed)
    list_nos = np.argsort(rng.random((9, 41)), axis=1)[:, :7]
    list_nos[rng.random(list_nos.shape) < 0.2] = -1
    sizes = rng.integers(0, 3, 41) * scale
    pairs = pairs_of(list_nos, sizes)
    owners = [Owner(f"s{n}", (r,), load * MIB) for n, (r, load) in enumerate(ranges)]
    shares, left = shared_out(pairs, owners)
    owned = {o.address: o.ranges[0] for o in owners}
    found = [(int(r), int(n)) for r, n in zip(left.rows, left.list_nos, strict=True)]
    for row, list_no in found:
        assert not any(a <= list_no < b for a, b in owned.values()), row
    asked_of: dict[int, str] = {}
    for address, share in shares.items():
        assert len(share)
        assert (np.diff(share.rows) >= 0).all()
        start, stop = owned[address]
        assert ((share.list_nos >= start) & (share.list_nos < stop)).all()
        for list_no in np.unique(share.list_nos).tolist():
            assert asked_of.setdefault(list_no, address) == address  # read on one server only
        found += [(int(r), int(n)) for r, n in zip(share.rows, share.list_nos, strict=True)]
    wanted = {(r, int(n)) for r, row in enumerate(list_nos) for n in row if n >= 0 and sizes[n]}
    assert len(found) == len(set(found))
    assert set(found) == wanted


def test_replicas_are_filled_evenly() -> None:
    list_nos = np.arange(100).reshape(1, -1)
    pairs = pairs_of(list_nos, np.full(100, MIB))
    owners = [
        Owner("a", ((0, 100),), 30 * MIB),
        Owner("b", ((0, 100),), 0),
        Owner("c", ((0, 100),), 200 * MIB),
    ]
    shares, _ = shared_out(pairs, owners)
    assert set(shares) == {"a", "b"}
    assert abs(len(shares["a"]) - 35) <= 1
    assert (np.diff(shares["a"].list_nos) == 1).all()  # in one run, as disks like it


def test_little_work_goes_to_one_server() -> None:
    pairs = pairs_of(np.array([[1, 50, 99]]), np.full(100, 1000))
    owners = [Owner("a", ((0, 60),), 0), Owner("b", ((40, 100),), 0), Owner("c", ((0, 100),), 5)]
    shares, left = shared_out(pairs, owners)
    assert not len(left)
    assert len(shares) <= 2
    bytes_by_server = {a: len(p) for a, p in shares.items()}
    assert sum(bytes_by_server.values()) == 3


def test_pairs_without_work_are_left_out() -> None:
    pairs = pairs_of(np.array([[0, 1, -1], [2, -1, -1]]), np.array([5, 0, 7]))
    assert pairs.rows.tolist() == [0, 1]
    assert pairs.list_nos.tolist() == [0, 2]
    assert pairs.total_bytes == 12
    shares, left = shared_out(pairs_of(np.empty((0, 3), np.int64), np.ones(3, np.int64)), [])
    assert shares == {}
    assert len(left) == 0
