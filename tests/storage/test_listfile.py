"""List files: every row reads back, and no damaged byte passes."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from teravec.errors import CorruptFile, ForeignFile, IncompatibleVersion, MissingFile
from teravec.storage import listfile, listtable
from teravec.storage.listfile import ListFile, verify_lists
from tests.storage.damage import flipped, truncated
from tests.storage.lists import file_bytes, header_of, random_lists, write_lists

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    sizes=SIZES,
    code_size=st.integers(1, 9),
    list_start=st.integers(0, 5),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    block_lists=st.integers(1, 5),
    read_blocks=st.integers(1, 3),
    data=st.data(),
)
def test_written_in_any_pieces_reads_back(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    code_size: int,
    list_start: int,
    cuts: list[int],
    block_lists: int,
    read_blocks: int,
    data: st.DataObject,
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.lists"
    lists = random_lists(sizes, code_size)
    header = header_of(lists, list_start)
    with patch.object(listtable, "BLOCK_LISTS", block_lists):
        seal = write_lists(path, lists, cuts, list_start=list_start)
    assert path.read_bytes() == file_bytes(lists, header, block_lists)
    first = data.draw(st.integers(0, len(sizes)))
    stop = data.draw(st.integers(first, len(sizes)))
    with (
        patch.object(listtable, "BLOCK_LISTS", block_lists),
        patch.object(listtable, "_READ_BLOCKS", read_blocks),
        patch.object(listfile, "_VERIFY_BYTES", 20),
        ListFile(path) as file,
        ListFile(path, lists=(list_start + first, list_start + stop)) as part,
    ):
        verify_lists(path)
        assert (file.header, file.seal, part.seal) == (header, seal, seal)
        np.testing.assert_array_equal(file.sizes, sizes)
        np.testing.assert_array_equal(file.starts, lists.starts)
        np.testing.assert_array_equal(part.sizes, file.sizes[first:stop])
        np.testing.assert_array_equal(part.starts, file.starts[first : stop + 1])
        np.testing.assert_array_equal(part.code_checksums, file.code_checksums[first:stop])
        np.testing.assert_array_equal(part.id_checksums, file.id_checksums[first:stop])
        for i in range(first, stop):
            rows = int(part.starts[i - first]), int(part.starts[i - first + 1])
            codes, ids = lists.list_of(i)
            np.testing.assert_array_equal(part.read_codes(*rows), codes)
            np.testing.assert_array_equal(part.read_ids(*rows), ids)
            assert part.code_offset(rows[0]) == 128 + rows[0] * code_size


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of lists 7 to 11, some of them empty."""
    path = tmp_path / "small.lists"
    write_lists(path, random_lists([0, 3, 1, 0, 4], 3), list_start=7)
    return path


def test_every_flipped_byte_is_found(path: Path) -> None:
    with ListFile(path) as file:
        header, starts = file.header, file.starts
    for offset in flipped(path):
        with pytest.raises(CorruptFile, match=str(path)) as caught:
            verify_lists(path)
        if header.codes_offset <= offset < header.table_offset:
            part, row = "codes", (offset - header.codes_offset) // 3
            if offset >= header.ids_offset:
                part, row = "ids", (offset - header.ids_offset) // 8
            list_no = 7 + int(np.searchsorted(starts, row, side="right")) - 1
            assert f"{part} of list {list_no} " in str(caught.value)
        else:  # header, table and footer are checked on opening, of a part as well
            with pytest.raises(CorruptFile, match=str(path)):
                ListFile(path, lists=(8, 9))


def test_other_lengths_are_found(path: Path) -> None:
    for _ in truncated(path):
        with pytest.raises(CorruptFile, match=str(path)):
            ListFile(path)
    whole = path.read_bytes()
    for more in (b"\0", whole[-32:], whole, bytes(4096)):
        path.write_bytes(whole + more)
        with pytest.raises(CorruptFile, match="bytes found"):
            ListFile(path)


def test_truncation_after_opening_is_found(path: Path) -> None:
    with ListFile(path) as file:
        os.truncate(path, file.code_offset(2) + 1)
        assert len(file.read_codes(0, 2)) == 2
        with pytest.raises(CorruptFile, match="ends at byte"):
            file.read_codes(0, 3)
        with pytest.raises(CorruptFile, match="ends at byte"):
            file.read_ids(0, 1)


def test_other_version_and_missing_file(path: Path) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 8, 3)
    struct.pack_into("<Q", data, 120, xxhash.xxh3_64_intdigest(data[:120]))
    path.write_bytes(data)
    with pytest.raises(IncompatibleVersion, match="version 3, version 2 expected"):
        ListFile(path)
    with pytest.raises(MissingFile):
        ListFile(path.with_name("no"))


def test_failed_opening_leaks_no_descriptor(path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    path.write_bytes(path.read_bytes()[:-1])
    for _ in range(3):
        with pytest.raises(CorruptFile):
            ListFile(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_swapped_files_are_foreign(path: Path) -> None:
    lists, model = random_lists([2, 2], 3), 0xABC
    write_lists(path, lists, model=model)
    with ListFile(path) as file:
        file.check_belongs(model=model, code_size=3)
        for wrong in ({"model": 0xABD, "code_size": 3}, {"model": model, "code_size": 4}):
            with pytest.raises(ForeignFile, match=str(path)):
                file.check_belongs(**wrong)


def test_seal_tells_apart_whatever_differs(path: Path) -> None:
    """A manifest names a slice by its seal, which must move with any row, size or setting."""
    lists = random_lists([2, 0, 3], 3)
    other_code, other_id = lists.codes.copy(), lists.ids.copy()
    other_code[4, 2] ^= 1
    other_id[0] ^= 1
    variants = [
        lists,
        replace(lists, codes=other_code),
        replace(lists, ids=other_id),
        replace(lists, sizes=np.array([2, 3, 0])),
        replace(lists, sizes=np.array([0, 2, 3])),
    ]
    seals = [write_lists(path, variant) for variant in variants]
    seals += [write_lists(path, lists, list_start=1), write_lists(path, lists, model=1)]
    assert len(set(seals)) == len(seals)
    assert write_lists(path, lists) == seals[0]
