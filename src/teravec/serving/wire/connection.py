"""A client's connection to one server: frames over HTTP/1.1, without ever blocking."""

from __future__ import annotations

import os
import selectors
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.errors import ProtocolError, Unavailable
from teravec.serving.wire.security import Address

__all__ = ["LARGEST_ANSWER", "Connection", "Lost", "Target"]

LARGEST_ANSWER = 1 << 30
_READ_BYTES = 64 << 10
_LONGEST_HEAD = 16 << 10
_WHOLE_BYTES = 64 << 10  # a request up to this size is sent in one piece
_IN, _OUT = selectors.EVENT_READ, selectors.EVENT_WRITE

Bytes = npt.NDArray[np.uint8]
Where = tuple[Any, ...]


class Lost(Exception):
    """A connection that had been used before was closed before an answer began."""


@dataclass(frozen=True)
class Target:
    """Where connections go to, and how they prove who asks.

    Parameters
    ----------
    address : Address
    tls : SSLContext, optional
    token : str, optional
    proxy : Address, optional
        Connect through this HTTP proxy.
    """

    address: Address
    tls: ssl.SSLContext | None = None
    token: str | None = None
    proxy: Address | None = None

    @property
    def head(self) -> bytes:
        """The header lines of each request."""
        shown = "" if self.token is None else f"authorization: Bearer {self.token}\r\n"
        kind = "content-type: application/vnd.teravec.frame\r\n"
        return f"host: {self.address}\r\n{kind}{shown}content-length: ".encode()


class Connection:
    """One connection. It has one request at a time, and belongs to one thread meanwhile.

    Parameters
    ----------
    target : Target
    """

    def __init__(self, target: Target) -> None:
        self._target, self._head = target, target.head
        self.is_reusable, self.events = True, _OUT
        self._used = False
        self._socket: socket.socket | ssl.SSLSocket | None = None
        self._finding: _Finding | None = None
        self._places: list[tuple[int, Where]] = []
        self._step: Callable[[], bool] = self._find  # what is to be done before requests are sent
        self._is_open = False
        self._unsent: list[memoryview] = []
        self._received = b""
        self._answer: Bytes | None = None
        self._filled = 0

    def ask(self, method: str, frame: bytes) -> None:
        """Have a request sent."""
        line = f"POST /frames/{method} HTTP/1.1\r\n".encode()
        head = line + self._head + b"%d\r\n\r\n" % len(frame)
        if len(frame) <= _WHOLE_BYTES:
            self._unsent = [memoryview(head + frame)]
        else:
            self._unsent = [memoryview(head), memoryview(frame)]
        self._received, self._answer = b"", None

    @property
    def waits_for(self) -> socket.socket:
        """The socket to wait for ``events`` of."""
        if self._finding is not None:
            return self._finding.done
        assert self._socket is not None
        return self._socket

    def go_on(self) -> Bytes | None:
        """Move bytes; return the answer when it is here, and None while it is not.

        Raises
        ------
        Lost
            Ask again, through a new connection.
        Unavailable, ProtocolError
        """
        try:
            while not self._is_open:
                if not self._step():
                    return None
            while self._unsent:
                if not self._send():
                    break
            return self._read()
        except OSError as error:  # TLS's errors too
            if (
                self._used
                and not self._received
                and not isinstance(error, ssl.SSLCertVerificationError)
            ):
                raise Lost from error
            raise Unavailable(self._why(error)) from error

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
        if self._finding is not None:
            self._finding.close()

    # --- before requests: each step returns False where it has to wait

    def _find(self) -> bool:
        """Look the host up, on another thread where that may take time."""
        if self._finding is None:
            to = self._target.proxy or self._target.address
            if (known := _numeric(to)) is not None:
                self._places = [known]
                self._step = self._connect
                return True
            self._finding, self.events = _Finding(to), _IN
        found = self._finding.found()
        if found is None:
            return False
        self._finding.close()
        self._finding = None
        self._places, self._step = found, self._connect
        return True

    def _connect(self) -> bool:
        family, where = self._places.pop(0)
        self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._step = self._connected
        self.events = _OUT
        try:
            self._socket.connect(where)
        except BlockingIOError:
            return False
        except OSError:
            self._try_next()
        return True

    def _connected(self) -> bool:
        assert self._socket is not None
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._try_next(OSError(error, os.strerror(error)))
            return True
        try:
            self._socket.getpeername()
        except OSError:
            return False  # not yet
        if self._target.proxy is not None:
            line = (
                f"CONNECT {self._target.address} HTTP/1.1\r\nhost: {self._target.address}\r\n\r\n"
            )
            self._socket.send(line.encode())
            self._step, self.events = self._through, _IN
        else:
            self._step = self._shake
        return True

    def _try_next(self, error: OSError | None = None) -> None:
        assert self._socket is not None
        self._socket.close()
        if not self._places:
            raise error or OSError("no connection")
        self._step = self._connect

    def _through(self) -> bool:
        """Read a proxy's answer."""
        assert self._socket is not None
        try:
            # No byte behind the head is ours: the server is silent until it is asked.
            self._received += self._socket.recv(1024)
        except BlockingIOError:
            return False
        if b"\r\n\r\n" not in self._received:
            if not self._received or len(self._received) > _LONGEST_HEAD:
                raise OSError("the proxy does not answer")
            return False
        if self._received.split(b" ", 2)[1:2] != [b"200"]:
            line = self._received.split(b"\r\n")[0][:100].decode("latin-1")
            raise OSError(f"the proxy answers {line!r}")
        self._received, self._step = b"", self._shake
        return True

    def _shake(self) -> bool:
        """Shake hands for TLS."""
        if self._target.tls is not None:
            assert self._socket is not None
            if not isinstance(self._socket, ssl.SSLSocket):
                self._socket = self._target.tls.wrap_socket(
                    self._socket,
                    server_hostname=self._target.address.host,
                    do_handshake_on_connect=False,
                )
            try:
                self._socket.do_handshake()
            except ssl.SSLWantReadError:
                self.events = _IN
                return False
            except ssl.SSLWantWriteError:
                self.events = _OUT
                return False
        self._is_open = True
        return True

    # --- a request and its answer

    def _send(self) -> bool:
        """Send some of the request; False where the server takes no more now."""
        assert self._socket is not None
        part = self._unsent[0]
        try:
            sent = self._socket.send(part)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return False
        except (BrokenPipeError, ConnectionResetError):
            # The server may have answered before it had all: its answer is what matters.
            self._unsent, self.is_reusable = [], False
            return False
        if sent < len(part):
            self._unsent[0] = part[sent:]
        else:
            self._unsent.pop(0)
        return True

    def _read(self) -> Bytes | None:
        """Read what is here of the answer; return it when it is complete."""
        assert self._socket is not None
        self.events = _IN | _OUT if self._unsent else _IN
        while True:
            try:
                if self._answer is None:
                    data = self._socket.recv(_READ_BYTES)
                    taken = len(data)
                else:
                    taken = self._socket.recv_into(self._answer[self._filled :].data)
            except (BlockingIOError, ssl.SSLWantReadError):
                return None
            except ssl.SSLWantWriteError:
                self.events = _IN | _OUT
                return None
            if not taken:
                raise ConnectionResetError("the connection was closed before the answer")
            if self._answer is None:
                self._received += data
                if not self._begin_answer():
                    continue
            else:
                self._filled += taken
            if self._answer is not None and self._filled == len(self._answer):
                self._used = True
                if self._unsent:
                    self.is_reusable = False
                answer, self._answer = self._answer, None
                return answer

    def _begin_answer(self) -> bool:
        """Read the answer's head; False if it is not here yet."""
        if self._received[:7] != b"HTTP/1."[: len(self._received)]:
            raise ProtocolError(
                f"{self._target.address}: no HTTP/1.1 answered; servers of earlier releases speak "
                "gRPC only, and are updated before their clients"
            )
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            if len(head) > _LONGEST_HEAD:
                raise ProtocolError(f"{self._target.address}: an answer's head is too long")
            return False
        lines = head.lower().split(b"\r\n")
        headers = dict(line.partition(b":")[::2] for line in lines[1:])
        text = headers.get(b"content-length", b"").strip()
        if not text.isdigit() or len(text) > 10 or int(text) > LARGEST_ANSWER:
            raise ProtocolError(f"{self._target.address}: an answer without a length, or too large")
        if b"teravec.frame" not in headers.get(b"content-type", b""):
            status = lines[0][9:12].decode("latin-1")
            raise ProtocolError(
                f"{self._target.address}: no frame answered, but HTTP's status {status}; the "
                "address of 'teravec serve --listen' expected"
            )
        if headers.get(b"connection", b"").strip() == b"close":
            self.is_reusable = False
        size = int(text)
        if len(body) > size:
            raise ProtocolError(f"{self._target.address}: more answered than was asked for")
        self._answer = (
            np.frombuffer(body, np.uint8) if len(body) == size else np.empty(size, np.uint8)
        )
        self._filled = len(body)
        if len(body) < size:
            self._answer[: len(body)] = np.frombuffer(body, np.uint8)
        return True

    def _why(self, error: OSError) -> str:
        by = self._target.proxy
        through = f" through the proxy http://{by} of the variable grpc_proxy" if by else ""
        text = str(error.strerror or error).split(" (_ssl.c")[0]
        return f"{self._target.address}: no server answers{through} ({text[:300]})"


class _Finding:
    """A name that is looked up on a thread of its own, which cannot be interrupted."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self.done, self._write = socket.socketpair()
        self._found: list[tuple[int, Where]] | OSError | None = None
        thread = threading.Thread(target=self._find, name="teravec-lookup", daemon=True)
        thread.start()

    def found(self) -> list[tuple[int, Where]] | None:
        """Return the addresses; None while they are looked up."""
        if isinstance(self._found, OSError):
            raise self._found
        return self._found

    def close(self) -> None:
        self.done.close()

    def _find(self) -> None:
        try:
            to = self._address
            found = socket.getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM)
            self._found = [(family, where) for family, _, _, _, where in found]
        except (OSError, UnicodeError) as error:
            self._found = error if isinstance(error, OSError) else OSError(str(error))
        self._write.close()  # wakes who waits


def _numeric(address: Address) -> tuple[int, Where] | None:
    """Return the place of an address that is a number, without looking it up."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
    except OSError:
        return None
    return found[0][0], found[0][4]
