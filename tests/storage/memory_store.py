"""A store in memory: the least that the protocol asks for, and no file system behind it."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np

from teravec.errors import AlreadyThere, CorruptFile, MissingFile
from teravec.storage.store import (
    UNFINISHED_AGE,
    OpenFile,
    Ranges,
    Reader,
    ReadFiles,
    Store,
    Verify,
    Writer,
    check_name,
)


class _File(OpenFile):
    def __init__(self, path: str, contents: dict[str, bytes], key: str) -> None:
        self.path, self.size = path, len(contents[key])
        self._contents, self._key = contents, key

    def read_into(self, buffer: memoryview, offset: int) -> None:
        data = self._contents[self._key]  # as it is now: a test may have cut it
        if len(buffer) and offset + len(buffer) > len(data):
            raise CorruptFile(
                f"{self.path}: ends at byte {len(data):,}; {offset + len(buffer):,} bytes expected"
            )
        buffer[:] = data[offset : offset + len(buffer)]

    def close(self) -> None:
        pass


class _Writer(Writer):
    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes | memoryview, offset: int) -> None:
        self.data.extend(bytes(max(0, offset + len(data) - len(self.data))))
        self.data[offset : offset + len(data)] = data

    def reserve(self, size: int) -> None:
        pass

    def sync(self) -> None:
        pass


class _Reader(Reader):
    def filled(
        self, ranges: Ranges, buffer: np.ndarray, stops: Sequence[int]
    ) -> Generator[int, None, None]:
        start = 0
        for stop in stops:
            for item in map(ranges.one, range(start, stop)):
                item.file.read_into(buffer.data[item.at : item.at + item.needed], item.offset)
            start = stop
            yield stop

    def close(self, *, wait: bool = True) -> None:
        pass


@dataclass(frozen=True)
class MemoryStore(Store):
    """Files in a dictionary, by name."""

    files: dict[str, bytes] = field(default_factory=dict)
    gap_bytes: int = 1 << 20
    depth: int = 8
    alignment: int = 1

    def locate(self, name: str) -> str:
        if name:
            check_name(name)
        return f"memory:{name}"

    def exists(self, name: str) -> bool:
        return name in self.files

    def size(self, name: str) -> int:
        return self.open(name).size

    def open(self, name: str, **options: Any) -> OpenFile:
        if name not in self.files:
            raise MissingFile(f"{self.locate(name)}: cannot read: no such file")
        return _File(self.locate(name), self.files, name)

    def group(self, files: Sequence[OpenFile]) -> ReadFiles:
        return ReadFiles(files)

    def reader(self) -> Reader:
        return _Reader()

    @contextmanager
    def publish(self, name: str, verify: Verify | None = None) -> Iterator[Writer]:
        check_name(name)
        writer = _Writer()
        yield writer
        data = bytes(writer.data)
        if verify is not None:
            verify(_File(f"{self.locate(name)} (unfinished)", {name: data}, name))
        self.files[name] = data

    def create(self, name: str, data: bytes) -> None:
        check_name(name)
        if self.files.setdefault(name, own := bytes(bytearray(data))) is not own:
            raise AlreadyThere(f"{self.locate(name)}: this name is taken")

    def names(self, prefix: str = "") -> list[str]:
        return sorted(name for name in self.files if name.startswith(prefix))

    def remove(self, name: str) -> None:
        self.files.pop(name, None)

    def remove_all(self, prefix: str) -> None:
        check_name(prefix)
        for name in self.names(f"{prefix}/"):
            self.remove(name)

    def remove_unfinished(self, prefix: str, older_than: timedelta = UNFINISHED_AGE) -> None:
        pass
