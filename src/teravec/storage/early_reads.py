"""Files that are read before they are asked for, so that many requests wait at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from teravec.errors import MissingFile
from teravec.storage.store import OpenFile, Sealed
from teravec.storage.wrapping_store import WrappingStore

__all__ = ["FIRST_BYTES", "EarlyReads"]

FIRST_BYTES = 1 << 20
"""Of a small file whose size is not known, read with the first request: usually all of it."""


@dataclass(frozen=True)
class EarlyReads(WrappingStore):
    """A store whose files are opened before somebody opens them.

    Whoever opens a file that was begun gets it as it is, once. What nobody asked for ends with
    ``close``.
    """

    _begun: dict[str, OpenFile] = field(default_factory=dict, compare=False, repr=False)

    def begin(
        self,
        name: str,
        sealed: Sealed | None = None,
        ahead: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        """Begin to read a file: some ranges, or all of a sealed file, or the beginning of another.

        What is wrong with it shows when it is opened or read.
        """
        if name in self._begun:
            return
        if ahead is None:
            ahead = [(0, FIRST_BYTES if sealed is None else sealed.size)]
        with suppress(MissingFile):  # which not all stores tell now
            self._begun[name] = self.store.open(name, sealed=sealed, ahead=ahead)

    def open(
        self,
        name: str,
        *,
        in_order: bool = False,
        sealed: Sealed | None = None,
        ahead: Sequence[tuple[int, int]] | None = None,
    ) -> OpenFile:
        begun = self._begun.pop(name, None)
        if begun is None:
            return self.store.open(name, in_order=in_order, sealed=sealed, ahead=ahead)
        return begun

    def exists(self, name: str) -> bool:
        begun = self._begun.get(name)
        if begun is None:
            return self.store.exists(name)
        try:
            return begun.size >= 0
        except MissingFile:
            return False

    def close(self) -> None:
        """Close the files that nobody opened."""
        while self._begun:
            self._begun.popitem()[1].close()
