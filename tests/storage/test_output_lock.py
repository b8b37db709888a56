"""The lock of an output: who gets it, what is left of it, and where there are no locks."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from teravec.errors import OutputExists, StorageError
from teravec.storage import locks
from teravec.storage.files import publishing, write_all
from teravec.storage.output_lock import hold_directory, hold_file

Refuse = Callable[..., None]


def refused(holding: AbstractContextManager[None]) -> bool:
    try:
        with holding:
            return False
    except OutputExists:
        return True


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Make locks fail, as file systems without them do."""

    def failing(number: int, *, flock: bool = True, bytes_: bool = True) -> None:
        def fail(*_: Any) -> None:
            raise OSError(number, os.strerror(number))

        if flock:
            monkeypatch.setattr(fcntl, "flock", fail)
        if bytes_:
            monkeypatch.setattr(fcntl, "fcntl", fail)
        locks.warned.clear()

    return failing


def test_one_holds_a_directory_and_nothing_stays(tmp_path: Path) -> None:
    out = tmp_path / "new" / "deep"
    with hold_directory(out, create=True):
        assert refused(hold_directory(out, create=True))
        assert refused(hold_directory(out, (5, 6)))
        assert [p.name for p in out.iterdir()] == [".lock"]
    assert not (tmp_path / "new").exists(), "made by us, and empty"
    with hold_directory(out, create=True):
        (out / "kept").touch()
    assert [p.name for p in out.iterdir()] == ["kept"]


def test_rows_apart_are_held_at_once(tmp_path: Path) -> None:
    with hold_directory(tmp_path, (0, 100)):
        with hold_directory(tmp_path, (100, 200)):
            assert refused(hold_directory(tmp_path, (150, 300)))
            assert refused(hold_directory(tmp_path))
        assert (tmp_path / ".lock").exists(), "the first still holds it"
        assert refused(hold_directory(tmp_path, (99, 101)))
        assert refused(hold_directory(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_file_beside_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with hold_file(Path("r.npz")):
        monkeypatch.chdir("/")
        assert refused(hold_file(tmp_path / "r.npz"))
        with hold_file(tmp_path / "other.npz"):
            pass
        with publishing(tmp_path / "r.npz") as file:
            write_all(file, b"x", 0)
    assert [p.name for p in tmp_path.iterdir()] == ["r.npz"]


def test_what_a_kill_leaves_is_held_by_nobody(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from teravec.storage.output_lock import *\n"
        "with hold_directory(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    assert refused(hold_directory(tmp_path))
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert (tmp_path / ".lock").exists()
    with hold_directory(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_one_of_many_at_a_time(tmp_path: Path) -> None:
    """Directory and lock file come and go under those who want them."""
    out, inside, most, done = tmp_path / "out", 0, 0, 0
    until = time.monotonic() + 0.5

    def work() -> None:
        nonlocal inside, most, done
        while time.monotonic() < until:
            try:
                with hold_directory(out, create=True):
                    inside += 1
                    most = max(most, inside)
                    time.sleep(0.001)
                    inside -= 1
                    done += 1
            except OutputExists:
                time.sleep(0.0002)

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert done > 3
    assert not out.exists() or not list(out.iterdir())


def test_a_directory_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be written there, so nothing need be locked: a finished build is read."""
    real = os.open

    def read_only(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", read_only)
    with hold_directory(tmp_path), hold_file(tmp_path / "f"):
        pass
    monkeypatch.undo()
    with hold_directory(tmp_path / "missing"), hold_file(tmp_path / "missing" / "f"):
        assert not (tmp_path / "missing").exists()


def test_a_lock_file_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be opened for writing, but who holds it can be seen."""
    real = os.open

    def theirs(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if str(path).endswith(".lock") and flags & os.O_RDWR:
            raise OSError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, *rest, **named)

    with hold_directory(tmp_path):
        monkeypatch.setattr(os, "open", theirs)
        assert refused(hold_directory(tmp_path))
    (tmp_path / ".lock").touch()
    with hold_directory(tmp_path):
        pass


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    with (
        pytest.raises(StorageError, match="out: cannot write: no space left"),
        hold_file(tmp_path / "out"),
    ):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_no_locks_at_all(
    tmp_path: Path, refuse: Refuse, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    refuse(number)
    with hold_directory(tmp_path), hold_directory(tmp_path, (0, 5)):
        assert list(tmp_path.iterdir()) == []
    with hold_file(tmp_path / "f"), publishing(tmp_path / "f") as file:
        write_all(file, b"x", 0)
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert len(caplog.records) == 1, "said once"
    assert "this file system has no locks" in caplog.text


def test_only_flock(tmp_path: Path, refuse: Refuse) -> None:
    refuse(errno.EINVAL, flock=False)
    with hold_directory(tmp_path):
        assert refused(hold_directory(tmp_path))
        assert refused(hold_directory(tmp_path, (0, 5)))
    with hold_directory(tmp_path, (0, 5)), hold_directory(tmp_path, (5, 9)):
        assert refused(hold_directory(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_only_locks_of_bytes(tmp_path: Path, refuse: Refuse) -> None:
    refuse(errno.ENOLCK, bytes_=False)
    with hold_directory(tmp_path):
        assert refused(hold_directory(tmp_path))
    with (
        publishing(tmp_path / "f"),
        pytest.raises(OutputExists, match="writing this file now"),
        publishing(tmp_path / "f"),
    ):
        pass


def test_a_disk_that_fails_is_no_file_system_without_locks(tmp_path: Path, refuse: Refuse) -> None:
    refuse(errno.EIO)
    with pytest.raises(StorageError, match="input/output error"), hold_directory(tmp_path):
        pass
