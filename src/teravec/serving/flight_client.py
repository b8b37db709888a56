"""One server, as its callers see it: frames over Flight, with deadlines and typed errors."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import deque
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from pyarrow import flight

from teravec.errors import (
    AccessDenied,
    DeadlineExceeded,
    InvalidArgument,
    ProtocolError,
    TeravecError,
    Unavailable,
)
from teravec.serving.deadline import Deadline
from teravec.serving.frames import decode, encode
from teravec.serving.protocol import Answer
from teravec.serving.security import Address, ClientSecurity

__all__ = ["Call", "FlightPeer"]

_SCHEMES = {"grpc": False, "grpc+tcp": False, "grpc+tls": True}
_SLACK_S = 0.25  # for a server's own 'deadline exceeded' to arrive
_LARGEST_ANSWER = 1 << 30


class Call:
    """A call under way, that another thread may give up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reader: Any = None
        self.given_up = False

    def give_up(self) -> None:
        """End the call now; its answer is not wanted any more."""
        with self._lock:
            self.given_up = True
            if self._reader is not None:
                self._reader.cancel()

    def watch(self, reader: Any) -> None:
        """Give up by this reader."""
        with self._lock:
            self._reader = reader
            if self.given_up and reader is not None:
                reader.cancel()


class FlightPeer:
    """A server at one address; connects when first asked, and again after a failure.

    Parameters
    ----------
    url : str
        ``grpc://host:port`` or ``grpc+tls://host:port``.
    security : ClientSecurity
    """

    def __init__(self, url: str, security: ClientSecurity) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES or parts.path not in ("", "/"):
            raise InvalidArgument(
                f"{url!r} found; grpc://host:port or grpc+tls://host:port expected"
            )
        self.address = Address.parse(parts.netloc)
        tls = _SCHEMES[parts.scheme]
        security.check_address(self.address, tls)
        options: dict[str, Any] = {}
        if tls:
            options = {"tls_root_certs": security.ca, "cert_chain": security.certificate,
                       "private_key": security.key}  # fmt: skip
        # gRPC waits up to 2 minutes before it tries a dead address again: too long here.
        options["generic_options"] = [
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        self._answered: deque[tuple[Any, Any]] = deque()
        self._headers = []
        if security.token is not None:
            self._headers = [(b"authorization", b"Bearer " + security.token.encode())]
        scheme = "grpc+tls" if tls else "grpc+tcp"
        try:
            self._client = flight.FlightClient(
                f"{scheme}://{self.address}", **{k: v for k, v in options.items() if v is not None}
            )
        except (pa.ArrowException, OSError) as error:
            raise InvalidArgument(f"{url}: not an address, or not a certificate") from error

    def ask(
        self, method: str, frame: bytes, deadline: Deadline, call: Call | None = None
    ) -> tuple[Answer, int]:
        """Send a request's frame; return the answer and the bytes it had.

        Raises
        ------
        TeravecError
            What the server told; or Unavailable, DeadlineExceeded, AccessDenied, ProtocolError.
        """
        self._close_answered()
        try:
            writer, reader = self._client.do_exchange(
                flight.FlightDescriptor.for_command(method), self._options(deadline)
            )
            if call is not None:
                call.watch(reader)
            try:
                with contextlib.suppress(OSError):  # the reader tells why the call has ended
                    writer.write_metadata(pa.py_buffer(frame))
                    writer.done_writing()
                data = reader.read_chunk().app_metadata
            except BaseException:
                _close(writer, reader)
                raise
            finally:
                if call is not None:
                    call.watch(None)
            self._answered.append((writer, reader))
        except StopIteration:
            raise ProtocolError(f"{self.address}: no answer came") from None
        except (pa.ArrowException, OSError) as error:
            raise self._typed(error) from error
        if data is None or data.size > _LARGEST_ANSWER:
            raise ProtocolError(f"{self.address}: an answer without a frame, or too large")
        return Answer.decode(memoryview(data)), data.size

    def _close_answered(self) -> None:
        """Close calls whose answers are here.

        Not when the answer comes: its caller would wait until the server has ended the call too.
        """
        while self._answered:
            with contextlib.suppress(IndexError):  # another thread took it
                _close(*self._answered.popleft())

    def tell(self, action: str, deadline: Deadline) -> dict[str, Any]:
        """What an action tells, as a JSON object."""
        data = self._act(action, b"", deadline)
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            raise ProtocolError(f"{self.address}: {action} is not JSON") from None
        if not isinstance(content, dict):
            raise ProtocolError(f"{self.address}: {action} is not a JSON object")
        return content

    def list_sizes(self, version: str, nlist: int, deadline: Deadline) -> np.ndarray:
        """Vectors of each list that the server owns, int64 of shape (nlist,)."""
        data = self._act("list-sizes", encode({"version": version}, {}), deadline)
        header, arrays = decode(data)
        sizes = arrays.get("sizes")
        if (
            sizes is None or sizes.shape != (nlist,) or sizes.dtype.kind != "i"
            or (sizes < 0).any() or header.get("version") != version
        ):  # fmt: skip
            raise ProtocolError(f"{self.address}: sizes of {nlist:,} lists expected")
        return sizes

    def _act(self, action: str, body: bytes, deadline: Deadline) -> bytes:
        try:
            call = self._client.do_action(flight.Action(action, body), self._options(deadline))
            data: bytes = next(iter(call)).body.to_pybytes()
        except StopIteration:
            raise ProtocolError(f"{self.address}: {action} has no result") from None
        except (pa.ArrowException, OSError) as error:
            raise self._typed(error) from error
        if data[:4] == b"TVFR" and "error" in decode(data)[0]:
            Answer.decode(data)  # raises what it holds
        return data

    def _options(self, deadline: Deadline) -> Any:
        deadline.check()
        return flight.FlightCallOptions(timeout=deadline.left_s + _SLACK_S, headers=self._headers)

    def _typed(self, error: Exception) -> TeravecError:
        if isinstance(error, flight.FlightTimedOutError):
            return DeadlineExceeded(f"{self.address}: no answer in time")
        if isinstance(error, flight.FlightUnauthenticatedError | flight.FlightUnauthorizedError):
            return AccessDenied(f"{self.address}: the server wants a valid token")
        if isinstance(error, flight.FlightUnavailableError | OSError):
            # TLS failures look like this too; gRPC's own text says which.
            return Unavailable(f"{self.address}: no server answers ({_first_line(error)})")
        if isinstance(error, flight.FlightCancelledError):
            return Unavailable(f"{self.address}: the call was cancelled")
        return ProtocolError(f"{self.address}: {_first_line(error)}")

    def close(self) -> None:
        """Close the connection."""
        self._close_answered()
        self._client.close()


def _close(writer: Any, reader: Any) -> None:
    try:
        writer.close()
    except (pa.ArrowException, OSError):
        reader.cancel()  # the error itself was raised where it was met


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    text = lines[0].split(". gRPC client debug context")[0]
    return text.rsplit("last error: ", 1)[-1].removeprefix("UNKNOWN: ")[:300]
