"""A store in front of another one, which does what the other does unless it says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta

from teravec.storage.store import (
    UNFINISHED_AGE,
    OpenFile,
    Reader,
    ReadFiles,
    Sealed,
    Store,
    Verify,
    Writer,
)

__all__ = ["WrappingStore"]


@dataclass(frozen=True)
class WrappingStore(Store):
    """Hands every call on.

    Parameters
    ----------
    store : Store
        The other one.
    """

    store: Store

    def __str__(self) -> str:
        return str(self.store)

    @property
    def gap_bytes(self) -> int:
        return self.store.gap_bytes

    @property
    def depth(self) -> int:
        return self.store.depth

    @property
    def alignment(self) -> int:
        return self.store.alignment

    def locate(self, name: str) -> str:
        return self.store.locate(name)

    def exists(self, name: str) -> bool:
        return self.store.exists(name)

    def size(self, name: str) -> int:
        return self.store.size(name)

    def open(
        self,
        name: str,
        *,
        in_order: bool = False,
        sealed: Sealed | None = None,
        ahead: Sequence[tuple[int, int]] | None = None,
    ) -> OpenFile:
        return self.store.open(name, in_order=in_order, sealed=sealed, ahead=ahead)

    def group(self, files: Sequence[OpenFile]) -> ReadFiles:
        return self.store.group(files)

    def reader(self) -> Reader:
        return self.store.reader()

    def publish(self, name: str, verify: Verify | None = None) -> AbstractContextManager[Writer]:
        return self.store.publish(name, verify)

    def create(self, name: str, data: bytes) -> None:
        self.store.create(name, data)

    def names(self, prefix: str = "") -> list[str]:
        return self.store.names(prefix)

    def remove(self, name: str) -> None:
        self.store.remove(name)

    def remove_all(self, prefix: str) -> None:
        self.store.remove_all(prefix)

    def remove_unfinished(self, prefix: str, older_than: timedelta = UNFINISHED_AGE) -> None:
        self.store.remove_unfinished(prefix, older_than)
