"""Damaged files that searches met: each list is logged once, and counted until a reload."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from teravec.errors import CorruptFile, MissingFile, StorageError

__all__ = ["Damage"]

log = logging.getLogger(__name__)

_MOST_KEPT, _MOST_TOLD = 10_000, 10


class Damage:
    """What of an index's files could not be read, or was read wrong."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._met: dict[str, str] = {}  # what each error says, by file and list

    def __len__(self) -> int:
        """Lists, pages and files that are damaged, as far as they were met."""
        return len(self._met)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note damage that the body meets."""
        try:
            yield
        except (CorruptFile, MissingFile, StorageError) as error:
            self._note(error)
            raise

    def _note(self, error: Exception) -> None:
        # Of one list, a failing disk may read other bytes each time: its checksum is no key.
        text = str(error)
        key = text.partition(" checksum ")[0]
        with self._lock:
            if key in self._met or len(self._met) >= _MOST_KEPT:
                return
            self._met[key] = text
            full = len(self._met) == _MOST_KEPT
        log.error("damaged: %s; repair the file from another replica, and reload", text)
        if full:
            log.error("damaged: %s places; more are not logged", f"{_MOST_KEPT:,}")

    def describe(self) -> dict[str, Any]:
        """For statistics: how many, and what the first ones say."""
        with self._lock:
            return {"damaged_lists": len(self._met), "damage": [*self._met.values()][:_MOST_TOLD]}

    def forget(self) -> None:
        """Other files were opened."""
        with self._lock:
            self._met.clear()
