"""What the fault tests share: trees of files, and a server that runs commands and kills them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

# Imports once, then forks a child for each command: a child starts in milliseconds, so that
# many kills fall into the work and not into the imports. A ground truth keeps a checkpoint
# after each block, and blocks are small, so that there is something to resume.
_SERVER = """
import json, os, sys, time
from teravec import api, granting, measuring, querying, staging
from teravec.cli.main import app
from teravec.engines.block_sizes import BlockSizes

usual = granting.resources

def with_small_blocks(*options):
    resources = usual(*options)
    resources.sizes, resources.checkpoint_s = BlockSizes(truth_block_bytes=1 << 20), 0.0
    return resources

for module in (api, granting, measuring, querying, staging):
    module.resources = with_small_blocks

def command(arguments):
    errors = os.open("/dev/null", os.O_WRONLY)
    os.dup2(errors, 1)
    try:
        app(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        return 99
    return 0

def wait(pid, life, file):
    started = time.monotonic()
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        late = life is not None and time.monotonic() - started >= life
        if late or (file is not None and os.path.exists(file)):
            os.kill(pid, 9)  # until it is waited for, the child's number is its own
            return
        time.sleep(0.0002)

for line in sys.stdin:
    arguments, life, file = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os._exit(command(arguments))
    if life is not None or file is not None:
        wait(pid, life, file)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@dataclass(frozen=True)
class Commands:
    """Runs ``teravec`` commands in children that can be killed."""

    to_server: IO[str]
    from_server: IO[str]

    def run(
        self, *arguments: object, kill_after_s: float | None = None, kill_at: Path | None = None
    ) -> int:
        """Run a command; kill it after a time, or when a file appears. Return its exit code."""
        file = None if kill_at is None else str(kill_at)
        line = json.dumps([[str(argument) for argument in arguments], kill_after_s, file])
        self.to_server.write(line + "\n")
        self.to_server.flush()
        return int(self.from_server.readline())


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """A server of commands, for the whole session."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    yield Commands(process.stdin, process.stdout)
    process.communicate()


def tree(root: Path) -> dict[str, bytes | None]:
    """Every file below root, with its bytes, and every directory, with None."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


def interrupt(arguments: Sequence[object], when: Callable[[], bool]) -> None:
    """Run a command, and send it SIGINT at a moment; check its code and its one line."""
    command = [sys.executable, "-m", "teravec", *map(str, arguments)]
    # A shell's background jobs ignore SIGINT, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    while not when():
        assert process.poll() is None
        time.sleep(0.0005)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 130, errors
    assert len(errors.splitlines()) == 1
    assert "run the same command again to continue" in errors
