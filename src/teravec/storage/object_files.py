"""Objects open for reading, and readers of many ranges of them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.errors import CorruptFile, StorageError
from teravec.storage.files import byte_view
from teravec.storage.held_ranges import HeldRanges
from teravec.storage.object_requests import Conflict, EndsEarlier, Requests
from teravec.storage.progress_of_ranges import Progress
from teravec.storage.range_joins import JoinedRange, join_near, join_ranges
from teravec.storage.store import OpenFile, Ranges, Reader, Sealed

__all__ = ["ObjectFile", "ObjectReader", "head_object", "read_object"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

_HEAD_BYTES = 16 << 10
"""Read when an object is opened: whole small files, and the headers of large ones."""

_NEAR_BYTES = 32 << 10
"""First reads of a file that lie as near as this are one request."""

_PIECE_BYTES = 8 << 20
"""Largest request; longer ranges are several requests, in flight at once."""


class ObjectFile(OpenFile):
    """An object open for reading.

    There is no connection behind it. All reads are of the version that answered first; an object
    that was replaced since is an error.

    Attributes
    ----------
    etag : str or None
        The store's name for this version, once it has answered, if it has one.

    Parameters
    ----------
    requests : Requests
    key : str
    path : str
    sealed : Sealed, optional
        What the object is expected to be. Not given: the first request asks for its size.
    ahead : sequence of (start, stop)
        Ranges that are requested now.
    """

    def __init__(
        self,
        requests: Requests,
        key: str,
        path: str,
        sealed: Sealed | None = None,
        ahead: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.path = path
        self._requests, self._key, self._expected = requests, key, sealed
        self.etag: str | None = None
        self._is_sealed = sealed is not None
        self._held, self._started = HeldRanges(), set[Future[memoryview]]()
        if sealed is None:
            head = 0, max([_HEAD_BYTES, *(stop for _, stop in ahead)])
            self._first = self._start(*head, self._get_head(*head))
            return
        for start, stop in join_near(ahead, _NEAR_BYTES):
            self._start(start, stop, self._get(start, stop))

    def _start(
        self, start: int, stop: int, request: Coroutine[Any, Any, memoryview]
    ) -> Future[memoryview]:
        future = self._requests.start(request)
        self._held.add(start, stop, future.result, lambda: _has_succeeded(future))
        self._started.add(future)
        future.add_done_callback(self._started.discard)  # its bytes are those of the held range
        return future

    @property
    def size(self) -> int:  # type: ignore[override]
        """Bytes of the object."""
        if self._expected is None:
            self._first.result()
        assert self._expected is not None
        return self._expected.size

    def wait(self) -> ObjectFile:
        """Wait for the first requests, or raise MissingFile."""
        if self._expected is None:
            self._first.result()
        return self

    def read_into(self, buffer: memoryview, offset: int) -> None:
        if len(buffer) and not self._held.read_into(buffer, offset):
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
        if self._expected is None:
            await asyncio.wrap_future(self._first)
        if end > self.size:
            raise _ends_early(self.path, self.size, end)

        async def fetch_piece(some: memoryview, start: int) -> None:
            some[:] = await self.get(start, start + len(some))

        starts = range(0, len(buffer), _PIECE_BYTES)
        await _all([fetch_piece(buffer[i : i + _PIECE_BYTES], offset + i) for i in starts])

    async def get(self, start: int, stop: int) -> memoryview:
        """Return bytes [start, stop) with at most one request; runs on the event loop."""
        held = self._held.find(start, stop, wait=False) if self._is_sealed else None
        return await self._get(start, stop) if held is None else held

    async def _get(self, start: int, stop: int) -> memoryview:
        try:
            data, meta = await _get(self._requests, self._key, self.path, start, stop, self.etag)
        except (Conflict, EndsEarlier):
            raise await self._replaced(stop) from None
        self._check(meta)
        if len(data) < stop - start:
            raise await self._replaced(stop)
        return data

    async def _get_head(self, start: int, stop: int) -> memoryview:
        """Return the object's first bytes, with what it is."""
        try:
            data, meta = await _get(self._requests, self._key, self.path, start, stop, None)
        except EndsEarlier:  # an empty object has no first byte
            data = memoryview(b"")
            meta = await head_object(self._requests, self._key, self.path)
        self._check(meta)
        return data

    def _check(self, meta: dict[str, Any]) -> None:
        """Compare what an answer says of the object with what it should be."""
        size, etag = int(meta["size"]), meta.get("e_tag")
        if etag is not None and etag.startswith("W/"):
            etag = None  # a weak name cannot be asked for: no range would match it
        if self._expected is None:
            self._expected = Sealed(size, "")
        if size != self._expected.size:
            raise CorruptFile(
                f"{self.path}: {size:,} bytes found, {self._expected.size:,} expected"
            )
        if self.etag is not None and etag != self.etag:
            raise _was_replaced(self.path)
        self.etag = etag

    async def _replaced(self, end: int) -> CorruptFile:
        """Return the error of an object that is no longer what was opened."""
        found = int((await head_object(self._requests, self._key, self.path))["size"])
        return _ends_early(self.path, found, end) if found < end else _was_replaced(self.path)

    def close(self) -> None:
        for request in list(self._started):
            request.cancel()
        self._held.clear()


def _has_succeeded(future: Future[memoryview]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _was_replaced(path: str) -> CorruptFile:
    return CorruptFile(
        f"{path}: the object was replaced after it was opened; sealed files never change"
    )


def _ends_early(path: str, size: int, end: int) -> CorruptFile:
    return CorruptFile(f"{path}: ends at byte {size:,}; {end:,} bytes expected")


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

    def __init__(self, ranges: Ranges, buffer: Bytes, joined: list[JoinedRange]) -> None:
        self.arrived: SimpleQueue[tuple[Int64, BaseException | None]] = SimpleQueue()
        self._ranges, self._view, self._joined = ranges, byte_view(buffer), joined
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        self._tasks = [asyncio.ensure_future(self._fetch(each)) for each in self._joined]

    async def _fetch(self, joined: JoinedRange) -> None:
        error: BaseException | None = None
        try:
            await self._fill(joined)
        except asyncio.CancelledError:
            raise
        except BaseException as caught:
            error = caught
        self.arrived.put((joined.numbers, error))

    async def _fill(self, joined: JoinedRange) -> None:
        items = [self._ranges.one(number) for number in joined.numbers.tolist()]
        file = items[0].file
        assert isinstance(file, ObjectFile), "a file of another store"
        if len(items) == 1:
            [item] = items
            await file.fetch(self._view[item.at : item.at + item.needed], item.offset)
            return
        data = await file.get(joined.start, joined.stop)
        for item in items:
            begin = item.offset - joined.start
            self._view[item.at : item.at + item.needed] = data[begin : begin + item.needed]

    async def end(self) -> None:
        """Cancel what has not arrived, and wait until nothing writes to the buffer any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class ObjectReader(Reader):
    """Reads ranges of objects, all of a call in flight at once as far as the window allows.

    Near ranges are one request.

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
        limits = self._requests.connection
        flight = _Flight(ranges, buffer, join_ranges(ranges, limits.gap_bytes, limits.depth))
        self._requests.wait(flight.begin())
        try:
            yield from _stops_reached(flight.arrived, len(ranges), stops)
        finally:
            self._requests.wait(flight.end())

    def close(self, *, wait: bool = True) -> None:
        pass


def _stops_reached(
    arrived: SimpleQueue[tuple[Int64, BaseException | None]], count: int, stops: Sequence[int]
) -> Generator[int, None, None]:
    """Yield the highest stop before which everything has arrived, as it ascends."""
    progress = Progress(count, stops)
    while not progress.ended:
        numbers, error = arrived.get()
        while True:
            if error is not None:
                raise error
            progress.mark(numbers)
            try:
                numbers, error = arrived.get_nowait()
            except Empty:
                break
        yield from progress.reached()
