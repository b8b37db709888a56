"""A store in front of another one that waits, counts and fails, as one over a network does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np

from teravec.storage.store import (
    UNFINISHED_AGE,
    OpenFile,
    Ranges,
    Reader,
    ReadFiles,
    Store,
    Verify,
    Writer,
)

Fail = Callable[[str, str], Exception | None]
"""Given a kind of request and a file's address, returns what to raise, if anything."""


@dataclass(frozen=True)
class LatencyStore(Store):
    """Waits before each request to another store.

    Parameters
    ----------
    store : Store
    latency_s : float
        Before each request; ranges of one call wait together, ``depth`` at a time.
    fail : callable, optional
    requests : Counter
        Requests so far, by kind: open, read, ranges, publish, create, names, remove.
    """

    store: Store
    latency_s: float = 0.0
    fail: Fail | None = None
    requests: Counter[str] = field(default_factory=Counter)

    @property
    def gap_bytes(self) -> int:
        return self.store.gap_bytes

    @property
    def depth(self) -> int:
        return self.store.depth

    @property
    def alignment(self) -> int:
        return self.store.alignment

    def wait(self, kind: str, where: str, count: int = 1) -> None:
        """Count requests, wait for them, and perhaps fail."""
        self.requests[kind] += count
        time.sleep(-(-count // self.depth) * self.latency_s)
        error = None if self.fail is None else self.fail(kind, where)
        if error is not None:
            raise error

    def locate(self, name: str) -> str:
        return self.store.locate(name)

    def exists(self, name: str) -> bool:
        self.wait("open", self.locate(name))
        return self.store.exists(name)

    def size(self, name: str) -> int:
        self.wait("open", self.locate(name))
        return self.store.size(name)

    def open(self, name: str, **options: Any) -> OpenFile:
        self.wait("open", self.locate(name))
        return _File(self, self.store.open(name, **options))

    def group(self, files: Sequence[OpenFile]) -> ReadFiles:
        return _Files(self, files)

    def reader(self) -> Reader:
        return _Reader(self)

    @contextmanager
    def publish(self, name: str, verify: Verify | None = None) -> Iterator[Writer]:
        self.wait("publish", self.locate(name))
        with self.store.publish(name, verify) as writer:
            yield writer

    def create(self, name: str, data: bytes) -> None:
        self.wait("create", self.locate(name))
        self.store.create(name, data)

    def names(self, prefix: str = "") -> list[str]:
        self.wait("names", self.locate(""))
        return self.store.names(prefix)

    def remove(self, name: str) -> None:
        self.wait("remove", self.locate(name))
        self.store.remove(name)

    def remove_all(self, prefix: str) -> None:
        self.wait("remove", self.locate(prefix))
        self.store.remove_all(prefix)

    def remove_unfinished(self, prefix: str, older_than: timedelta = UNFINISHED_AGE) -> None:
        self.wait("remove", self.locate(prefix))
        self.store.remove_unfinished(prefix, older_than)


class _File(OpenFile):
    def __init__(self, store: LatencyStore, file: OpenFile) -> None:
        self.path, self.size = file.path, file.size
        self._store, self.inner = store, file

    def read_into(self, buffer: memoryview, offset: int) -> None:
        self._store.wait("read", self.path)
        self.inner.read_into(buffer, offset)

    def read_scattered(self, buffers: Sequence[memoryview], offset: int) -> None:
        self._store.wait("read", self.path)
        self.inner.read_scattered(buffers, offset)

    def close(self) -> None:
        self.inner.close()


class _Files(ReadFiles):
    def __init__(self, store: LatencyStore, files: Sequence[OpenFile]) -> None:
        super().__init__(files)
        self.inner = store.store.group([f.inner for f in files if isinstance(f, _File)])


class _Reader(Reader):
    def __init__(self, store: LatencyStore) -> None:
        self._store, self._inner = store, store.store.reader()

    def filled(
        self, ranges: Ranges, buffer: np.ndarray, stops: Sequence[int]
    ) -> Generator[int, None, None]:
        assert isinstance(ranges.files, _Files)
        for number in np.unique(ranges.file_nos).tolist():
            count = int((ranges.file_nos == number).sum())
            self._store.wait("ranges", ranges.files[number].path, count)
        columns = ranges.file_nos, ranges.offsets, ranges.lengths, ranges.at
        yield from self._inner.filled(Ranges(ranges.files.inner, *columns), buffer, stops)

    def close(self, *, wait: bool = True) -> None:
        self._inner.close(wait=wait)
