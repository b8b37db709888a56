"""Measurements of disks that the user keeps: one per file system, and never in the way."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path

import pytest

from teravec.errors import CorruptFile, StorageError
from teravec.storage import file_system
from teravec.storage.device_cache import find_gap_bytes, keep_profile
from teravec.storage.file_system import find_file_system
from teravec.storage.user_cache import CACHE_VARIABLE
from tests.storage.test_device import made_up

PLATTER = made_up(8e-3, 5e-9)  # reads across a MiB
FLASH = made_up(1e-7, 1e-9)  # reads across 4 KiB


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_measurement_is_found_for_its_file_system(cache: Path, tmp_path: Path) -> None:
    none = tmp_path / "none"
    assert find_gap_bytes(tmp_path, none) is None
    assert not cache.exists(), "looking for a measurement leaves nothing behind"
    kept = keep_profile(PLATTER, tmp_path)
    assert kept.parent == cache
    assert find_gap_bytes(tmp_path, none) == 1 << 20
    assert find_gap_bytes(tmp_path / "not" / "there" / "yet", none) == 1 << 20
    assert find_gap_bytes(Path("/proc"), none) is None, "another file system"
    keep_profile(FLASH, tmp_path)
    assert find_gap_bytes(tmp_path, none) == 4096
    assert list(cache.iterdir()) == [kept]


def test_a_measurement_that_an_older_release_kept_in_the_index(cache: Path, tmp_path: Path) -> None:
    older = tmp_path / "device.json"
    PLATTER.write(older)
    assert find_gap_bytes(tmp_path, older) == 1 << 20
    keep_profile(FLASH, tmp_path)
    assert find_gap_bytes(tmp_path, older) == 4096, "the user's own comes first"
    keep_profile(dataclasses.replace(FLASH, cold=False), tmp_path)
    assert find_gap_bytes(tmp_path, older) == 1 << 20, "a measurement of memory does not count"
    older.write_text("{}")
    with pytest.raises(CorruptFile, match=r"device\.json"):
        find_gap_bytes(tmp_path, older)
    assert cache.exists()


@pytest.mark.parametrize("damage", ["cut", "empty object", "directory"])
def test_a_damaged_cache_is_a_warning(
    cache: Path, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept = keep_profile(PLATTER, tmp_path)
    text = kept.read_text()
    kept.unlink()
    if damage == "directory":
        kept.mkdir()
    else:
        kept.write_text(text[:-10] if damage == "cut" else "{}\n")
    with caplog.at_level(logging.WARNING):
        assert find_gap_bytes(tmp_path, tmp_path / "none") is None
    assert f"measure the disk again by teravec bench-disk: {kept}" in caplog.text
    assert cache.exists()


def find_nobody(_: int) -> None:
    raise KeyError("no such user")


def test_a_user_without_a_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (CACHE_VARIABLE, "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", find_nobody)
    assert find_gap_bytes(tmp_path, tmp_path / "none") is None
    assert not caplog.records
    with pytest.raises(StorageError, match=f"no home directory found.*{CACHE_VARIABLE}"):
        keep_profile(PLATTER, tmp_path)


def test_the_innermost_mount_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path.resolve()
    (root / "a b").mkdir()
    mounts = tmp_path / "mounts"
    space = str(root / "a b").replace(" ", r"\040")
    mounts.write_text(
        "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"22 21 0:30 / {space} rw shared:1 master:2 - nfs4 one:/x rw\n"
        f"23 22 0:31 / {space} rw - nfs4 two:/y\\040z rw\n"
        f"24 21 0:32 / {root}/a rw - tmpfs tmpfs rw\n"
    )
    monkeypatch.setattr(file_system, "MOUNTS", mounts)
    found = find_file_system(root / "a b" / "index")
    assert (found.kind, found.source) == ("nfs4", "two:/y z"), "the later of two hides the other"
    outer = find_file_system(root)
    assert (outer.kind, outer.source, outer.host) == ("ext4", "/dev/sda1", os.uname().nodename)
    assert outer.key != found.key
    assert dataclasses.replace(outer, host="another").key != outer.key
    (root / "link").symlink_to(root / "a b")
    assert find_file_system(root / "link") == found
    mounts.unlink()
    assert find_file_system(root).kind == ""
