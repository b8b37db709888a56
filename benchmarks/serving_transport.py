"""What a request costs on its way: frames over HTTP, Flight's calls, a bare socket.

HTTP and Flight are on one port of this package's; pyarrow's server of Flight is beside it.

``python -m benchmarks.serving_transport`` needs no data, takes some 20 s, and writes its section
to benchmarks/results. The server is a process of its own that searches nothing. Processor time
is of all threads, per request, in each process.
"""

from __future__ import annotations

import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import flight

from benchmarks import measure, records
from teravec.serving.flight.call import CallRefused, Reply, Status
from teravec.serving.flight.connection import Connection
from teravec.serving.flight.messages import FlightData, flight_data
from teravec.serving.loop.http_call import Head, HttpCall, Response
from teravec.serving.loop.http_connection import HttpConnection
from teravec.serving.loop.methods import Bounds, Method
from teravec.serving.loop.server import PortServer
from teravec.serving.server.budget import Budget
from teravec.serving.server.origin import Origin
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.peer import ServerPeer
from teravec.serving.wire.protocol import Answer, SearchRequest, Wanted
from teravec.serving.wire.security import Address, ClientSecurity

REQUEST = SearchRequest(np.zeros((1, 128), np.float32), Wanted(k=10), 16).encode()
ANSWER = Answer.of_top_k("v", np.zeros((1, 10), np.float32), np.zeros((1, 10), np.int64)).encode()
_LENGTH = struct.Struct("<I")
_RUNS, _ROUNDS = 2000, 3


def own_server() -> PortServer:
    """This package's port, which answers everything alike."""
    method = Method(
        1 << 20,
        lambda call, message: Reply(
            flight_data(ANSWER)
            if FlightData.decode(message or memoryview(b"")).frame is not None
            else ()
        ),
        lambda error, call: Reply((), last=True),
        lambda error, call: CallRefused(Status.UNAVAILABLE, str(error)),
    )

    def connect(server: PortServer) -> HttpConnection:
        return HttpConnection(
            server, Alike(), lambda: Connection(server, lambda _, peer: (method, Origin(peer)))
        )

    bounds = Bounds(workers=128, calls=1024)
    return PortServer(Address("127.0.0.1", 0), connect, Budget(64 << 20), bounds)


class Alike:
    """Answers every request over HTTP alike."""

    response = Response(200, b"content-type: application/vnd.teravec.frame\r\n", (ANSWER,))
    method = Method(
        1 << 20,
        lambda call, message: Alike.response,
        lambda error, call: Alike.response,
        lambda error, call: Alike.response,
    )

    def begin(self, head: Head, connection: HttpConnection) -> HttpCall:
        """Take every request."""
        return HttpCall(connection, head, self.method, Origin(connection.peer))

    def refuse_malformed(self, why: str) -> Response:
        """Say nothing else."""
        return self.response

    def ended(self, call: HttpCall, status: int) -> None:
        """Do nothing."""


class Echo(flight.FlightServerBase):  # type: ignore[misc]
    """Answers every frame alike."""

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Answer until the caller ends the call."""
        try:
            while True:
                reader.read_chunk()
                writer.write_metadata(pa.py_buffer(ANSWER))
        except (StopIteration, pa.ArrowException):
            return


def echo_on_sockets(listener: socket.socket) -> None:
    """The same on bare sockets, a thread for each."""

    def answer(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while head := connection.recv(4, socket.MSG_WAITALL):
            connection.recv(_LENGTH.unpack(head)[0], socket.MSG_WAITALL)
            connection.sendall(_LENGTH.pack(len(ANSWER)) + ANSWER)

    while True:
        threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()


def processor_s() -> float:
    """Processor time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def serve() -> None:
    """Both servers; after each line of input, print the processor time so far."""
    own, server = own_server(), Echo("grpc://127.0.0.1:0")
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=echo_on_sockets, args=(listener,), daemon=True).start()
    print(own.address.port, server.port, listener.getsockname()[1], flush=True)
    for _ in sys.stdin:
        print(processor_s(), flush=True)


def call_each(port: int) -> Callable[[], None]:
    """Ask by a new call of Flight each time."""
    client = flight.FlightClient(f"grpc://127.0.0.1:{port}")
    command = flight.FlightDescriptor.for_command("search")

    def ask() -> None:
        writer, reader = client.do_exchange(command, flight.FlightCallOptions(timeout=10))
        writer.write_metadata(pa.py_buffer(REQUEST))
        writer.done_writing()
        Answer.decode(memoryview(reader.read_chunk().app_metadata))
        writer.close()

    return ask


def exchange(port: int) -> Callable[[], None]:
    """Ask as this package's clients do."""
    peer = ServerPeer(f"grpc://127.0.0.1:{port}", ClientSecurity())
    return lambda: void(peer.ask("search", REQUEST, Deadline.after(10)))


def bare(port: int) -> Callable[[], None]:
    """Ask over a socket."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask() -> None:
        connection.sendall(_LENGTH.pack(len(REQUEST)) + REQUEST)
        size = _LENGTH.unpack(connection.recv(4, socket.MSG_WAITALL))[0]
        Answer.decode(connection.recv(size, socket.MSG_WAITALL))

    return ask


def void(_: object) -> None:
    """Nothing of it."""


def main() -> None:
    """Time all in turn, and write the section."""
    command = [sys.executable, "-m", "benchmarks.serving_transport", "serve"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=records.ROOT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline
        by_own, by_pyarrow, by_socket = (int(port) for port in line().split())
        asks = {
            "frames over HTTP": exchange(by_own),
            "a call of Flight each": call_each(by_own),
            "the same, pyarrow's server": call_each(by_pyarrow),
            "a bare socket": bare(by_socket),
        }

        def server_s() -> float:
            assert process.stdin is not None
            print(file=process.stdin, flush=True)
            return float(line())

        times: dict[str, list[float]] = {name: [] for name in asks}
        used: dict[str, list[float]] = {name: [0.0, 0.0] for name in asks}
        for _ in range(_ROUNDS):
            for name, ask in asks.items():
                for _ in range(50):
                    ask()
                before = processor_s(), server_s()
                for _ in range(_RUNS):
                    started = time.perf_counter()
                    ask()
                    times[name].append(time.perf_counter() - started)
                used[name][0] += processor_s() - before[0]
                used[name][1] += server_s() - before[1]
        process.stdin.close()
    rows = []
    for name in asks:
        p50, p99 = (1e6 * float(np.quantile(times[name], q)) for q in (0.5, 0.99))
        client, server = (1e6 * each / (_ROUNDS * _RUNS) for each in used[name])
        rows.append([name, f"{p50:.0f}", f"{p99:.0f}", f"{client:.0f}", f"{server:.0f}"])
    head = ["", "p50 µs", "p99 µs", "processor µs, client", "server"]
    text = f"{len(REQUEST)} bytes there, {len(ANSWER)} back, one caller, loopback.\n\n"
    section = f"### serving: transport\n\n{text}{measure.table(head, rows)}"
    print(section)
    measure.write_section("serving transport", section)


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
