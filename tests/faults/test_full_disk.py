"""A full disk: a clear error, nothing half-sealed, and a build that goes on with more room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import teravec
from tests.conftest import clustered, write_fbin


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty tmpfs of 1 MiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def test_full_disk_is_an_error_and_a_resumable_build(small_disk: Path, tmp_path: Path) -> None:
    source = write_fbin(tmp_path / "x.fbin", clustered(20_000, 32))
    arguments = {"nlist": 64, "niter": 3, "shards": 3, "slices": 2, "sample": 10_000}
    teravec.build(source, tmp_path / "whole", **arguments)  # type: ignore[arg-type]
    expected = {
        path.relative_to(tmp_path / "whole"): path.read_bytes()
        for path in (tmp_path / "whole").rglob("*")
        if path.is_file()
    }
    index: Path = small_disk / "i"
    failures: list[str] = []
    for kib in range(1024, 8192, 128):
        subprocess.run(["mount", "-o", f"remount,size={kib}k", str(small_disk)], check=True)
        try:
            teravec.build(source, index, **arguments)  # type: ignore[arg-type]
            break
        except teravec.StorageError as error:
            failures.append(str(error))
            assert not list(index.rglob("*.tmp"))
    assert len(failures) >= 4
    for message in failures:
        assert "no space left" in message
        assert str(index) in message
        assert "\n" not in message
    found = {p.relative_to(index): p.read_bytes() for p in index.rglob("*") if p.is_file()}
    assert found == expected


def test_read_only_disk_is_an_error(small_disk: Path, tmp_path: Path) -> None:
    source = write_fbin(tmp_path / "x.fbin", clustered(500, 8))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(teravec.StorageError, match="read-only"):
        teravec.build(source, small_disk / "i")
