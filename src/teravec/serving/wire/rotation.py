"""Files that others replace while we run: tokens, certificates, the list of servers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from teravec.errors import TeravecError

__all__ = ["FileStamps", "FileWatch"]

log = logging.getLogger(__name__)

_LOOK_S = 0.2


class FileStamps:
    """Whether any of some files is another one than before.

    Parameters
    ----------
    paths : sequence of Path
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._seen = self._stamps()

    def changed(self) -> bool:
        """Whether a file was replaced or written since this was called last."""
        stamps = self._stamps()
        changed = stamps != self._seen
        self._seen = stamps
        return changed

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in self._paths]


class FileWatch:
    """A thread that reads files again when they change, until ``close``.

    Parameters
    ----------
    paths : sequence of Path
        No thread is started for none.
    read : callable
        Reads them, and uses what they hold. A TeravecError is logged: what was used stays.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], None]) -> None:
        self._stamps, self._read = FileStamps(paths), read
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="teravec-files", daemon=True)
        if paths:
            self._thread.start()

    def _watch(self) -> None:
        while not self._closed.wait(_LOOK_S):
            if self._stamps.changed():
                try:
                    self._read()
                    log.info("tokens and certificates were read again")
                except TeravecError as error:
                    log.error("tokens and certificates stay as they were: %s", error)

    def close(self) -> None:
        """Watch no more."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
