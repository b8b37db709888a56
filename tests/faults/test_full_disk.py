"""A full disk: a clear error, nothing half-sealed, and a build that goes on with more room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import teravec
from teravec.cli.main import app
from tests.conftest import LONG, clustered, write_fbin
from tests.faults.conftest import tree

OPTIONS = ["--nlist", "64", "--niter", "3", "--shards", "3", "--slices", "2", "--sample", "3000"]


def resize(mount: Path, kib: int) -> None:
    """Give the disk another size."""
    subprocess.run(["mount", "-o", f"remount,size={kib}k", str(mount)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty tmpfs of 4 KiB: one page."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(mount)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this machine does not let a tmpfs be mounted: {done.stderr.strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def run(*arguments: object) -> tuple[int, list[str]]:
    """Exit code, and lines on standard error."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stderr.splitlines()


def test_build_goes_on_with_more_room(small_disk: Path, tmp_path: Path) -> None:
    source = write_fbin(tmp_path / "x.fbin", clustered(20_000, 32))
    build = ["build", source, *OPTIONS, "-q", "--out"]
    assert run(*build, tmp_path / "whole", "--keep-shards") == (0, [])
    whole = tree(tmp_path / "whole")
    index, stopped = small_disk / "i", []
    (small_disk / "filler").write_bytes(bytes(4096))
    for kib in (4, 8, 16, 64, *range(256, 4096, 128 if LONG else 320)):
        resize(small_disk, kib)
        code, lines = run(*build, index)
        if code == 0:
            break
        assert code == 2, lines
        assert len(lines) == 1, lines
        named = Path(lines[0].removeprefix("teravec: ").split(":")[0])
        assert named.is_relative_to(index), lines
        assert named != index
        assert lines[0].endswith("no space left on the disk")
        stopped.append(named.parent.name)
        (small_disk / "filler").unlink(missing_ok=True)
        for name, data in tree(index).items():
            assert not name.endswith(".tmp")
            unfinished = name.startswith(("training", "adding"))
            assert unfinished or data == whole[name], name
    assert {"i", "training", "shards", "slices"} <= set(stopped), stopped
    assert run("merge", "--out", tmp_path / "whole", "-q") == (0, [])
    assert tree(index) == tree(tmp_path / "whole")


def test_results_that_do_not_fit(small_disk: Path, tmp_path: Path) -> None:
    source = write_fbin(tmp_path / "x.fbin", clustered(2000, 8))
    assert run("build", source, "--out", tmp_path / "i", "--nlist", "4", "-q") == (0, [])
    for extension in (".npz", ".ibin", ".bin", ".npy", ".ivecs", ".parquet"):
        out = small_disk / f"r{extension}"
        code, lines = run("search", tmp_path / "i", source, "--out", out)
        assert code == 2
        assert len(lines) == 1
        assert str(out) in lines[0]
        assert "no space left" in lines[0]
        assert tree(small_disk) == {}


def test_exports_and_ground_truth_that_do_not_fit(small_disk: Path, tmp_path: Path) -> None:
    source = write_fbin(tmp_path / "x.fbin", clustered(2000, 8))
    assert run("build", source, "--out", tmp_path / "i", "--nlist", "4", "-q") == (0, [])
    out = small_disk / "gt.bin"
    for command in (
        ["export-faiss", tmp_path / "i", small_disk / "x.faiss", "-q"],
        ["groundtruth", source, source, "--out", out, "-k", "20", "-q"],
    ):
        code, lines = run(*command)
        assert code == 2
        assert len(lines) == 1
        assert "no space left" in lines[0]
        assert tree(small_disk) == {}
    resize(small_disk, 1024)
    assert run(*command)[0] == 0
    assert sorted(tree(small_disk)) == ["gt.bin"]


def test_read_only_disk_is_an_error(small_disk: Path, tmp_path: Path) -> None:
    source = write_fbin(tmp_path / "x.fbin", clustered(500, 8))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(teravec.StorageError, match="read-only"):
        teravec.build(source, small_disk / "i")
    code, lines = run("build", source, "--out", small_disk / "i", "-q")
    assert code == 2
    assert len(lines) == 1
    assert str(small_disk / "i") in lines[0]
