"""What strangers and careless callers send: each kind is a process that goes on until it is killed.

``python -m benchmarks.flood KIND FLIGHT HTTP QUERIES`` floods the two addresses of a server;
QUERIES is a .npy file of good queries. See ``benchmarks.soak_floods``.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import random
import resource
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hpack
import numpy as np

import teravec
from benchmarks.data import Floats
from teravec.errors import TeravecError
from teravec.serving.wire.protocol import SearchRequest, Wanted

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_HEADERS = 4
SEARCH = b"\x0a\x0a\x08\x02\x12\x06search"  # a Flight descriptor with the command
PATIENCE_S = 20.0  # with a connection that sends no more, before the next one
MANY = 2000  # connections


@dataclass(frozen=True)
class Target:
    """A server's addresses, and what a good client would ask it.

    Parameters
    ----------
    flight, http : tuple of (host, port)
    queries : ndarray of shape (nq, d), float32
    """

    flight: tuple[str, int]
    http: tuple[str, int]
    queries: Floats

    def frame(self, rows: int, k: int, nprobe: int) -> bytes:
        """A search of some queries, as a frame."""
        queries = np.resize(self.queries, (rows, self.queries.shape[1]))
        return SearchRequest(queries, Wanted(k=k), nprobe, None, 60.0).encode()

    def body(self, rows: int, k: int) -> bytes:
        """A search of some queries, as JSON."""
        queries = np.resize(self.queries, (rows, self.queries.shape[1])).tolist()
        return json.dumps({"queries": queries, "k": k, "nprobe": 64, "timeout_s": 60}).encode()


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2."""
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    )


def grpc_call(method: str = "DoExchange", **more: str) -> bytes:
    """What begins a connection of HTTP/2 and one call of gRPC on it."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": f"/arrow.flight.protocol.FlightService/{method}",
        ":authority": "x",
        "content-type": "application/grpc",
        "te": "trailers",
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    block = hpack.Encoder().encode(list(headers.items()))
    return PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, END_HEADERS, 1, block)


def grpc_message(body: bytes, *, size: int | None = None, compressed: bool = False) -> bytes:
    """A message of gRPC in frames of data; ``size`` is the length that it claims."""
    message = bytes([compressed]) + (len(body) if size is None else size).to_bytes(4, "big") + body
    pieces = [message[at : at + (16 << 10)] for at in range(0, len(message), 16 << 10)]
    return b"".join(frame(DATA, 0, 1, piece) for piece in pieces)


def exchange(carried: bytes) -> bytes:
    """A Flight message with the command ``search`` and a frame."""
    length, size = b"", len(carried)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return SEARCH + b"\x1a" + length + bytes([size]) + carried


def post(body: bytes, *, size: int | None = None, **more: str) -> bytes:
    """A POST of HTTP/1.1; ``size`` is the length that it claims."""
    headers = {
        "host": "localhost",
        "content-type": "application/json",
        "content-length": str(len(body) if size is None else size),
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    lines = ["POST /search HTTP/1.1", *(f"{n}: {v}" for n, v in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def send(address: tuple[str, int], data: bytes, patience_s: float, read: bool = False) -> None:
    """Connect, send as much as is taken, and wait; read what comes if ``read``."""
    with contextlib.suppress(OSError), socket.create_connection(address, 10) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        end.settimeout(patience_s)
        end.sendall(data)
        if read:
            while end.recv(1 << 16):
                pass
        else:
            time.sleep(patience_s)


# --- the kinds: each is one turn of one thread


def largest(target: Target, draw: random.Random) -> None:
    """Requests as large as the bounds allow, and answers as large."""
    rows, k, nprobe = draw.choice([(16_384, 10, 1024), (2_000, 10_000, 64), (16_384, 1_000, 64)])
    url = f"grpc://{target.flight[0]}:{target.flight[1]}"
    with contextlib.suppress(TeravecError), teravec.connect(url, timeout_s=60) as remote:
        remote.search(np.resize(target.queries, (rows, target.queries.shape[1])), k, nprobe)


def largest_http(target: Target, draw: random.Random) -> None:
    """JSON bodies of almost 4 MiB."""
    rows = (4 << 20) // (len(target.body(100, 10)) // 100 + 1) - 1
    send(target.http, post(target.body(rows, draw.choice([1, 100])), connection="close"), 60, True)


def half(target: Target, draw: random.Random) -> None:
    """Headers, messages and bodies that never end."""
    data, address = draw.choice(
        [
            (b"POST /search HTTP/1.1\r\nhost: x\r\nx-more: ", target.http),
            (post(b"{" * 100_000, size=4_000_000), target.http),
            (PREFACE[:10], target.flight),
            (grpc_call(), target.flight),
            (grpc_call() + grpc_message(b"x" * 1_000_000, size=60 << 20), target.flight),
        ]
    )
    send(address, data, PATIENCE_S)


def slow(target: Target, draw: random.Random) -> None:
    """Good requests with large answers that nobody reads."""
    if draw.random() < 0.5:
        data = grpc_call() + grpc_message(exchange(target.frame(1_000, 1_000, 16)))
        send(target.flight, data, 60)
    else:
        send(target.http, post(target.body(100, 10_000)), 60)


def compressed(target: Target, draw: random.Random) -> None:
    """Little that would expand to much."""
    bomb = gzip.compress(bytes(64 << 20))
    if draw.random() < 0.5:
        method = draw.choice(["DoExchange", "DoAction", "DoPut"])
        data = grpc_call(method, grpc_encoding="gzip") + grpc_message(bomb, compressed=True)
        send(target.flight, data, 0.2)
    else:
        send(target.http, post(bomb, content_encoding="gzip"), 0.2)


def malformed(target: Target, draw: random.Random) -> None:
    """Noise, good requests with flipped bytes, and JSON that is none."""
    flipped = bytearray(exchange(target.frame(4, 10, 8)))
    for _ in range(3):
        flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
    bodies = [b"[" * 100_000, b'{"queries": [[1e400]]}', draw.randbytes(1000), b"{}", b"\xff\xfe{"]
    data, address = draw.choice(
        [
            (draw.randbytes(draw.randrange(1, 5000)), target.flight),
            (draw.randbytes(draw.randrange(1, 5000)), target.http),
            (grpc_call() + grpc_message(bytes(flipped)), target.flight),
            (grpc_call() + grpc_message(draw.randbytes(200)), target.flight),
            (grpc_call() + frame(draw.randrange(12), 255, 1, draw.randbytes(50)), target.flight),
            (post(draw.choice(bodies)), target.http),
        ]
    )
    send(address, data, 0.05)


def connections(target: Target, draw: random.Random) -> None:
    """Connections without a request, replaced when they are closed."""
    open_ends: list[socket.socket] = []
    while True:
        while len(open_ends) < MANY:
            address = target.flight if len(open_ends) % 2 else target.http
            with contextlib.suppress(OSError):
                end = socket.create_connection(address, 10)
                end.setblocking(False)
                open_ends.append(end)
        open_ends = [end for end in open_ends if not closed(end)]
        time.sleep(0.2)


def closed(end: socket.socket) -> bool:
    """Whether the other side closed a connection; if so, it is closed here too."""
    try:
        gone = not end.recv(1 << 16)
    except BlockingIOError:
        return False
    except OSError:
        gone = True
    if gone:
        end.close()
    return gone


KINDS: dict[str, list[tuple[Callable[[Target, random.Random], None], int]]] = {
    "largest requests": [(largest, 3), (largest_http, 40)],
    "half requests": [(half, 200)],
    "slow readers": [(slow, 60)],
    "compressed": [(compressed, 4)],
    "malformed": [(malformed, 16)],
    "2,000 connections": [(connections, 1)],
}
"""What each kind does, on how many threads."""


def main() -> None:
    """Flood until killed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=list(KINDS))
    parser.add_argument("flight")
    parser.add_argument("http")
    parser.add_argument("queries", type=Path)
    arguments = parser.parse_args()
    os.nice(10)  # floods come from other machines: they leave the processors to the server
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ends = [
        (host, int(port))
        for host, _, port in (a.rpartition(":") for a in (arguments.flight, arguments.http))
    ]
    target = Target(ends[0], ends[1], np.load(arguments.queries))

    def flood(turn: Callable[[Target, random.Random], None], seed: int) -> None:
        draw = random.Random(seed)
        while True:
            turn(target, draw)

    for turn, threads in KINDS[arguments.kind]:
        for seed in range(threads):
            threading.Thread(target=flood, args=(turn, seed), daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
