"""File systems and sandboxes without some system calls: work goes on where that is safe.

The calls fail by seccomp, as Lustre without locks, CIFS, 9p, FUSE and container runtimes make them.
"""

from __future__ import annotations

import errno
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import teravec
from tests.conftest import clustered

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.system() != "Linux", reason="numbers of x86-64"
)

FLOCK, FSYNC, FDATASYNC, FALLOCATE, FADVISE, AFFINITY = 73, 74, 75, 285, 221, 204
RING_SETUP, RING_ENTER, CACHESTAT, FCNTL, OFD_SETLK = 425, 426, 451, 72, 37

# Imports once, then forks a child for each case, which forbids itself some calls and runs commands.
SERVER = """
import ctypes, json, os, struct, sys, tempfile
from teravec.cli.main import app

def forbid(number, error, argument):
    load = [(0x20, 0, 0, 0), (0x15, 0, 1 if argument is None else 3, number)]
    if argument is not None:
        load += [(0x20, 0, 0, 24), (0x15, 0, 1, argument)]
    load += [(6, 0, 0, 0x50000 | error), (6, 0, 0, 0x7FFF0000)]
    code = b"".join(struct.pack("HBBI", *line) for line in load)
    class Program(ctypes.Structure):
        _fields_ = [("n", ctypes.c_ushort), ("code", ctypes.c_char_p)]
    keep = ctypes.create_string_buffer(code, len(code))
    program = Program(len(load), ctypes.cast(keep, ctypes.c_char_p))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0

def run(calls, commands):
    for call in calls:
        forbid(*call)
    for arguments in commands:
        try:
            app(arguments)
        except SystemExit as end:
            if end.code:
                return end.code
    return 0

for line in sys.stdin:
    calls, commands = json.loads(line)
    with tempfile.TemporaryFile("w+") as said:
        pid = os.fork()
        if pid == 0:
            os.dup2(said.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code = 99
            try:
                code = run(calls, commands)
                sys.stdout.flush()
                sys.stderr.flush()
            except BaseException as error:
                import traceback; traceback.print_exc()
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said.seek(0)
        print(json.dumps([code, said.read()]), flush=True)
"""


class Forbidden(NamedTuple):
    """A system call that fails, with this argument where it has one of many meanings."""

    call: int
    error: int
    argument: int | None = None


class Sandbox:
    """Runs commands without some system calls."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, calls: Sequence[Forbidden], *commands: str) -> tuple[int, str]:
        to, said = self._process.stdin, self._process.stdout
        assert to is not None
        assert said is not None
        to.write(json.dumps([calls, [command.split() for command in commands]]) + "\n")
        to.flush()
        code, errors = json.loads(said.readline())
        return code, errors


@pytest.fixture(scope="module")
def sandbox() -> object:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield Sandbox(process)
    process.communicate()


@pytest.fixture(scope="module")
def x(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("odd") / "x.npy"
    np.save(path, clustered(500, 8))
    return path


NO_FLOCK = [
    Forbidden(FLOCK, error)
    for error in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
]
NO_BYTES = Forbidden(FCNTL, errno.EINVAL, OFD_SETLK)
QUIET: list[list[Forbidden]] = [
    *([call] for call in NO_FLOCK),
    [NO_BYTES],
    *([Forbidden(FSYNC, error)] for error in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)),
    *([Forbidden(FALLOCATE, error)] for error in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)),
    [Forbidden(FADVISE, errno.EINVAL)],
    [Forbidden(AFFINITY, errno.EPERM)],
    [Forbidden(RING_SETUP, errno.EPERM), Forbidden(CACHESTAT, errno.EPERM)],
    [Forbidden(RING_SETUP, errno.ENOSYS), Forbidden(CACHESTAT, errno.ENOSYS)],
    [Forbidden(RING_ENTER, errno.EPERM)],
]


@pytest.mark.parametrize("calls", QUIET, ids=lambda calls: str([tuple(c) for c in calls]))
def test_what_is_safe_goes_on_in_silence(
    sandbox: Sandbox, x: Path, tmp_path: Path, calls: list[Forbidden]
) -> None:
    out = tmp_path / "i"
    code, errors = sandbox.run(
        calls,
        f"build {x} --out {out} --nlist 4 --codec rabitq1+sq8 -q",
        f"search {out} {x} -k 1 --nprobe 4 --out {tmp_path}/r.npz -q",
        f"verify {out} -q",
    )
    assert (code, errors) == (0, "")
    found = np.load(tmp_path / "r.npz")["ids"][:, 0]
    assert (found == np.arange(500)).mean() > 0.9
    with teravec.open(out) as index:
        assert index.calibration is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i", "r.npz"]


def test_no_locks_of_any_kind_is_said(sandbox: Sandbox, x: Path, tmp_path: Path) -> None:
    code, errors = sandbox.run(
        [NO_FLOCK[0], Forbidden(FCNTL, errno.ENOLCK, OFD_SETLK)],
        f"build {x} --out {tmp_path}/i --nlist 4 -q",
    )
    assert code == 0
    assert errors.count("\n") == 1
    assert f"{tmp_path}/i: this file system has no locks" in errors
    teravec.verify(tmp_path / "i")
    assert [p.name for p in tmp_path.iterdir()] == ["i"]


def test_files_that_cannot_be_synced_are_said(sandbox: Sandbox, x: Path, tmp_path: Path) -> None:
    calls = [Forbidden(call, errno.EINVAL) for call in (FSYNC, FDATASYNC)]
    code, errors = sandbox.run(calls, f"build {x} --out {tmp_path}/i --nlist 4 -q")
    assert code == 0
    assert errors.count("\n") == 1
    assert "cannot sync files: what is written may be lost" in errors


@pytest.mark.parametrize("call", [FSYNC, FLOCK, FALLOCATE])
def test_a_disk_that_fails_is_an_error(
    sandbox: Sandbox, x: Path, tmp_path: Path, call: int
) -> None:
    calls = [Forbidden(call, errno.EIO)]
    code, errors = sandbox.run(calls, f"build {x} --out {tmp_path}/i --nlist 4 -q")
    assert code == 2
    assert errors.count("\n") == 1
    assert "the disk reported an input/output error" in errors
    assert f"teravec: {tmp_path}" in errors
