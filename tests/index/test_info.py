"""The histogram of list sizes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from teravec.index.info import size_histogram


@given(st.lists(st.integers(0, 9) | st.integers(0, 2**40), min_size=1, max_size=50))
def test_every_list_is_in_one_row(sizes: list[int]) -> None:
    rows = size_histogram(np.array(sizes, np.int64))
    for row in rows:
        inside = [size for size in sizes if row["from"] <= size <= row["to"]]
        assert row["lists"] == len(inside)
        assert row["vectors"] == sum(inside)
    assert sum(row["lists"] for row in rows) == len(sizes)
    assert all(row["from"] == before["to"] + 1 for before, row in pairwise(rows))
    assert rows[0]["lists"]
    assert rows[-1]["lists"]


def test_rows_are_powers_of_two() -> None:
    rows = size_histogram(np.array([0, 1, 2, 3, 4, 8], np.int64))
    assert [(row["from"], row["to"]) for row in rows] == [(0, 0), (1, 1), (2, 3), (4, 7), (8, 15)]
