"""Objects open for reading, and readers of many ranges of them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.errors import CorruptFile, StorageError
from teravec.storage.files import byte_view
from teravec.storage.object_requests import Conflict, EndsEarlier, Requests
from teravec.storage.store import OpenFile, Ranges, Reader

__all__ = ["ObjectFile", "ObjectReader", "open_object", "read_object"]

Bytes = npt.NDArray[np.uint8]

_HEAD_BYTES = 16 << 10
"""Read when an object is opened: whole small files, and the headers of large ones."""

_PIECE_BYTES = 8 << 20
"""Largest request; longer ranges are several requests, in flight at once."""


class ObjectFile(OpenFile):
    """An object open for reading: its size and version, as they were when it was opened.

    There is no connection behind it. An object that was replaced since is an error.

    Parameters
    ----------
    requests : Requests
    key : str
    path : str
    size : int
    etag : str or None
        The store's name for the object's present content.
    head : bytes
        The object's first bytes.
    """

    def __init__(
        self, requests: Requests, key: str, path: str, size: int, etag: str | None, head: bytes
    ) -> None:
        self.path, self.size, self.etag = path, size, etag
        self._requests, self._key, self._head = requests, key, head

    def read_into(self, buffer: memoryview, offset: int) -> None:
        if offset + len(buffer) <= len(self._head):
            buffer[:] = self._head[offset : offset + len(buffer)]
        elif len(buffer):
            self._requests.wait(self.fetch(buffer, offset))

    def read_scattered(self, buffers: Sequence[memoryview], offset: int) -> None:
        pieces: list[tuple[memoryview, int]] = []
        for buffer in buffers:
            pieces.append((buffer, offset))
            offset += len(buffer)

        async def fetch_all() -> None:
            await _all([self.fetch(*piece) for piece in pieces])

        self._requests.wait(fetch_all())

    async def fetch(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer with the bytes at ``offset``; runs on the event loop."""
        end = offset + len(buffer)
        if not len(buffer):
            return
        if end > self.size:
            raise _ends_early(self.path, self.size, end)
        starts = range(0, len(buffer), _PIECE_BYTES)
        if len(starts) == 1:
            await self._fetch_piece(buffer, offset)
        else:
            await _all(
                [self._fetch_piece(buffer[i : i + _PIECE_BYTES], offset + i) for i in starts]
            )

    async def _fetch_piece(self, buffer: memoryview, offset: int) -> None:
        end = offset + len(buffer)
        try:
            data, _ = await _get(self._requests, self._key, self.path, offset, end, self.etag)
        except (Conflict, EndsEarlier):
            raise await self._replaced(end) from None
        if len(data) < len(buffer):
            raise await self._replaced(end)
        buffer[:] = data

    async def _replaced(self, end: int) -> CorruptFile:
        """Return the error of an object that is no longer what was opened."""
        found = await open_object(self._requests, self._key, self.path)
        if found.size < end:
            return _ends_early(self.path, found.size, end)
        return CorruptFile(
            f"{self.path}: the object was replaced after it was opened; sealed files never change"
        )

    def close(self) -> None:
        pass


def _ends_early(path: str, size: int, end: int) -> CorruptFile:
    return CorruptFile(f"{path}: ends at byte {size:,}; {end:,} bytes expected")


async def open_object(requests: Requests, key: str, path: str) -> ObjectFile:
    """Open an object with one request, which brings its first bytes too.

    Raises
    ------
    MissingFile, StorageError
    """
    try:
        head, meta = await _get(requests, key, path, 0, _HEAD_BYTES, None)
    except EndsEarlier:  # an empty object has no first byte
        head, meta = memoryview(b""), await head_object(requests, key, path)
    return ObjectFile(requests, key, path, meta["size"], meta.get("e_tag"), bytes(head))


async def read_object(requests: Requests, key: str, path: str, most: int) -> bytes:
    """Read a whole object with one request for all of it: some web servers know no ranges.

    Raises
    ------
    MissingFile
    StorageError
        Also for an object of more than ``most`` bytes.
    """
    import obstore

    async def send() -> bytes:
        result = await obstore.get_async(requests.connection.client, key)
        size = int(result.meta["size"])
        if size > most:
            raise StorageError(f"{path}: {size:,} bytes found, at most {most:,} expected")
        return bytes(await result.bytes_async())

    return await requests.attempt(send, path, "read")


async def head_object(requests: Requests, key: str, path: str) -> dict[str, Any]:
    """Return what the store says of an object: its size, ``e_tag`` and time.

    Raises
    ------
    MissingFile, StorageError
    """
    import obstore

    async def send() -> dict[str, Any]:
        return dict(await obstore.head_async(requests.connection.client, key))

    return await requests.attempt(send, path, "read")


async def _get(
    requests: Requests, key: str, path: str, start: int, stop: int, etag: str | None
) -> tuple[memoryview, dict[str, Any]]:
    """Return bytes [start, stop) of an object, or those that it has, and what it is."""
    import obstore

    options: dict[str, Any] = {"range": (start, stop)}
    if etag is not None:
        options["if_match"] = etag

    async def send() -> tuple[memoryview, dict[str, Any]]:
        result = await obstore.get_async(requests.connection.client, key, options=options)  # type: ignore[arg-type]
        data = memoryview(await result.bytes_async())
        first, end = result.range
        if first != start or end - first != len(data):
            raise OSError(f"HTTP error: bytes {first} to {end} in {len(data)}")  # try again
        return data, dict(result.meta)

    return await requests.attempt(send, path, "read")


async def _all(requests: list[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines at once; when one fails, the others have ended before its error goes on."""
    tasks = [asyncio.ensure_future(request) for request in requests]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Flight:
    """Ranges on their way to a buffer, on the event loop."""

    def __init__(self, ranges: Ranges, buffer: Bytes) -> None:
        self.arrived: SimpleQueue[tuple[int, BaseException | None]] = SimpleQueue()
        self._ranges, self._view = ranges, byte_view(buffer)
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        self._tasks = [asyncio.ensure_future(self._fetch(i)) for i in range(len(self._ranges))]

    async def _fetch(self, number: int) -> None:
        item = self._ranges.one(number)
        assert isinstance(item.file, ObjectFile), "a file of another store"
        error: BaseException | None = None
        try:
            await item.file.fetch(self._view[item.at : item.at + item.needed], item.offset)
        except asyncio.CancelledError:
            raise
        except BaseException as caught:
            error = caught
        self.arrived.put((number, error))

    async def end(self) -> None:
        """Cancel what has not arrived, and wait until nothing writes to the buffer any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class ObjectReader(Reader):
    """Reads ranges of objects, all of a call in flight at once as far as the window allows.

    Parameters
    ----------
    requests : Requests
    """

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def filled(
        self, ranges: Ranges, buffer: Bytes, stops: Sequence[int]
    ) -> Generator[int, None, None]:
        if not len(ranges):
            yield from stops[-1:]
            return
        flight = _Flight(ranges, buffer)
        self._requests.wait(flight.begin())
        try:
            yield from _stops_reached(flight.arrived, len(ranges), stops)
        finally:
            self._requests.wait(flight.end())

    def close(self, *, wait: bool = True) -> None:
        pass


def _stops_reached(
    arrived: SimpleQueue[tuple[int, BaseException | None]], count: int, stops: Sequence[int]
) -> Generator[int, None, None]:
    """Yield the highest stop before which everything has arrived, as it ascends."""
    there = bytearray(count + 1)  # its last byte stays 0
    first_missing, reached = 0, 0
    while reached < len(stops):
        number, error = arrived.get()
        while True:
            if error is not None:
                raise error
            there[number] = 1
            try:
                number, error = arrived.get_nowait()
            except Empty:
                break
        first_missing = there.index(0, first_missing)
        before = reached
        while reached < len(stops) and stops[reached] <= first_missing:
            reached += 1
        if reached > before:
            yield stops[reached - 1]
