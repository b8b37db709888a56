"""A client of one server: frames over Flight, with deadlines and typed errors."""

from __future__ import annotations

import json
import os
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from pyarrow import flight

from teravec.errors import (
    AccessDenied,
    Busy,
    DeadlineExceeded,
    InvalidArgument,
    ProtocolError,
    Unavailable,
)
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.exchanges import IDLE_S, Call, Exchanges
from teravec.serving.wire.frames import decode, encode
from teravec.serving.wire.protocol import METHODS, Answer, error_of_text
from teravec.serving.wire.security import Address, ClientSecurity

__all__ = ["FlightPeer", "answer_of"]

_SCHEMES = {"grpc": False, "grpc+tcp": False, "grpc+tls": True}
_SLACK_S = 0.25  # for a server's own 'deadline exceeded' to arrive
_LARGEST_ANSWER = 1 << 30
_AROUND_A_FRAME = 4096


def _parsed(url: str) -> tuple[str, Address]:
    """Scheme and address of ``SCHEME://HOST:PORT``, or of ``HOST:PORT`` alone."""
    named = url if "://" in url else f"grpc://{url}"
    expected = "host:port, grpc://host:port or grpc+tls://host:port expected"
    try:
        parts = urlsplit(named)
    except ValueError as error:
        raise InvalidArgument(f"{url!r} found; {expected}") from error
    if parts.scheme in ("http", "https"):
        tls = "+tls" if parts.scheme == "https" else ""
        raise InvalidArgument(
            f"{url!r} found, which names the HTTP port; this client needs the Flight port, which "
            f"'serve' prints as grpc{tls}://host:port (7400 by default)"
        )
    if parts.scheme not in _SCHEMES or parts.path not in ("", "/") or parts.query:
        raise InvalidArgument(f"{url!r} found; {expected}")
    return parts.scheme, Address.parse(parts.netloc)


class FlightPeer:
    """A server at one address; connects when first asked, and again after a failure.

    Parameters
    ----------
    url : str
        ``grpc://host:port`` or ``grpc+tls://host:port``; ``host:port`` is the former.
    security : ClientSecurity
    idle_s : float
        Seconds for which an exchange is kept for the next request.
    """

    def __init__(self, url: str, security: ClientSecurity, idle_s: float = IDLE_S) -> None:
        scheme, self.address = _parsed(url)
        tls = _SCHEMES[scheme]
        security.check_address(self.address, tls)
        options: dict[str, Any] = {}
        if tls:
            options = {
                "tls_root_certs": security.ca,
                "cert_chain": security.certificate,
                "private_key": security.key,
            }
        # gRPC waits up to 2 minutes before it tries a dead address again: too long here.
        options["generic_options"] = [
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.enable_http_proxy", int(_proxy_for(self.address) is not None)),
            # Refuse a malicious server's answer before it takes memory or is decompressed.
            ("grpc.max_receive_message_length", _LARGEST_ANSWER + _AROUND_A_FRAME),
            ("grpc.compression_enabled_algorithms_bitset", 1),
        ]
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
        kept = flight.FlightCallOptions(headers=self._headers)
        self._exchanges = {name: Exchanges(self._client, name, kept, idle_s) for name in METHODS}

    def ask(self, method: str, frame: bytes, deadline: Deadline) -> tuple[Answer, int]:
        """Send a request's frame; return the answer and its size in bytes.

        Raises
        ------
        TeravecError
            The server's own error; or Unavailable, DeadlineExceeded, AccessDenied, ProtocolError.
        """
        deadline.check()
        arrivals: SimpleQueue[Call] = SimpleQueue()
        call = self.send(method, frame, arrivals)
        try:
            arrivals.get(timeout=deadline.left_s + _SLACK_S)
        except Empty:
            call.give_up()
            raise DeadlineExceeded(f"{self.address}: no answer in time") from None
        except BaseException:
            call.give_up()
            raise
        return answer_of(call, self.address)

    def send(self, method: str, frame: bytes, arrivals: SimpleQueue[Call]) -> Call:
        """Send a request's frame without waiting; ``arrivals`` receives the ended call."""
        call = Call(frame, arrivals)
        self._exchanges[method].send(call)
        return call

    def tell(self, action: str, deadline: Deadline, body: bytes = b"") -> dict[str, Any]:
        """Run an action and return its JSON object."""
        data = self._act(action, body, deadline)
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
            sizes is None
            or sizes.shape != (nlist,)
            or sizes.dtype.kind != "i"
            or (sizes < 0).any()
            or header.get("version") != version
        ):
            raise ProtocolError(f"{self.address}: sizes of {nlist:,} lists expected")
        return sizes

    def _act(self, action: str, body: bytes, deadline: Deadline) -> bytes:
        try:
            call = self._client.do_action(flight.Action(action, body), self._options(deadline))
            data: bytes = next(iter(call)).body.to_pybytes()
        except StopIteration:
            raise ProtocolError(f"{self.address}: {action} has no result") from None
        except (pa.ArrowException, OSError) as error:
            raise _typed(error, self.address) from error
        if data[:4] == b"TVFR" and "error" in decode(data)[0]:
            Answer.decode(data)  # raises the error in the frame
        return data

    def _options(self, deadline: Deadline) -> Any:
        deadline.check()
        return flight.FlightCallOptions(timeout=deadline.left_s + _SLACK_S, headers=self._headers)

    def close(self) -> None:
        """Close the connection."""
        for exchanges in self._exchanges.values():
            exchanges.close()
        self._client.close()


def _proxy_for(address: Address) -> str | None:
    """Return the proxy for an address: that of ``grpc_proxy``, and none for loopback.

    ``http_proxy`` and the like are ignored: they are meant for the web.
    """
    return None if address.is_loopback else os.environ.get("grpc_proxy")  # noqa: SIM112


def answer_of(call: Call, address: Address | str) -> tuple[Answer, int]:
    """Return a call's answer and its size in bytes; raises as ``FlightPeer.ask`` does."""
    if call.error is not None:
        raise _typed(call.error, address) from call.error
    if call.data is None or call.data.size > _LARGEST_ANSWER:
        raise ProtocolError(f"{address}: an answer without a frame, or too large")
    return Answer.decode(memoryview(call.data)), call.data.size


def _typed(error: Exception, address: Address | str) -> Exception:
    """Translate a network error into one of teravec's; other errors pass unchanged."""
    if isinstance(error, StopIteration):
        return ProtocolError(f"{address}: no answer came")
    if (refused := error_of_text(_status_text(error))) is not None:
        return refused
    if isinstance(error, flight.FlightTimedOutError):
        return DeadlineExceeded(f"{address}: no answer in time")
    if isinstance(error, flight.FlightUnauthenticatedError | flight.FlightUnauthorizedError):
        return AccessDenied(f"{address}: the server requires a valid token")
    if isinstance(error, flight.FlightUnavailableError | OSError):
        # TLS failures look like this too; gRPC's own text says which.
        by = _proxy_for(Address.parse(address) if isinstance(address, str) else address)
        through = f" through the proxy {by} of the variable grpc_proxy" if by else ""
        return Unavailable(f"{address}: no server answers{through} ({_first_line(error)})")
    if isinstance(error, flight.FlightCancelledError):
        return Unavailable(f"{address}: the call was cancelled")
    if _is_exhausted(error):
        return Busy(f"{address}: {_first_line(error)}")
    if isinstance(error, pa.ArrowException):
        return ProtocolError(f"{address}: {_first_line(error)}")
    return error


def _is_exhausted(error: Exception) -> bool:
    """Whether gRPC reports that the server is out of threads or memory (Flight has no type for it).

    An answer above this client's own bound has the same code, but a retry would not help.
    """
    text = str(error)
    return "resource exhausted" in text and "larger than max" not in text


def _status_text(error: Exception) -> str:
    """Return the server's status message on one line."""
    text = str(error).partition(" error, with message: ")[2]
    return text.partition(". gRPC client debug context")[0].replace("\n", " ")


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    text = lines[0].split(". gRPC client debug context")[0]
    return text.rsplit("last error: ", 1)[-1].removeprefix("UNKNOWN: ")[:300]
