"""What every command has in common."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from teravec.cli.running import print_json, write_whole
from tests.conftest import clustered, write_fbin


class Pipe(io.RawIOBase):
    """Takes a hundred bytes at a time, as a full pipe may."""

    def __init__(self) -> None:
        self.taken = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.taken += bytes(data[:100])
        return min(100, len(data))


def test_unbuffered_output_is_written_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, numbers = Pipe(), list(range(2000))
    unbuffered = io.TextIOWrapper(pipe, encoding="utf-8", write_through=True)  # type: ignore[type-var]
    monkeypatch.setattr(sys, "stdout", unbuffered)
    write_whole()
    print_json(numbers)
    print("end")
    sys.stdout.flush()
    found = pipe.taken.decode()
    assert found.split() == ["[", *(f"{n}," for n in numbers[:-1]), "1999", "]", "end"]


def test_buffered_output_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    buffered = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", buffered)
    write_whole()
    assert sys.stdout is buffered


def test_any_name_can_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, expected in (("utf-8", "né…".encode() + b"\xff\n"), ("ascii", b"n??\xff\n")):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        write_whole()
        print("né…" + os.fsdecode(b"\xff"), flush=True)
        assert raw.getvalue() == expected


def shell(command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run teravec under a shell, as "$@"."""
    teravec = [sys.executable, "-m", "teravec", *map(str, arguments)]
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command, "-", *teravec],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_output_that_nobody_takes(tmp_path: Path) -> None:
    data = write_fbin(tmp_path / "x.fbin", clustered(3000, 4))
    built = shell('"$@"', "build", data, "--out", tmp_path / "i", "--nlist", 4, "-q")
    assert (built.returncode, built.stderr) == (0, "")
    search = ["search", tmp_path / "i", data, "--nprobe", 1]
    for command in (search, [*search, "--json"], ["info", tmp_path / "i"]):
        full = shell('"$@" > /dev/full', *command)
        assert (full.returncode, full.stderr) == (
            2, "teravec: standard output: cannot write: no space left on the disk\n",
        )  # fmt: skip
        closed = shell('"$@" >&-', *command)
        assert closed.stderr == ""
    head = shell('"$@" | head -1', *search)
    assert (head.returncode, head.stderr, head.stdout.count("\n")) == (141, "", 1)
