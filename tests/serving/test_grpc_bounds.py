"""What strangers and callers send to the Flight port is bounded before memory is taken for it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc
import numpy as np
import pytest
from pyarrow import flight

import teravec
from teravec.errors import Busy, LimitExceeded, ProtocolError, TeravecError
from teravec.serving.flight.http2 import Code, Flag, Kind, frame, word
from teravec.serving.flight.messages import flight_data
from teravec.serving.flight.port import FlightPort
from teravec.serving.loop.methods import Bounds
from teravec.serving.server.local import LocalLists
from teravec.serving.server.metrics import Metrics
from teravec.serving.server.port_times import PortTimes
from teravec.serving.server.service import SearchService
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.frames import Parts
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.peer import ServerPeer
from teravec.serving.wire.protocol import Answer, SearchRequest, Wanted, error_of_text
from teravec.serving.wire.security import Address, ClientSecurity, ServerSecurity
from tests.serving.conftest import QUERIES, Process
from tests.serving.raw_http2 import END, PATH, Peer, data, message, within
from tests.serving.test_faults import until

TOKEN = "a-token-of-bounds-1234"
GOOD = SearchRequest(QUERIES[:2], Wanted(k=3), nprobe=4).encode()
SEARCH = b"\x0a\x0a\x08\x02\x12\x06search"  # a descriptor with the command
PATIENT = Bounds(workers=8, calls=16)
RESIDENT_BYTES = 48 << 20  # that a server's memory may grow by


class Opened(FlightPort):
    """A port on a free number, and the service behind it."""

    def __init__(self, service: SearchService, bounds: Bounds, security: ServerSecurity) -> None:
        super().__init__(service, Address("127.0.0.1", 0), security, bounds)
        self.service = service


@pytest.fixture
def port(index: Path) -> Iterator[Callable[..., Opened]]:
    """Opens ports of their own services, and closes them."""
    with ExitStack() as stack:

        def opened(
            bounds: Bounds = PATIENT, limits: Limits | None = None, **security: Any
        ) -> Opened:
            limits = limits or Limits()
            service = SearchService(LocalLists(index, limits), limits, Metrics())
            stack.callback(service.close)
            made = Opened(service, bounds, ServerSecurity(**security))
            stack.callback(made.close, 1.0)
            return made

        yield opened


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


def exchange_message(frame_: bytes) -> bytes:
    """A request as a message: command and frame."""
    carried = b"".join(flight_data(frame_))[5:]
    return message(SEARCH + carried)


def asked(peer: Peer, stream: int = 1) -> Answer:
    """The answer to a good request on a new call."""
    peer.send(peer.headers(stream), data(stream, exchange_message(GOOD)))
    payload = peer.until(Kind.DATA, stream)
    return Answer.decode(payload[payload.index(b"TVFR") :])


def error_of(payload: bytes) -> TeravecError:
    """The error that an answer's data holds."""
    with pytest.raises(TeravecError) as found:
        Answer.decode(payload[payload.index(b"TVFR") :])
    return found.value


def answers(port: Opened) -> bool:
    with teravec.connect(f"grpc://{port.address}", timeout_s=10) as remote:
        return bool(remote.search(QUERIES, 3, 4)[1].shape == (40, 3))


def held_bytes(port: Opened) -> int:
    return port.service.budget.held_bytes


def resident(process: Process) -> int:
    assert process.process is not None
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) << 10


# --- compressed, and large


COMPRESSIONS = [grpc.Compression.Gzip, grpc.Compression.Deflate, None]


def call_with(
    address: str, method: str, compression: Any, body: bytes, **metadata: str
) -> grpc.StatusCode:
    """How a call of gRPC with one message ends."""
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(address, options, compression) as channel:
        call = channel.stream_stream(PATH + method, lambda b: b, lambda b: b)
        with pytest.raises(grpc.RpcError) as found:
            list(call(iter([body]), metadata=tuple(metadata.items()), timeout=60))
        return found.value.code()


def test_strangers_take_no_memory(
    index: Path, spawn: Callable[..., Process], token_file: Path
) -> None:
    process, body = spawn(str(index), "--token-file", str(token_file)), bytes(100 << 20)
    before = resident(process)
    for method, compression in [
        *((method, each) for method in ("DoExchange", "DoAction") for each in COMPRESSIONS),
        *((method, COMPRESSIONS[0]) for method in ("DoPut", "DoGet", "Handshake", "No")),
    ]:
        code = call_with(process.address, method, compression, body)
        assert code is grpc.StatusCode.UNAUTHENTICATED, method
        assert resident(process) - before < RESIDENT_BYTES, method
    code = call_with(
        process.address, "DoExchange", None, body, authorization="Bearer wrong-token-wrong"
    )
    assert code is grpc.StatusCode.UNAUTHENTICATED


def test_compressed_messages_are_not_taken(index: Path, spawn: Callable[..., Process]) -> None:
    process = spawn(str(index))
    before = resident(process)
    for compression in COMPRESSIONS[:2]:
        for method in ("DoExchange", "DoAction"):
            code = call_with(process.address, method, compression, bytes(60 << 20))
            assert code is grpc.StatusCode.UNIMPLEMENTED
    assert resident(process) - before < RESIDENT_BYTES


def test_a_flag_of_compression_without_an_encoding(port: Callable[..., Opened]) -> None:
    with Peer(port().address) as peer:
        peer.send(peer.headers(), data(1, message(b"\x1f\x8b" + bytes(50), compressed=1)))
        found = peer.status()
        assert found["grpc-status"] == "12"
        assert "compressed" in found["grpc-message"]
        assert asked(peer, 3).counts.tolist() == [3, 3]


@pytest.mark.parametrize("size", [(64 << 20) + 5000, 1 << 30, (1 << 32) - 1])
def test_a_message_over_the_bound_is_refused_by_its_length(
    size: int, port: Callable[..., Opened]
) -> None:
    opened = port()
    with Peer(opened.address) as peer, within(20):
        peer.send(peer.headers(), data(1, message(b"", size=size)))
        error = error_of_text(unquote(peer.status()["grpc-message"]))
        assert isinstance(error, LimitExceeded)
        assert f"{64 << 20:,}" in str(error)
        assert asked(peer, 3).counts.tolist() == [3, 3]
    assert held_bytes(opened) == 0


def test_a_length_that_lies_is_let_go(port: Callable[..., Opened]) -> None:
    opened = port(Bounds(workers=8, calls=16, times=PortTimes(progress_s=0.2)))
    with Peer(opened.address) as peer:
        peer.send(peer.headers(), data(1, message(bytes(1000), size=60 << 20)))
        until(lambda: held_bytes(opened) > 0)
        assert held_bytes(opened) <= 1 << 20  # a step of what it claims, and no more
        assert peer.until(Kind.RST_STREAM) == word(Code.CANCEL)
    until(lambda: held_bytes(opened) == 0)


def test_a_call_that_ends_inside_of_a_message(port: Callable[..., Opened]) -> None:
    opened = port()
    with Peer(opened.address) as peer:
        peer.send(peer.headers(), data(1, message(b"abc", size=99), END))
        assert peer.status()["grpc-status"] == "13"
    assert held_bytes(opened) == 0


def test_half_sent_requests_count_and_one_more_is_busy(port: Callable[..., Opened]) -> None:
    limits = Limits(queue_bytes=4 << 20)
    opened = port(limits=limits)
    with Peer(opened.address) as slow, Peer(opened.address) as other:
        for stream in (1, 3, 5, 7):
            slow.send(slow.headers(stream), data(stream, message(b"", size=3 << 20)))
        until(lambda: held_bytes(opened) == 4 << 20)
        other.send(other.headers(), data(1, message(b"", size=2 << 20)))
        assert isinstance(error_of_text(unquote(other.status()["grpc-message"])), Busy)
    until(lambda: held_bytes(opened) == 0)
    assert answers(opened)


def test_large_requests_come_whole_through_small_windows(port: Callable[..., Opened]) -> None:
    rows = np.tile(QUERIES, (400, 1))  # 1.5 MiB
    opened = port()
    with teravec.connect(f"grpc://{opened.address}") as remote:
        once, many = remote.search(QUERIES, 3, 4), remote.search(rows, 3, 4)
        np.testing.assert_array_equal(many[1], np.tile(once[1], (400, 1)))
    until(lambda: held_bytes(opened) == 0)


def test_a_large_message_takes_memory_only_as_it_arrives(
    index: Path, spawn: Callable[..., Process]
) -> None:
    process = spawn(str(index))
    before = resident(process)
    host, number = process.address.split(":")
    begun = message(b"x" * 10_000, size=60 << 20)
    with ExitStack() as stack:
        for _ in range(20):
            peer = stack.enter_context(Peer(Address(host, int(number))))
            peer.send(peer.headers(), data(1, begun))
            peer.until(Kind.WINDOW_UPDATE, 1)
        assert resident(process) - before < RESIDENT_BYTES
        whole = exchange_message(GOOD)
        peer.send(peer.headers(3), data(3, whole))
        assert peer.until(Kind.DATA, 3)


# --- callers that do not take their answers


def test_a_reader_that_takes_nothing_is_let_go(port: Callable[..., Opened]) -> None:
    opened = port(Bounds(workers=8, calls=16, times=PortTimes(progress_s=0.3)))
    request = SearchRequest(np.tile(QUERIES, (3, 1)), Wanted(k=1500), nprobe=60).encode()
    with Peer(opened.address) as peer:
        peer.send(peer.headers(), data(1, exchange_message(request)))
        until(lambda: held_bytes(opened) > 1 << 20)  # all of the answer, though 64 KiB are sent
        assert peer.until(Kind.RST_STREAM) == word(Code.CANCEL)
        until(lambda: held_bytes(opened) == 0)
        peer.send(frame(Kind.WINDOW_UPDATE, 0, 0, word(1 << 20)))
        assert asked(peer, 3).counts.tolist() == [3, 3]


def test_a_peer_whose_socket_is_full_is_let_go(port: Callable[..., Opened]) -> None:
    opened = port(Bounds(workers=8, calls=16, times=PortTimes(progress_s=0.3)))
    with Peer(opened.address) as peer:
        peer.socket.setblocking(False)
        ping, closed = frame(Kind.PING, 0, 0, bytes(8)) * 1000, False
        for _ in range(2000):  # answers to pings that nobody reads
            try:
                peer.socket.send(ping)
            except BlockingIOError:
                time.sleep(0.01)
            except (ConnectionResetError, BrokenPipeError):
                closed = True
                break
        assert closed
    assert answers(opened)


# --- too many


def test_more_calls_than_may_be_open_are_busy_at_once(port: Callable[..., Opened]) -> None:
    opened = port(Bounds(workers=2, calls=3))
    with Peer(opened.address) as peer, within(20):
        for stream in (1, 3, 5):
            peer.send(peer.headers(stream))
        peer.send(peer.headers(7))
        assert isinstance(error_of_text(unquote(peer.status(7)["grpc-message"])), Busy)
        peer.send(frame(Kind.RST_STREAM, 0, 1, word(Code.CANCEL)))
        assert asked(peer, 9).counts.tolist() == [3, 3]


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Answers wait for it."""
    go, real = threading.Event(), SearchService.answer_frame

    def slow(*arguments: Any) -> Parts:
        go.wait(60)
        return real(*arguments)

    monkeypatch.setattr(SearchService, "answer_frame", slow)
    yield go
    go.set()


def test_more_requests_than_workers_are_busy_at_once(
    port: Callable[..., Opened], go: threading.Event
) -> None:
    with Peer(port(Bounds(workers=2, calls=9)).address) as peer:
        for stream in (1, 3, 5):
            peer.send(peer.headers(stream), data(stream, exchange_message(GOOD)))
        assert isinstance(error_of(peer.until(Kind.DATA)), Busy)
        go.set()
        answer = peer.until(Kind.DATA)
        assert Answer.decode(answer[answer.index(b"TVFR") :]).counts.tolist() == [3, 3]


def test_what_is_sent_before_an_answer_is_bounded(
    port: Callable[..., Opened], go: threading.Event
) -> None:
    with Peer(port().address) as peer:
        peer.send(peer.headers(), data(1, exchange_message(GOOD)))
        peer.send(*(data(1, bytes(16384)) for _ in range(5)))
        assert peer.closed_with() == Code.FLOW_CONTROL_ERROR


def test_a_caller_that_leaves_holds_until_its_search_ends(
    port: Callable[..., Opened], go: threading.Event
) -> None:
    opened = port()
    with Peer(opened.address) as peer:
        peer.send(peer.headers(), data(1, exchange_message(GOOD)))
        until(lambda: held_bytes(opened) > 0)
    until(lambda: opened.open_calls == 0)
    assert held_bytes(opened) > 0
    go.set()
    until(lambda: held_bytes(opened) == 0)


def test_calls_begun_and_given_up_leave_nothing(port: Callable[..., Opened]) -> None:
    opened = port()
    with Peer(opened.address) as peer:
        for stream in range(1, 2000, 2):
            peer.send(
                peer.headers(stream),
                data(stream, exchange_message(GOOD)),
                frame(Kind.RST_STREAM, 0, stream, word(Code.CANCEL)),
            )
        peer.send(frame(Kind.PING, 0, 0, bytes(8)))
        peer.until(Kind.PING)
        until(lambda: held_bytes(opened) == 0)
        assert opened.open_calls == 0
    assert answers(opened)


def test_a_connection_too_many_takes_the_place_of_an_idle_one(port: Callable[..., Opened]) -> None:
    opened = port(Bounds(workers=2, calls=9, connections=3))
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(opened.address)) for _ in range(3)]
        peers[0].send(peers[0].headers())  # this one has a call
        until(lambda: opened.open_calls == 1)
        assert answers(opened)
        assert peers[1].closed_with() is None  # the one that is idle for longest
        peers[0].send(data(1, exchange_message(GOOD)))
        assert peers[0].until(Kind.DATA)


def test_silent_connections_and_calls_end(port: Callable[..., Opened]) -> None:
    opened = port(Bounds(workers=2, calls=9, times=PortTimes(idle_call_s=0.1, idle_s=0.2)))
    with Peer(opened.address) as peer, within(20):
        peer.send(peer.headers())
        assert peer.status()["grpc-status"] == "0"
        assert peer.closed_with() == Code.NO_ERROR


def test_who_says_nothing_is_closed(port: Callable[..., Opened]) -> None:
    opened = port(Bounds(workers=8, calls=16, times=PortTimes(greeting_s=0.1)))
    for said in (b"", b"PRI * HT", b"GET / HTTP/1.1\r\nx-a: "):
        with Peer(opened.address, greets=False) as peer, within(8):
            peer.send(said)
            peer.closed_with()


# --- HTTP/2 that is none, or floods

FLOODS: dict[str, tuple[bytes, Code]] = {
    "frame too long": (frame(Kind.DATA, 0, 1, bytes(20000))[:30], Code.FRAME_SIZE_ERROR),
    "pings": (frame(Kind.PING, 0, 0, bytes(8)) * 12000, Code.ENHANCE_YOUR_CALM),
    "settings": (frame(Kind.SETTINGS, 0, 0) * 12000, Code.ENHANCE_YOUR_CALM),
    "unknown frames": (frame(Kind.PRIORITY, 0, 1, bytes(5)) * 12000, Code.ENHANCE_YOUR_CALM),
    "headers without end": (
        frame(Kind.HEADERS, 0, 1, b"x") + frame(Kind.CONTINUATION, 0, 1) * 50,
        Code.ENHANCE_YOUR_CALM,
    ),
    "long headers": (
        frame(Kind.HEADERS, 0, 1, bytes(16000)) + frame(Kind.CONTINUATION, 0, 1, bytes(16000)),
        Code.ENHANCE_YOUR_CALM,
    ),
    "headers broken off": (
        frame(Kind.HEADERS, 0, 1) + frame(Kind.PING, 0, 0, bytes(8)),
        Code.PROTOCOL_ERROR,
    ),
    "no HPACK": (frame(Kind.HEADERS, Flag.END_HEADERS, 1, b"\xff" * 40), Code.COMPRESSION_ERROR),
    "even stream": (frame(Kind.HEADERS, Flag.END_HEADERS, 2), Code.PROTOCOL_ERROR),
    "data of no call": (data(9, b"x"), Code.PROTOCOL_ERROR),
    "continuation of nothing": (frame(Kind.CONTINUATION, 0, 1, b"x"), Code.PROTOCOL_ERROR),
    "reset of no call": (frame(Kind.RST_STREAM, 0, 9, bytes(4)), Code.PROTOCOL_ERROR),
    "short reset": (frame(Kind.RST_STREAM, 0, 1, b"x"), Code.FRAME_SIZE_ERROR),
    "short ping": (frame(Kind.PING, 0, 0, b"x"), Code.FRAME_SIZE_ERROR),
    "short window": (frame(Kind.WINDOW_UPDATE, 0, 0, b"x"), Code.FRAME_SIZE_ERROR),
    "no window": (frame(Kind.WINDOW_UPDATE, 0, 0, bytes(4)), Code.FLOW_CONTROL_ERROR),
    "endless window": (
        frame(Kind.WINDOW_UPDATE, 0, 0, word((1 << 31) - 1)) * 2,
        Code.FLOW_CONTROL_ERROR,
    ),
    "push": (frame(Kind.PUSH_PROMISE, 0, 1, bytes(4)), Code.PROTOCOL_ERROR),
    "odd settings": (frame(Kind.SETTINGS, 0, 0, b"x"), Code.FRAME_SIZE_ERROR),
    "settings of frames": (frame(Kind.SETTINGS, 0, 0, b"\x00\x05" + word(1)), Code.PROTOCOL_ERROR),
    "settings of windows": (
        frame(Kind.SETTINGS, 0, 0, b"\x00\x04" + word(1 << 31)),
        Code.FLOW_CONTROL_ERROR,
    ),
    "padding longer than its frame": (
        frame(Kind.HEADERS, Flag.END_HEADERS | Flag.PADDED, 1, b"\xff"),
        Code.PROTOCOL_ERROR,
    ),
}


@pytest.mark.parametrize("name", FLOODS)
def test_what_is_no_http2_ends_its_connection_alone(name: str, port: Callable[..., Opened]) -> None:
    opened, (sent, code) = port(), FLOODS[name]
    with Peer(opened.address) as peer, within(20):
        reading = threading.Thread(target=lambda: found.append(peer.closed_with()))
        found: list[int | None] = []
        reading.start()
        with contextlib.suppress(OSError):  # closed while it floods
            peer.send(sent)
        reading.join(60)
        # The code may be lost where more was sent than was read before the connection closed.
        assert found in ([code], [None]) if len(sent) > 60000 else found == [code]
    assert answers(opened)


def test_headers_that_expand_too_far(port: Callable[..., Opened]) -> None:
    with Peer(port().address) as peer:
        big = peer.headers(1, "x", big="v" * 3000)
        peer.send(big, frame(Kind.HEADERS, Flag.END_HEADERS, 3, b"\xbe" * 2000))
        assert peer.closed_with() == Code.COMPRESSION_ERROR


def test_one_refused_call_after_another(port: Callable[..., Opened], token_file: Path) -> None:
    opened = port(token_file=token_file)
    with Peer(opened.address) as peer:
        wrong = "Bearer " + "x" * 20
        peer.send(*(peer.headers(stream, authorization=wrong) for stream in range(1, 200, 2)))
        assert peer.closed_with() == Code.ENHANCE_YOUR_CALM
    with Peer(opened.address) as peer:
        peer.send(peer.headers(1, authorization=f"Bearer {TOKEN}"), data(1, exchange_message(GOOD)))
        assert peer.until(Kind.DATA, 1)


def test_padding_and_many_frames_of_a_message_are_http2(port: Callable[..., Opened]) -> None:
    whole = exchange_message(GOOD)
    with Peer(port().address) as peer:
        peer.send(peer.headers())
        for byte in whole[:50]:
            peer.send(frame(Kind.DATA, Flag.PADDED, 1, b"\x07", bytes([byte]), bytes(7)))
        peer.send(data(1, whole[50:] + whole), data(1, whole, END))
        for _ in range(3):
            payload = peer.until(Kind.DATA, 1)
            assert Answer.decode(payload[payload.index(b"TVFR") :]).counts.tolist() == [3, 3]
        assert peer.status()["grpc-status"] == "0"


def test_only_grpc_and_only_known_methods(port: Callable[..., Opened]) -> None:
    with Peer(port().address) as peer:
        peer.send(peer.headers(1, "DoPut"), data(1, message(bytes(99))))
        assert peer.status(1)["grpc-status"] == "12"
        peer.send(peer.headers(3, grpc_encoding="zstd"))
        assert peer.status(3)["grpc-status"] == "12"
        peer.send(frame(Kind.HEADERS, Flag.END_HEADERS | END, 5, b"\x82\x84"))  # GET /
        assert peer.status(5)["grpc-status"] == "12"
        peer.send(peer.headers(7, "DoAction"), data(7, message(b"", size=100_000)))
        error = error_of_text(unquote(peer.status(7)["grpc-message"]))
        assert isinstance(error, LimitExceeded)
        assert asked(peer, 9).counts.tolist() == [3, 3]


def test_descriptors_and_memory_return_after_a_flood(
    index: Path, spawn: Callable[..., Process]
) -> None:
    process = spawn(str(index))
    host, number = process.address.split(":")
    assert process.process is not None
    fds = Path(f"/proc/{process.process.pid}/fd")
    before, opened = len(list(fds.iterdir())), []
    for _ in range(300):
        opened.append(socket.create_connection((host, int(number))))
    with teravec.connect(f"grpc://{process.address}") as remote:
        assert remote.search(QUERIES, 3, 4)[1].shape == (40, 3)
    for each in opened:
        each.close()
    until(lambda: len(list(fds.iterdir())) <= before + 2)


def test_a_server_that_drains_says_so(port: Callable[..., Opened]) -> None:
    opened = port()
    with Peer(opened.address) as peer:
        assert asked(peer).counts.tolist() == [3, 3]  # its call stays open
        assert opened.close(2.0)
        assert peer.closed_with() == Code.NO_ERROR


def test_list_actions(port: Callable[..., Opened]) -> None:
    with flight.FlightClient(f"grpc://{port().address}") as client:
        names = {action.type for action in client.list_actions()}
    assert names == {"info", "statistics", "list-sizes", "reload"}


def test_large_requests_do_not_shut_out_small_ones(port: Callable[..., Opened]) -> None:
    opened = port(limits=Limits(queue_bytes=1 << 20))
    with opened.service.budget.share() as share:
        share.hold(100 << 20)
        with teravec.connect(f"grpc://{opened.address}", timeout_s=2) as remote:
            assert remote.statistics()["ready"]
            assert remote.search(QUERIES[:2], 3, 4)[1].shape == (2, 3)
            with pytest.raises(Busy):
                remote.search(np.tile(QUERIES, (40, 1)), 3, 4)


@pytest.mark.parametrize("mebibytes", [0.3, 3, 20])
def test_clients_learn_why_a_request_is_not_read(
    mebibytes: float, port: Callable[..., Opened]
) -> None:
    """Flight's client writes before it reads, and forgets answers when it cannot write on."""
    opened = port(limits=Limits(request_bytes=200 << 10, queue_bytes=1 << 20))
    address, frame_ = f"grpc://{opened.address}", bytes(int(mebibytes * (1 << 20)))
    with closing(ServerPeer(address, ClientSecurity())) as peer:
        for _ in range(5):
            with pytest.raises(LimitExceeded, match="204,800"):
                peer.ask("search", frame_, Deadline.after(10))
            with pytest.raises(ProtocolError, match="TVFR"):
                peer.ask("search", bytes(1000), Deadline.after(10))
    with (
        opened.service.budget.share() as share,
        closing(ServerPeer(address, ClientSecurity())) as peer,
    ):
        share.hold(1 << 20)
        for _ in range(5):
            with pytest.raises(Busy, match="max-waiting"):
                peer.ask("search", bytes(150 << 10), Deadline.after(10))


def test_more_connections_than_descriptors(index: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as written, ExitStack() as stack:
        process = subprocess.Popen(
            [
                "bash",
                "-c",
                'ulimit -n 600; exec "$@"',
                "-",
                sys.executable,
                "-m",
                "teravec",
                "serve",
                str(index),
                "--listen",
                "127.0.0.1:0",
                "--http",
                "none",
            ],
            stdout=written,
            stderr=subprocess.STDOUT,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        until(lambda: "serving on" in log.read_text())
        address = Address.parse(log.read_text().split("://")[1].split()[0])
        for _ in range(700):
            stack.enter_context(Peer(address))
        for _ in range(3):
            with within(60), teravec.connect(f"grpc://{address}", timeout_s=60) as remote:
                assert remote.search(QUERIES, 3, 4)[1].shape == (40, 3)
    assert "Traceback" not in log.read_text()
