"""Run the code of a page, and compare what it prints with what the page shows.

    python -m website.sessions PAGE...            runs pages; exit 1 where they show something else
    python -m website.sessions --update PAGE...   writes what was printed into the pages

Blocks of a page run in order, in one new folder:

- ``python``: in one interpreter for the page. A block without a language right after it is
  its output.
- ``console``: each line ``$ command`` in a shell, and what it prints below. A command continues
  after a backslash. A line ``...`` stands for any number of lines.
- a comment that begins with ``run``: Python that a reader does not see; it makes the page's data.

Other languages are not run: ``sh`` is for commands with words that the reader has to replace, and
``python norun`` for what needs the reader's data.

Numbers, widths of bars and lines, and spaces are not compared: they differ from run to run.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from website.blocks import Block, read_blocks

__all__ = ["Shown", "differences", "run_page"]

TIMEOUT_S = 240
_NUMBER = re.compile(r"-?\b\d[\d,]*(\.\d+)?(e[+-]?\d+)?")
_RULES = re.compile(r"([#─━═-])\1+")
_END = "-- end of block --"
_FAILED = "-- block failed --"
_RUNNER = f"""
import sys, traceback
scope = {{"__name__": "__main__"}}
for name in sys.stdin:
    name = name.rstrip()
    try:
        exec(compile(open(name).read(), name, "exec"), scope)
        print("{_END}", flush=True)
    except BaseException:
        traceback.print_exc(file=sys.stdout)
        print("{_FAILED}", flush=True)
"""


@dataclass(frozen=True)
class Shown:
    """What a page shows as printed by some code, and what that code printed.

    Parameters
    ----------
    code : str
    line : int
        Of the code in the page.
    expected, printed : str
    start, end : int
        Where ``expected`` lies in the page's text.
    """

    code: str
    line: int
    expected: str
    printed: str
    start: int
    end: int

    @property
    def agrees(self) -> bool:
        """Whether both are alike, but for numbers and widths."""
        return _alike(_lines(self.expected), _lines(self.printed))


def run_page(page: Path, folder: Path) -> list[Shown]:
    """Run all code of a page in an empty folder.

    Raises
    ------
    RuntimeError
        Code fails, with its place and what it printed.
    """
    text = page.read_text()
    shown: list[Shown] = []
    printed = ""
    code: Block | None = None  # the Python whose output may follow
    with _Interpreter(folder) as python:
        for block in read_blocks(text):
            if block.language in ("python", "hidden"):
                code, printed = block, python.run(block.code, f"{page.name}:{block.line}")
            elif block.language in ("", "text") and block.follows and code is not None:
                shown.append(
                    Shown(code.code, code.line, block.code, printed, block.start, block.end)
                )
            elif block.language == "console":
                shown += _run_console(page, block, folder)
            if block.language not in ("python", "hidden"):
                code = None
    return shown


def differences(page: Path, shown: list[Shown]) -> str:
    """Describe what a page shows but its code did not print; empty if nothing."""
    return "\n".join(
        f"{page.name}:{one.line}: {one.code.strip()}\n"
        f"--- the page\n{one.expected}+++ printed\n{one.printed}"
        for one in shown
        if not one.agrees
    )


def update(page: Path, shown: list[Shown]) -> None:
    """Write what was printed into a page; lines that stand for many stay if they still do."""
    text = page.read_text()
    for one in sorted(shown, key=lambda one: -one.start):
        if "...\n" not in one.expected or not one.agrees:
            text = text[: one.start] + one.printed + text[one.end :]
    page.write_text(text)


class _Interpreter:
    """A Python that runs blocks, one after the other, in one scope."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-c", _RUNNER],
            cwd=folder,
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> _Interpreter:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, code: str, place: str) -> str:
        """Run a block and return what it printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
            file.write(code)
            file.flush()
            self._process.stdin.write(file.name + "\n")
            self._process.stdin.flush()
            printed = ""
            for line in self._process.stdout:
                if line.startswith((_END, _FAILED)):
                    break
                printed += line
            else:
                line = _FAILED
        if line.startswith(_FAILED):
            raise RuntimeError(f"{place} failed:\n{printed}")
        return printed


def _run_console(page: Path, block: Block, folder: Path) -> Iterator[Shown]:
    """Run the commands of a block."""
    for command, expected, line, start in _commands(block):
        done = subprocess.run(
            ["bash", "-c", command.replace("\\\n", " ")],
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
        )
        if done.returncode and "error" not in expected:
            raise RuntimeError(f"{page.name}:{line}: {command}\nfailed:\n{done.stdout}")
        yield Shown(command, line, expected, done.stdout, start, start + len(expected))


def _commands(block: Block) -> Iterator[tuple[str, str, int, int]]:
    """Yield each command of a console block, what it shows, its line, and where that begins."""
    lines = block.code.splitlines(keepends=True)
    place, row = block.start, 0
    while row < len(lines):
        first, command, expected = row, lines[row], ""
        if not command.startswith("$ "):
            raise RuntimeError(f"line {block.line + row}: a command begins with '$ '")
        while command.endswith("\\\n"):
            row += 1
            command += lines[row]
        row += 1
        place += len(command)
        while row < len(lines) and not lines[row].startswith("$ "):
            expected += lines[row]
            row += 1
        yield command[2:].rstrip("\n"), expected, block.line + first, place
        place += len(expected)


def _environment() -> dict[str, str]:
    """The environment of a page's code: this interpreter's commands first, and a plain terminal."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "COLUMNS": "100", "TERM": "dumb", "PYTHONUNBUFFERED": "1"}


def _lines(text: str) -> list[str]:
    """Lines without what differs from run to run."""
    plain = (_NUMBER.sub("0", _RULES.sub(r"\1", line)) for line in text.splitlines())
    return [line for line in (" ".join(line.split()) for line in plain) if line]


def _alike(expected: list[str], printed: list[str]) -> bool:
    """Whether lines are equal, where ``...`` stands for any number of them."""
    if not expected:
        return not printed
    if expected[0] == "...":
        return any(_alike(expected[1:], printed[skipped:]) for skipped in range(len(printed) + 1))
    return bool(printed) and expected[0] == printed[0] and _alike(expected[1:], printed[1:])


def main() -> int:
    """Run pages by command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="+", type=Path, metavar="PAGE")
    parser.add_argument("--update", action="store_true", help="write what was printed")
    options = parser.parse_args()
    unlike = 0
    for page in options.pages:
        with tempfile.TemporaryDirectory() as folder:
            shown = run_page(page, Path(folder))
        if options.update:
            update(page, shown)
        elif text := differences(page, shown):
            unlike += 1
            print(text)
    return 1 if unlike else 0


if __name__ == "__main__":
    sys.exit(main())
