"""Which server owns which lists: every list as often as asked, and nearly equal bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teravec.errors import InvalidArgument
from teravec.index.opened import OPEN_END
from teravec.serving.deploy.ownership import owned_lists


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.integers(1, 12), st.integers(1, 12)
)
def test_every_list_has_its_owners(sizes: list[int], servers: int, replicas: int) -> None:
    if replicas > servers or servers > len(sizes):
        with pytest.raises(InvalidArgument):
            owned_lists(np.array(sizes), servers, replicas)
        return
    owned = owned_lists(np.array(sizes), servers, replicas)
    assert len(owned) == servers
    owners = np.zeros(len(sizes), int)
    for ranges in owned:
        ends = [end for pair in ranges for end in pair]
        assert ends == sorted(set(ends))  # ascending, apart, none empty
        assert len(ranges) <= 2
        for start, stop in ranges:
            owners[start:stop] += 1
    assert (owners == replicas).all()


def test_bytes_are_nearly_equal() -> None:
    sizes = np.random.default_rng(0).lognormal(6, 1, 2000).astype(np.int64)
    for servers, replicas in ((3, 1), (7, 1), (5, 2), (20, 3)):
        owned = owned_lists(sizes, servers, replicas)
        held = [sum(int(sizes[a:b].sum()) for a, b in ranges) for ranges in owned]
        # A cut is at most half a list from its place; a run has two, and there are `replicas`.
        assert max(held) - min(held) <= 2 * replicas * sizes.max()
        assert sum(held) == replicas * sizes.sum()


def test_one_large_list() -> None:
    owned = owned_lists(np.array([100, 1, 1, 1]), 2)
    assert owned == (((0, 1),), ((1, OPEN_END),))
    assert owned_lists(np.array([5, 5]), 2, 2) == (((0, OPEN_END),), ((0, OPEN_END),))
