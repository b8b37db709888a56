"""Buffers that are lent: large enough, at a page, kept within their bytes."""

from __future__ import annotations

import numpy as np
import pytest

from teravec.storage.buffers import Buffers


@pytest.mark.parametrize("size", [1, 512, 4096, 5000, 1 << 20, (1 << 20) + 1])
def test_large_enough_and_not_much_more(size: int) -> None:
    buffer = Buffers(0).take(size)
    assert size <= len(buffer) <= size * 9 / 8 + 4096
    assert buffer.ctypes.data % 4096 == 0


def test_what_was_given_back_is_lent_again() -> None:
    buffers = Buffers(1 << 20)
    small, large = buffers.take(10_000), buffers.take(100_000)
    buffers.give_back(large)
    buffers.give_back(small)
    assert buffers.take(9_000) is small
    assert buffers.take(9_000) is large
    other = buffers.take(9_000)
    assert not np.shares_memory(other, small)
    assert not np.shares_memory(other, large)


def test_no_more_is_kept_than_allowed() -> None:
    buffers = Buffers(100_000)
    lent = [buffers.take(size) for size in (30_000, 60_000, 90_000)]
    for buffer in lent:
        buffers.give_back(buffer)
    assert buffers.take(1) is lent[2]
    assert all(buffers.take(1) is not buffer for buffer in lent[:2])
    huge = buffers.take(1 << 20)
    buffers.give_back(huge)
    assert buffers.take(1) is not huge
