"""Concatenation: equal to NumPy's, list by list, whatever the window; damage is named."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teravec.errors import CorruptFile
from teravec.storage.concatenation import Piece, Window, concatenate, plan_windows
from teravec.storage.listfile import ListFile
from tests.storage.damage import flipped
from tests.storage.lists import random_lists, write_lists

SIZES = st.integers(1, 5).flatmap(
    lambda nlist: st.lists(
        st.lists(st.integers(0, 12), min_size=nlist, max_size=nlist), min_size=1, max_size=4
    ).map(np.array)
)


@settings(max_examples=200, deadline=None)
@given(sizes=SIZES, row_bytes=st.integers(9, 40), window_bytes=st.integers(1, 2000))
def test_plan_covers_every_row_once_in_order(
    sizes: np.ndarray, row_bytes: int, window_bytes: int
) -> None:
    found = []
    rows_most = max(1, window_bytes // row_bytes)
    for part in plan_windows(list(sizes), row_bytes, window_bytes):
        if isinstance(part, Window):
            rows = [
                (list_no, file, row)
                for list_no in range(part.start, part.stop)
                for file, size in enumerate(sizes[:, list_no])
                for row in range(size)
            ]
        else:
            rows = [(part.position, part.file, r) for r in range(part.row_start, part.row_stop)]
            assert rows
            assert part.last == (part.row_stop == sizes[part.file, part.position])
            assert sizes[:, part.position].sum() > rows_most, "a list that fits is not cut"
        assert len(rows) <= rows_most
        found += rows
    nfiles, nlist = sizes.shape
    assert found == [
        (i, file, row)
        for i in range(nlist)
        for file in range(nfiles)
        for row in range(sizes[file, i])
    ]


@settings(max_examples=50, deadline=None)
@given(
    sizes=SIZES,
    code_size=st.integers(1, 5),
    window_bytes=st.integers(1, 700) | st.just(1 << 30),
    threads=st.integers(1, 3),
    data=st.data(),
)
def test_equals_numpy(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: np.ndarray,
    code_size: int,
    window_bytes: int,
    threads: int,
    data: st.DataObject,
) -> None:
    nlist = sizes.shape[1]
    first = data.draw(st.integers(0, nlist - 1))
    stop = data.draw(st.integers(first, nlist))
    inputs = [random_lists(row, code_size, seed) for seed, row in enumerate(sizes)]
    with ExitStack() as stack:
        files = []
        for i, lists in enumerate(inputs):
            path = tmp_path_factory.getbasetemp() / f"in{i}.lists"
            write_lists(path, lists)
            files.append(stack.enter_context(ListFile(path, lists=(first, stop))))
        parts = list(concatenate(files, window_bytes, threads))
    expected = [lists.list_of(i) for i in range(first, stop) for lists in inputs]
    row_bytes = code_size + 8
    assert all(len(ids) * row_bytes <= max(window_bytes, row_bytes) for _, ids in parts)
    assert all(codes.shape == (len(ids), code_size) for codes, ids in parts)
    for found, wanted in zip(zip(*parts, strict=True), zip(*expected, strict=True), strict=False):
        np.testing.assert_array_equal(np.concatenate(found), np.concatenate(wanted))
    assert sum(len(ids) for _, ids in parts) == sizes[:, first:stop].sum()


@pytest.mark.parametrize("window_bytes", [1, 45, 1 << 20])
def test_every_flipped_byte_is_found_and_named(tmp_path: Path, window_bytes: int) -> None:
    """List 5 goes in pieces where the window is small; lists 6 and 7 are empty in one file."""
    paths = [tmp_path / f"{i}.lists" for i in range(2)]
    for seed, (path, sizes) in enumerate(zip(paths, ([2, 5, 0, 1], [1, 3, 1, 0]), strict=True)):
        write_lists(path, random_lists(sizes, 3, seed), list_start=4)
    for path in paths:
        with ListFile(path) as file:
            header, starts = file.header, file.starts
        for offset in flipped(path, header.codes_offset, header.table_offset, [0x10]):
            part, row = "codes", (offset - header.codes_offset) // 3
            if offset >= header.ids_offset:
                part, row = "ids", (offset - header.ids_offset) // 8
            list_no = 4 + int(np.searchsorted(starts, row, side="right")) - 1
            # A list's other half may follow in the same window: only the whole is checked.
            with (
                ListFile(paths[0]) as one,
                ListFile(paths[1]) as two,
                pytest.raises(CorruptFile, match=f"{path}: {part} of list {list_no} "),
            ):
                list(concatenate([one, two], window_bytes, 1))


def test_damage_outside_the_opened_lists_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "f.lists"
    write_lists(path, random_lists([2, 2, 2], 3))
    data = bytearray(path.read_bytes())
    data[128] ^= 1
    path.write_bytes(data)
    with ListFile(path, lists=(1, 3)) as file:
        assert sum(len(ids) for _, ids in concatenate([file], 1 << 20, 1)) == 4


def test_pieces_of_a_large_list_come_in_the_files_order() -> None:
    sizes = [np.array([3]), np.array([0]), np.array([2])]
    assert list(plan_windows(sizes, 10, 20)) == [
        Piece(0, 0, 0, 2, False),
        Piece(0, 0, 2, 3, True),
        Piece(0, 2, 0, 2, True),
    ]
