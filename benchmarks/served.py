"""Servers as processes, for the benchmarks of serving."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import teravec
from benchmarks import data


class Served:
    """A ``teravec serve`` on free ports of this machine; a context manager.

    Parameters
    ----------
    arguments : str
        What follows ``teravec serve``.
    http : bool
        Whether it has an HTTP port.
    log : Path, optional
        File to append its log to. Not given: standard error.

    Attributes
    ----------
    address, http_address : str
        Of both ports; ``http_address`` is empty without an HTTP port.
    memory_bound_bytes : int
        The most memory that it says it takes.
    """

    def __init__(self, *arguments: str, http: bool = False, log: Path | None = None) -> None:
        self._arguments, self._log = arguments, log
        self._process: subprocess.Popen[str] | None = None
        self.address, self.http_address = "127.0.0.1:0", "127.0.0.1:0" if http else ""
        self.memory_bound_bytes = 0
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

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; again at the same addresses, once it has them."""
        command = [sys.executable, "-m", "teravec", "serve", *self._arguments, "--json"]
        command += ["--listen", self.address, "--http", self.http_address or "none"]
        log = None if self._log is None else self._log.open("a")
        try:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        finally:
            if log is not None:
                log.close()
        assert self._process.stdout is not None
        text = ""
        while not text.endswith("}\n") and (line := self._process.stdout.readline()):
            text += line
        try:
            told = json.loads(text)
        except ValueError:
            self.end(signal.SIGKILL)
            raise RuntimeError(f"{' '.join(command)} did not start: {text!r}") from None
        self.address = told["url"].partition("://")[2]
        if told["http"] is not None:
            self.http_address = told["http"].partition("://")[2].rstrip("/")
        self.memory_bound_bytes = told["memory_bound_bytes"]

    def send(self, number: int) -> None:
        """Send the process a signal."""
        assert self._process is not None
        self._process.send_signal(number)

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
