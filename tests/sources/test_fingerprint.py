"""Fingerprints follow contents, not places."""

from __future__ import annotations

from pathlib import Path

import pytest

from teravec.errors import InvalidSource
from teravec.sources import open_source
from teravec.sources.fingerprint import fingerprint

from .writers import random_matrix, write_bin


@pytest.mark.parametrize("size", [0, 1, 5000, 200_000, 3_000_000])
def test_moving_changes_nothing(size: int, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(range(250)) * (size // 250) + b"x" * (size % 250))
    before = fingerprint(path)
    assert len(before) == 16
    assert int(before, 16) >= 0
    (tmp_path / "elsewhere").mkdir()
    assert fingerprint(path.rename(tmp_path / "elsewhere" / "b")) == before


@pytest.mark.parametrize("at", [0, 70_000, 131_071])
def test_small_files_are_covered_whole(at: int, tmp_path: Path) -> None:
    contents = bytearray(131_072)
    path = tmp_path / "a"
    path.write_bytes(contents)
    before = fingerprint(path)
    contents[at] = 1
    path.write_bytes(contents)
    assert fingerprint(path) != before


def test_large_files_are_probed(tmp_path: Path) -> None:
    contents = bytearray(2_000_000)
    path = tmp_path / "a"
    path.write_bytes(contents)
    seen = {fingerprint(path)}
    for change in (0, 1_999_999, (2_000_000 - 4096) * 7 // 15):
        changed = contents.copy()
        changed[change] = 1
        path.write_bytes(changed)
        seen.add(fingerprint(path))
    path.write_bytes(contents + b"\0")
    seen.add(fingerprint(path))
    assert len(seen) == 5


def test_description_ignores_the_directory(tmp_path: Path) -> None:
    x = random_matrix(10, 4, "f4")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_bin(tmp_path / folder / "x.fbin", x)
    here, there = open_source(tmp_path / "one"), open_source(tmp_path / "two")
    assert here.describe() == there.describe()
    x[3, 2] += 1
    write_bin(tmp_path / "two" / "x.fbin", x)
    assert here.describe() != there.describe()


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidSource, match="no such file"):
        fingerprint(tmp_path / "a")
