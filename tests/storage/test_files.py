"""Publishing: whole and durable, or not there at all; reads are exact; errors are typed."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from teravec.errors import (
    CorruptFile,
    InvalidArgument,
    MissingFile,
    OutputExists,
    StorageError,
    TeravecError,
    storage_errors,
)
from teravec.storage import files
from teravec.storage.arrays import file_checksum
from teravec.storage.files import (
    byte_view,
    make_directory,
    open_to_read,
    publishing,
    read_into,
    remove,
    write_all,
)
from teravec.storage.local_file import LocalFile
from teravec.storage.store import check_size


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def publish(path: Path, data: bytes) -> None:
    with publishing(path) as file:
        write_all(file, data, 0)


def test_content_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "f"
    publish(path, b"old")
    with publishing(path) as file:
        write_all(file, b"new content", 0)
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new content"
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize("before", [None, b"old"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, CorruptFile])
def test_failing_body_leaves_nothing(
    tmp_path: Path, before: bytes | None, error: type[BaseException]
) -> None:
    path = tmp_path / "f"
    if before:
        publish(path, before)
    with pytest.raises(error), publishing(path) as file:  # noqa: PT012
        write_all(file, b"half", 0)
        raise error
    assert names(tmp_path) == (["f"] if before else [])
    assert not before or path.read_bytes() == before
    publish(path, b"now")
    assert path.read_bytes() == b"now"


def test_second_writer_is_refused_and_disturbs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with publishing(path) as file:
        write_all(file, b"first", 0)
        with pytest.raises(OutputExists, match="another process"), publishing(path):
            raise AssertionError
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["f"]


def test_leftover_of_a_killed_process_is_reused(tmp_path: Path) -> None:
    path = tmp_path / "f"
    script = (
        "import os, signal, sys, pathlib; from teravec.storage.files import *\n"
        "with publishing(pathlib.Path(sys.argv[1])) as file:\n"
        "    write_all(file, b'x' * 1000, 0); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, path], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert names(tmp_path) == ["f.tmp"]
    publish(path, b"shorter")
    assert path.read_bytes() == b"shorter"
    assert names(tmp_path) == ["f"]


def test_failing_verification_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    publish(path, b"old")
    seen = []

    def refuse(temporary: Path) -> None:
        seen.append(temporary.read_bytes())
        raise CorruptFile("wrong")

    with pytest.raises(CorruptFile), publishing(path, verify=refuse) as file:
        write_all(file, b"new", 0)
    assert seen == [b"new"]
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


def test_order_of_sync_verify_rename_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def record_fsync(fd: int) -> None:
        events.append(f"fsync {Path(f'/proc/self/fd/{fd}').readlink().name}")
        fsync(fd)

    def record_rename(path: Path, target: Path) -> Path:
        events.append(f"rename {path.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "rename", record_rename)
    with publishing(tmp_path / "f", verify=lambda path: events.append(f"verify {path.name}")):
        events.append("body")
    expected = ["body", "fsync f.tmp", "verify f.tmp", "rename f.tmp", f"fsync {tmp_path.name}"]
    assert events == expected


@pytest.mark.parametrize("first_fails", [False, True])
def test_writer_that_opened_before_another_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_fails: bool
) -> None:
    """The second opens NAME.tmp; before its flock the first ends: renamed, or removed."""
    path = tmp_path / "f"
    flock = fcntl.flock
    first = publishing(path)
    write_all(first.__enter__(), b"sealed", 0)

    def end_first_then_lock(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        if first_fails:
            assert not first.__exit__(KeyError, KeyError(), None)
        else:
            first.__exit__(None, None, None)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", end_first_then_lock)
    with publishing(path) as file:
        if not first_fails:
            assert path.read_bytes() == b"sealed", "the sealed file was truncated"
        write_all(file, b"second", 0)
    assert path.read_bytes() == b"second"


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, StorageError, "no space left"),
        (errno.EDQUOT, StorageError, "quota"),
        (errno.EACCES, StorageError, "no permission"),
        (errno.EROFS, StorageError, "read-only"),
        (errno.EIO, StorageError, "input/output error"),
        (errno.EISDIR, StorageError, "Is a directory"),
        (errno.ENOENT, MissingFile, "no such file"),
    ],
)
def test_operating_system_errors_are_typed(
    tmp_path: Path, number: int, kind: type[TeravecError], words: str
) -> None:
    cause = OSError(number, os.strerror(number))
    with pytest.raises(kind, match=f"somewhere: cannot write: .*{words}") as caught:  # noqa: SIM117
        with storage_errors("somewhere", "write"):
            raise cause
    assert caught.value.__cause__ is cause
    assert "\n" not in str(caught.value)
    with pytest.raises(kind, match=f"{tmp_path}/f: "), publishing(tmp_path / "f"):
        raise cause
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [OutputExists("x"), CorruptFile("x"), StorageError("x")])
def test_typed_errors_pass_unchanged(error: TeravecError) -> None:
    with pytest.raises(type(error)) as caught, storage_errors("somewhere", "read"):
        raise error
    assert caught.value is error


def test_exit_codes_part_use_from_damage() -> None:
    assert {OutputExists.exit_code, InvalidArgument.exit_code, StorageError.exit_code} == {2}
    assert {MissingFile.exit_code, CorruptFile.exit_code} == {1}


def test_missing_directory_is_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="cannot write"), publishing(tmp_path / "no" / "f"):
        raise AssertionError
    with pytest.raises(MissingFile, match="cannot read"):
        open_to_read(tmp_path / "no")
    remove(tmp_path / "no")


def test_short_file_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    with LocalFile(path) as file:
        assert file.read(10, 0) == b"0123456789"
        assert file.read(0, 99) == b""
        for length, offset in ((11, 0), (1, 10), (5, 8), (1, 99)):
            with pytest.raises(CorruptFile, match=f"{path}: ends .*{length + offset} bytes"):
                file.read(length, offset)
        check_size(file, 10)
        with pytest.raises(CorruptFile, match=f"{path}: 10 bytes found, 11 expected"):
            check_size(file, 11)


def test_partial_reads_and_writes_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may move fewer bytes than asked for, as it does from 2 GiB on."""
    preadv, pwrite = os.preadv, os.pwrite

    def few_read(fd: int, buffers: list[Any], offset: int) -> int:
        return preadv(fd, [buffers[0][:7]], offset)

    def few_written(fd: int, data: memoryview, offset: int) -> int:
        return pwrite(fd, data[:5], offset)

    monkeypatch.setattr(os, "preadv", few_read)
    monkeypatch.setattr(os, "pwrite", few_written)
    values = np.arange(25, dtype=np.float64).reshape(5, 5)
    path = tmp_path / "f"
    with publishing(path) as file:
        write_all(file, byte_view(values), 3)
    found = np.zeros_like(values)
    fd = open_to_read(path)
    try:
        read_into(fd, byte_view(found), 3, path)
    finally:
        os.close(fd)
    np.testing.assert_array_equal(found, values)


def test_checksum_is_of_the_whole_file(tmp_path: Path) -> None:
    for length in (0, 99, 100, 101, 1234):
        data = np.random.default_rng(length).bytes(length)
        (tmp_path / "f").write_bytes(data)
        with LocalFile(tmp_path / "f") as file:
            assert file_checksum(file, block_bytes=100) == xxhash.xxh3_64_hexdigest(data)


def test_make_directory(tmp_path: Path) -> None:
    make_directory(tmp_path / "a" / "b")
    make_directory(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "b"):
        with pytest.raises(StorageError, match="cannot create"):
            make_directory(path)


def test_every_new_directory_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync_directory", synced.append)
    make_directory(tmp_path / "a" / "b")
    assert set(synced) == {tmp_path, tmp_path / "a"}
