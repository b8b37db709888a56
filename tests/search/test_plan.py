"""Which lists are read together."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from teravec.search.plan import plan_chunks


@settings(max_examples=200)
@given(
    lists=st.dictionaries(st.integers(0, 1000), st.integers(0, 30), max_size=12),
    row_bytes=st.integers(1, 50),
    chunk_bytes=st.integers(1, 1500),
)
def test_chunks_cover_every_row_once_in_order(
    lists: dict[int, int], row_bytes: int, chunk_bytes: int
) -> None:
    list_nos = np.array(sorted(lists), np.int64)
    sizes = np.array([lists[no] for no in sorted(lists)], np.int64)
    rows_most = max(1, chunk_bytes // row_bytes)
    seen: list[int] = []
    rows: list[tuple[int, int]] = []
    previous = 0
    for chunk in plan_chunks(list_nos, sizes, row_bytes, chunk_bytes):
        count = int(chunk.counts.sum())
        assert len(chunk.runs) == len(chunk.counts)
        assert count <= rows_most
        if chunk.whole:
            assert chunk.row_start == 0
            first = int(np.searchsorted(list_nos, chunk.runs[0]))
            after = first + len(chunk.runs)
            np.testing.assert_array_equal(sizes[first:after], chunk.counts)
            if after < len(sizes):  # as many lists as fit
                assert count + sizes[after] > rows_most
        else:
            (no,) = chunk.runs.tolist()
            assert lists[no] > rows_most
            assert chunk.row_start == (previous if seen and seen[-1] == no else 0)
            previous = chunk.row_start + count
        if not chunk.row_start:
            seen += chunk.runs.tolist()
        for no, size in zip(chunk.runs.tolist(), chunk.counts.tolist(), strict=True):
            rows += [(no, chunk.row_start + row) for row in range(size)]
    assert seen == sorted(lists)
    assert rows == [(no, row) for no in sorted(lists) for row in range(lists[no])]
