"""Row files: what was written is read, by the format's description; any damage is found."""

from __future__ import annotations

import os
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from teravec.errors import CorruptFile, ForeignFile, IncompatibleVersion
from teravec.native import extensions as native
from teravec.storage.local_store import stored
from teravec.storage.rowfile import (
    RowFile,
    RowFileHeader,
    RowFileWriter,
    page_bytes_for,
    verify_rows,
)
from tests.storage.damage import flipped


def random_rows(n: int, row_size: int, seed: int = 0) -> np.ndarray:
    """Rows of random bytes."""
    return np.random.default_rng(seed).integers(0, 256, (n, row_size), np.uint8)


def write_rows(
    path: Path, rows: np.ndarray, *, model: int = 2**64 - 5, cuts: tuple[int, ...] = ()
) -> str:
    """Publish a row file, its rows in pieces that end at ``cuts``; return its seal."""
    header = RowFileHeader(rows.shape[1], page_bytes_for(rows.shape[1]), 3, 9, len(rows), model)
    with stored(path).publish(verify_rows) as file:
        writer = RowFileWriter(file, header)
        for start, stop in pairwise([0, *sorted(min(c, len(rows)) for c in cuts), len(rows)]):
            writer.write(rows[start:stop])
        return writer.finish()


def read_all(path: Path) -> tuple[str, bytes]:
    """Seal and rows, as a search would read them."""
    with RowFile(path) as file:
        return file.seal, file.read_rows(0, file.header.ntotal).tobytes()


def file_bytes(rows: np.ndarray, model: int = 2**64 - 5) -> bytes:
    """The whole file, from the format's description alone."""
    n, size = rows.shape
    sizes = (512 * i for i in range(1, 1000))
    page_bytes = next(p for p in sizes if p >= size + 8 and (p - 8) // size * size * 6 >= p * 5)
    each = (page_bytes - 8) // size
    head = (
        b"TVROWS\0\0"
        + struct.pack("<II", 1, size)
        + struct.pack("<QQQQQ", page_bytes, 3, 9, n, model)
    )
    head += bytes(120 - len(head))
    own = xxhash.xxh3_64_intdigest(head)
    head += struct.pack("<Q", own)
    pages, checksums = b"", b""
    for number, start in enumerate(range(0, n, each)):
        content = rows[start : start + each].tobytes()
        content += bytes(page_bytes - 8 - len(content))
        found = struct.pack("<Q", xxhash.xxh3_64_intdigest(content, (own + number) % 2**64))
        pages, checksums = pages + content + found, checksums + found
    seal = struct.pack("<Q", xxhash.xxh3_64_intdigest(head + checksums))
    footer = seal + struct.pack("<Q", xxhash.xxh3_64_intdigest(head + seal)) + bytes(8)
    return head + bytes(4096 - len(head)) + pages + footer + b"TVROWS\0\0"


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(0, 300),
    row_size=st.sampled_from([1, 20, 80, 104, 1544, 4088, 4089, 9000]),
    cuts=st.lists(st.integers(0, 300), max_size=4),
)
def test_a_file_is_as_described_however_written(
    tmp_path_factory: pytest.TempPathFactory, n: int, row_size: int, cuts: list[int]
) -> None:
    path = tmp_path_factory.mktemp("rows") / "x.fine"
    rows = random_rows(n, row_size)
    seal = write_rows(path, rows, cuts=tuple(cuts))
    assert path.read_bytes() == file_bytes(rows)
    with RowFile(path) as file:
        assert file.seal == seal
        assert file.header.file_size == path.stat().st_size
        for start, stop in [(0, n), (n // 3, n // 2), (n, n), (max(0, n - 1), n)]:
            np.testing.assert_array_equal(file.read_rows(start, stop), rows[start:stop])


def test_pages_of_another_size_are_read(tmp_path: Path) -> None:
    rows = random_rows(50, 80)
    for page_bytes in (512, 4096):
        path = tmp_path / f"{page_bytes}.fine"
        with stored(path).publish(verify_rows) as file:
            writer = RowFileWriter(file, RowFileHeader(80, page_bytes, 0, 4, 50, 7))
            writer.write(rows)
            writer.finish()
        assert read_all(path)[1] == rows.tobytes()
    for page_bytes in (80, 600, 0):
        data = bytearray((tmp_path / "512.fine").read_bytes())
        data[16:24] = struct.pack("<Q", page_bytes)
        data[120:128] = struct.pack("<Q", xxhash.xxh3_64_intdigest(bytes(data[:120])))
        (tmp_path / "bad.fine").write_bytes(data)
        with pytest.raises(CorruptFile, match="fields disagree"):
            RowFile(tmp_path / "bad.fine")


@pytest.mark.parametrize(
    ("row_size", "page_bytes"),
    [(1, 512), (80, 512), (104, 1024), (200, 1024), (392, 2048), (1544, 3584), (4096, 4608)],
)
def test_pages_are_small_and_filled(row_size: int, page_bytes: int) -> None:
    assert page_bytes_for(row_size) == page_bytes


def test_many_pages_at_once(tmp_path: Path) -> None:
    rows = random_rows(60_000, 80)  # more than are written, and verified, at a time
    write_rows(tmp_path / "x.fine", rows)
    with RowFile(tmp_path / "x.fine") as file:
        np.testing.assert_array_equal(file.read_rows(0, 60_000), rows)


@pytest.mark.skipif(native.paging is None, reason="kernels are not compiled")
@pytest.mark.parametrize("page_bytes", [512, 1024, 1536, 4096, 9216])
def test_the_kernel_checks_as_xxhash(page_bytes: int) -> None:
    assert native.paging is not None
    pages = random_rows(9, page_bytes)
    for number, page in enumerate(pages):
        digest = xxhash.xxh3_64_intdigest(page[:-8].tobytes(), (2**64 - 3 + number) % 2**64)
        page[-8:] = np.frombuffer(digest.to_bytes(8, "little"), np.uint8)
    read, begins = pages.ravel(), np.arange(9)[::-1] * page_bytes
    numbers = np.arange(9)[::-1].copy()
    assert native.paging.wrong(page_bytes, 2**64 - 3, numbers, read, begins) == -1
    for byte in (0, page_bytes // 2, page_bytes - 9, page_bytes - 1):
        changed = read.copy()
        changed[4 * page_bytes + byte] ^= 1
        assert native.paging.wrong(page_bytes, 2**64 - 3, numbers, changed, begins) == 4
    for bad in [
        (page_bytes, 0, numbers[1:], read, begins),
        (248, 0, numbers, read, begins),
        (page_bytes, 0, numbers, read[1:], begins),
    ]:
        with pytest.raises(ValueError, match=r"expected|begins"):
            native.paging.wrong(*bad)


@pytest.mark.parametrize("compiled", [True, False])
def test_every_byte_flipped(
    tmp_path: Path, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(native, "paging", None)
    path = tmp_path / "x.fine"
    rows = random_rows(70, 80)
    seal = write_rows(path, rows)
    size = path.stat().st_size
    spans = [(0, 160), (4096, 4110), (4570, 4630), (size - 110, size)]
    for start, stop in spans:
        for offset in flipped(path, start, stop):
            with pytest.raises(CorruptFile, match=r"x\.fine"):
                verify_rows(path)
            if not 128 <= offset < 4096:  # behind the header only verify looks
                with pytest.raises(CorruptFile, match=r"x\.fine"):
                    read_all(path)
            else:
                assert read_all(path) == (seal, rows.tobytes())


def test_shorter_lengths(tmp_path: Path) -> None:
    path = tmp_path / "x.fine"
    write_rows(path, random_rows(3, 80))
    whole = path.read_bytes()
    assert len(whole) == 4096 + 512 + 32
    for length in (*range(0, 4608, 131), 127, 128, 129, 4095, 4096, *range(4550, 4640)):
        os.truncate(path, length)
        with pytest.raises(CorruptFile, match=r"x\.fine"):
            RowFile(path)
        path.write_bytes(whole)


def test_pages_of_elsewhere(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine.fine", tmp_path / "other.fine"
    rows = random_rows(18, 80)  # three pages
    write_rows(mine, rows)
    write_rows(other, rows, model=7)
    data = mine.read_bytes()
    swapped = data[:4096] + data[4608:5120] + data[4096:4608] + data[5120:]
    foreign = data[:4096] + other.read_bytes()[4096:4608] + data[4608:]
    for damaged in (swapped, foreign):
        mine.write_bytes(damaged)
        with RowFile(mine) as file, pytest.raises(CorruptFile, match=r"mine\.fine: page 0"):
            file.read_rows(0, 1)
        with pytest.raises(CorruptFile, match=r"mine\.fine: page 0"):
            verify_rows(mine)


def test_files_of_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "x.fine"
    write_rows(path, random_rows(5, 80), model=7)
    with RowFile(path) as file:
        file.check_belongs(model=7, row_size=80)
        for model, row_size in [(8, 80), (7, 81)]:
            with pytest.raises(ForeignFile, match=r"x\.fine"):
                file.check_belongs(model=model, row_size=row_size)
    data = bytearray(path.read_bytes())
    data[8] = 2
    data[120:128] = struct.pack("<Q", xxhash.xxh3_64_intdigest(bytes(data[:120])))
    path.write_bytes(data)
    with pytest.raises(IncompatibleVersion, match="version 2"):
        RowFile(path)
