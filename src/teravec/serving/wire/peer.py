"""A client of one server: frames over HTTP/1.1, with deadlines and typed errors."""

from __future__ import annotations

import json
import os
from queue import Empty
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from teravec.errors import DeadlineExceeded, InvalidArgument, ProtocolError
from teravec.serving.wire.calls import IDLE_S, Arrivals, Call, Connections
from teravec.serving.wire.connection import Target
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.frames import decode, encode
from teravec.serving.wire.protocol import Answer
from teravec.serving.wire.security import Address, ClientSecurity

__all__ = ["ServerPeer", "answer_of"]

_SCHEMES = {"grpc": False, "grpc+tcp": False, "grpc+tls": True}
_SLACK_S = 0.25  # for a server's own 'deadline exceeded' to arrive


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
            f"{url!r} found, which names the HTTP port; this client needs the other port, which "
            f"'serve' prints as grpc{tls}://host:port (7400 by default)"
        )
    if parts.scheme not in _SCHEMES or parts.path not in ("", "/") or parts.query:
        raise InvalidArgument(f"{url!r} found; {expected}")
    return parts.scheme, Address.parse(parts.netloc)


class ServerPeer:
    """A server at one address; connects when first asked, and again after a failure.

    Parameters
    ----------
    url : str
        ``grpc://host:port`` or ``grpc+tls://host:port``; ``host:port`` is the former.
    security : ClientSecurity
    idle_s : float
        Seconds for which a connection is kept for the next request.
    """

    def __init__(self, url: str, security: ClientSecurity, idle_s: float = IDLE_S) -> None:
        scheme, self.address = _parsed(url)
        tls = _SCHEMES[scheme]
        security.check_address(self.address, tls)
        context = security.context() if tls else None
        target = Target(self.address, context, security.token, _proxy_for(self.address))
        self._connections = Connections(target, idle_s)

    def ask(self, method: str, frame: bytes, deadline: Deadline) -> tuple[Answer, int]:
        """Send a request's frame; return the answer and its size in bytes.

        Raises
        ------
        TeravecError
            The server's own error; or Unavailable, DeadlineExceeded, AccessDenied, ProtocolError.
        """
        deadline.check()
        return answer_of(self._call(method, frame, deadline), self.address)

    def send(self, method: str, frame: bytes, arrivals: Arrivals) -> Call:
        """Send a request's frame without waiting; ``arrivals`` receives the ended call."""
        call = Call(self._connections, method, frame)
        call.begin(arrivals)
        return call

    def _call(self, method: str, frame: bytes, deadline: Deadline) -> Call:
        """Send a request's frame; return the ended call."""
        arrivals = Arrivals()
        call = self.send(method, frame, arrivals)
        try:
            return arrivals.get(timeout=deadline.left_s + _SLACK_S)
        except Empty:
            raise DeadlineExceeded(f"{self.address}: no answer in time") from None
        finally:
            call.give_up()

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
        deadline.check()
        call = self._call(action, body, deadline)
        if call.error is not None:
            raise call.error
        data = b"" if call.data is None else call.data.tobytes()
        if data[:4] == b"TVFR" and "error" in decode(data)[0]:
            Answer.decode(data)  # raises the error in the frame
        return data

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()


def _proxy_for(address: Address) -> Address | None:
    """Return the proxy for an address: that of ``grpc_proxy``, and none for loopback.

    ``http_proxy`` and the like are ignored: they are meant for the web.
    """
    given = os.environ.get("grpc_proxy")  # noqa: SIM112
    if not given or address.is_loopback:
        return None
    try:
        return Address.parse(given.rpartition("://")[2].rstrip("/"))
    except InvalidArgument as error:
        raise InvalidArgument(f"the variable grpc_proxy: {error}") from None


def answer_of(call: Call, address: Address | str) -> tuple[Answer, int]:
    """Return a call's answer and its size in bytes; raises as ``ServerPeer.ask`` does."""
    if call.error is not None:
        raise call.error
    if call.data is None:
        raise ProtocolError(f"{address}: an answer without a frame")
    return Answer.decode(call.data.data), call.data.size
