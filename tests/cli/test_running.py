"""What every command has in common."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from teravec.cli.main import app as main
from teravec.cli.running import command, print_json, write_whole
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
        capture_output=True,
        text=True,
        check=False,
    )


def test_output_that_nobody_takes(tmp_path: Path) -> None:
    data = write_fbin(tmp_path / "x.fbin", clustered(3000, 4))
    built = shell('"$@"', "build", data, "--out", tmp_path / "i", "--nlist", 4, "-q")
    assert (built.returncode, built.stderr) == (0, "")
    search = ["search", tmp_path / "i", data, "--nprobe", 1]
    for asked in (search, [*search, "--json"], ["info", tmp_path / "i"]):
        full = shell('"$@" > /dev/full', *asked)
        assert (full.returncode, full.stderr) == (
            2,
            "teravec: standard output: cannot write: no space left on the disk\n",
        )
        closed = shell('"$@" >&-', *asked)
        assert closed.stderr == ""
    head = shell('"$@" | head -1', *search)
    assert (head.returncode, head.stderr, head.stdout.count("\n")) == (141, "", 1)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(1, "Operation not permitted"), "refused a call: Operation not permitted"),
        (OSError("no number"), "refused a call: no number"),
        (PermissionError(13, "Permission denied", "/root/x"), "/root/x: no permission"),
        (RuntimeError("can't start new thread"), "no more threads; lower --threads"),
    ],
)
def test_refusals_of_the_system(error: Exception, words: str) -> None:
    """What is not standard output's fault is not said to be."""

    def refuse() -> None:
        raise error

    code = compile("def act(refuse):\n    refuse()", "elsewhere", "exec")
    elsewhere: dict[str, Any] = {"__name__": "teravec.engines.threads"}
    exec(code, elsewhere)
    app = typer.Typer()
    command(app, "it")(lambda: elsewhere["act"](refuse))
    done = CliRunner().invoke(app)
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr
    assert "standard output" not in done.stderr


def test_paths_are_shown_as_they_were_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "words").mkdir()
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["verify", "words"])
    assert done.stderr == "teravec: words: no teravec index there (no manifest.json)\n"
    monkeypatch.setattr(sys, "argv", ["teravec", "verify", f"{tmp_path}/words"])
    done = CliRunner().invoke(main, ["verify", f"{tmp_path}/words"])
    assert done.stderr.startswith(f"teravec: {tmp_path}/words: no teravec index")
