"""Servers as processes, for the benchmarks of serving."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import teravec
from benchmarks import data


class Served:
    """A ``teravec serve`` on a free port of this machine; a context manager.

    Parameters
    ----------
    arguments : str
        What follows ``teravec serve``.
    """

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._process: subprocess.Popen[str] | None = None
        self.address = "127.0.0.1:0"
        self.start()

    @property
    def url(self) -> str:
        """What clients connect to."""
        return f"grpc://{self.address}"

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it; again at the same address, once it has one."""
        command = [sys.executable, "-m", "teravec", "serve", *self._arguments]
        command += ["--listen", self.address, "--http", "none"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found = re.search(r"://(\S+)", line)
        if not found:
            raise RuntimeError(f"{' '.join(command)} did not start: {line!r}")
        self.address = found[1]

    def end(self, how: int = signal.SIGTERM) -> None:
        """End it by a signal."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def resident_bytes(self) -> int:
        """Memory of the process that is resident."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * 4096

    def descriptors(self) -> int:
        """Open file descriptors of the process."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def built(folder: Path, shared: Path, nlist: int = 2048, slices: int = 6) -> Path:
    """The index of the real SIFT set in a folder, built if it is not there."""
    root = folder / f"sift-{nlist}"
    base = data.sift_photos(shared).base
    teravec.build(base, root, nlist=nlist, codec="sq6", transform="rotation", slices=slices)
    return root
