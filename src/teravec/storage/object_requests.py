"""Requests to object stores: many in flight, tried again within bounds, with typed errors.

All requests of a process run on one event loop, in a thread of its own. So hundreds of reads are in
flight without as many threads. Each bucket has a window: at most that many requests at once. The
window shrinks when the store asks for less and grows slowly while it answers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from teravec.errors import MissingFile, StorageError, TeravecError
from teravec.storage.object_address import ObjectAddress, StoreOptions
from teravec.storage.object_connection import Connection, connect

__all__ = ["Conflict", "EndsEarlier", "Fault", "Requests", "find_fault", "requests_of"]

T = TypeVar("T")

log = logging.getLogger(__name__)

_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 5.0
_SHRINK = 0.5  # of the window, when the store asks for fewer requests
_CALM_S = 0.5  # one wave's refusals shrink the window once

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z.]{1,64})</Code>")
_SLOW_CODES = ("SlowDown", "TooManyRequests", "ServerBusy", "RequestLimitExceeded", "Throttling")
_METADATA = ("169.254.169.254", "169.254.170.2", "metadata.google.internal", "metadata/identity")
_BROKEN = (
    "error sending request",
    "body error",
    "error decoding response body",
    "HTTP error",
    "Received non-partial response",
    "Requested ",
    "Content-Range",
    "Content-Length",
)
"""Parts of messages of a connection or an answer that broke: the next attempt may succeed."""


class Conflict(TeravecError):
    """The store refused a request because of what the object is now: 409 or 412."""


class EndsEarlier(TeravecError):
    """A range begins at or after an object's end."""


@dataclass(frozen=True)
class Fault:
    """Why a request failed, without anything that may be a secret.

    Parameters
    ----------
    kind : {"missing", "range", "conflict", "slow", "broken", "refused"}
        What a caller can do about it: "slow" and "broken" are worth another attempt.
    why : str
        For a message.
    uncertain : bool
        The request may have been carried out all the same.
    """

    kind: str
    why: str
    uncertain: bool = False


def find_fault(error: Exception) -> Fault:
    """Return what an exception of obstore means.

    obstore has few types, and puts the rest into its messages: the store's status and code. Only
    these two are taken from them, because a message may hold a signed address.
    """
    text, _, details = str(error).partition("Debug source:")
    found = _STATUS.search(text)
    status = int(found.group(1)) if found else 0
    code = match.group(1) if (match := _CODE.search(text)) else ""
    answer = f"status {status}" + (f", {code}" if code else "")
    name = type(error).__name__
    if "scheme is not allowed" in details or "BadScheme" in details:
        return Fault("refused", "plain http found; https expected, or the option allow_http=true")
    if any(place in text for place in _METADATA) or "credential" in text.lower():
        return Fault("refused", "no credentials found; set those of this kind of store")
    if code in ("NoSuchBucket", "ContainerNotFound") or "bucket does not exist" in text:
        return Fault("refused", "there is no such bucket")
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"):
        return Fault("refused", f"the credentials are not valid ({answer})")
    if status == 429 or status == 503 or code in _SLOW_CODES:
        return Fault("slow", f"the store asks for fewer requests ({answer})")
    if status == 416 or "Wanted range starting at" in text:
        return Fault("range", "the object ends earlier")
    if status in (401, 403) or name in ("PermissionDeniedError", "UnauthenticatedError"):
        return Fault("refused", f"no permission ({answer})" if status else "no permission")
    if status in (409, 412) or name in ("AlreadyExistsError", "PreconditionError"):
        return Fault("conflict", answer if status else "the object is another one")
    if isinstance(error, FileNotFoundError) or status == 404:
        return Fault("missing", "no such object")
    if status == 408 or status >= 500:
        return Fault("broken", f"the store failed ({answer})", uncertain=True)
    if not status and any(part in text for part in _BROKEN):
        return Fault("broken", "the connection failed, or the time for it passed", uncertain=True)
    return Fault("refused", f"the request failed ({answer if status else name})")


class _Window:
    """How many requests are in flight at once: additive increase, multiplicative decrease.

    Used on the event loop only.
    """

    def __init__(self, most: int) -> None:
        self._most, self._size = most, float(most)
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._shrunk_at = 0.0

    async def enter(self) -> None:
        if self._in_flight < int(self._size) and not self._waiting:
            self._in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn  # whoever leaves hands the place over
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        self._in_flight -= 1
        while self._waiting and self._in_flight < int(self._size):
            turn = self._waiting.popleft()
            if not turn.done():
                self._in_flight += 1
                turn.set_result(None)

    def grow(self) -> None:
        self._size = min(self._most, self._size + 1 / self._size)

    def shrink(self, now: float) -> None:
        if now - self._shrunk_at >= _CALM_S:
            self._size, self._shrunk_at = max(1.0, self._size * _SHRINK), now


class Requests:
    """Sends requests to one bucket, from any thread.

    Parameters
    ----------
    connection : Connection
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._window = _Window(connection.depth)

    def start(self, request: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the event loop; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(request, _loop())

    def wait(self, request: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the event loop, and return what it returns."""
        future = self.start(request)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def attempt(
        self,
        send: Callable[[], Awaitable[T]],
        where: str,
        action: str,
        uncertain: Callable[[], None] | None = None,
    ) -> T:
        """Send a request, again where another attempt may help, until it succeeds.

        Parameters
        ----------
        send : callable
            Sends the request once. Each attempt has the client's own time limit.
        where, action : str
            The object's address and a verb, for messages.
        uncertain : callable, optional
            Called when an attempt failed that may have been carried out.

        Raises
        ------
        MissingFile
        Conflict
        EndsEarlier
        StorageError
            Refused, or failed for too long.
        """
        loop = asyncio.get_running_loop()
        began, tries = loop.time(), 0
        while True:
            fault = await self._once(send)
            if not isinstance(fault, Fault):
                return fault
            if fault.kind == "missing":
                raise MissingFile(f"{where}: cannot {action}: no such file") from None
            if fault.kind == "range":
                raise EndsEarlier(where) from None
            if fault.kind == "conflict":
                raise Conflict(f"{where}: cannot {action}: {fault.why}") from None
            tries += 1
            elapsed = loop.time() - began
            wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (tries - 1)) * random.uniform(0.5, 1)
            if fault.kind == "refused":
                raise StorageError(f"{where}: cannot {action}: {fault.why}") from None
            if elapsed + wait_s > self.connection.retry_timeout:
                raise StorageError(
                    f"{where}: cannot {action}: {fault.why}; tried {tries} times in {elapsed:.1f} s"
                ) from None
            if fault.uncertain and uncertain is not None:
                uncertain()
            log.debug("%s: %s; attempt %d follows", where, fault.why, tries + 1)
            await asyncio.sleep(wait_s)

    async def _once(self, send: Callable[[], Awaitable[T]]) -> T | Fault:
        """Send the request once, when the window has a place for it."""
        await self._window.enter()
        try:
            answer = await send()
        except TeravecError:
            raise
        except Exception as error:
            fault = find_fault(error)
            if fault.kind in ("slow", "broken"):  # a store with too much to do may not say so
                self._window.shrink(asyncio.get_running_loop().time())
            return fault
        else:
            self._window.grow()
            return answer
        finally:
            self._window.leave()


@lru_cache(maxsize=64)
def _requests(kind: str, bucket: str, options: StoreOptions, _process: int) -> Requests:
    return Requests(connect(ObjectAddress(kind, bucket, ""), options))


def requests_of(address: ObjectAddress, options: StoreOptions = ()) -> Requests:
    """Return what sends this process's requests to an address's bucket."""
    return _requests(address.kind, address.bucket, options, os.getpid())


class _LoopThread:
    """The process's event loop, started when it is first wanted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = 0
        self._running: asyncio.AbstractEventLoop | None = None

    def get(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._running is None or self._process != os.getpid():
                self._running, self._process = asyncio.new_event_loop(), os.getpid()
                threading.Thread(
                    target=self._running.run_forever, name="teravec-requests", daemon=True
                ).start()
            return self._running


_loop = _LoopThread().get
