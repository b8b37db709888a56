"""What a server says to the client, and what a bad one may not do to it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import grpc
import pytest

from teravec.errors import Busy, ProtocolError, TeravecError
from teravec.serving.flight.messages import flight_data
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.flight_client import FlightPeer
from teravec.serving.wire.security import ClientSecurity
from tests.serving.test_fuzz import resident_bytes
from tests.serving.test_grpc_bounds import RESIDENT_BYTES


class Answers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers every call alike: by bytes, or by a status."""

    def __init__(self, answer: bytes | grpc.StatusCode) -> None:
        self.answer = answer

    def service(self, details: Any) -> Any:
        def exchange(messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
            for _ in messages:
                if isinstance(self.answer, grpc.StatusCode):
                    context.abort(self.answer, "No thread available")
                yield self.answer

        return grpc.stream_stream_rpc_method_handler(exchange)


def error_from(answer: bytes | grpc.StatusCode, compression: Any = None) -> TeravecError:
    """What asking such a server raises."""
    server = grpc.server(
        ThreadPoolExecutor(2),
        handlers=[Answers(answer)],
        compression=compression,
        options=[("grpc.max_send_message_length", -1)],
    )
    number = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with (
            closing(FlightPeer(f"grpc://127.0.0.1:{number}", ClientSecurity())) as peer,
            pytest.raises(TeravecError) as found,
        ):
            peer.ask("search", b"frame", Deadline.after(20))
        return found.value
    finally:
        server.stop(None)


def test_a_server_without_threads_is_busy() -> None:
    assert type(error_from(grpc.StatusCode.RESOURCE_EXHAUSTED)) is Busy


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_answers_are_not_expanded(compression: Any) -> None:
    answer = b"".join(flight_data(bytes(100 << 20)))[5:]
    before = resident_bytes()
    error = error_from(answer, compression)
    assert isinstance(error, ProtocolError)
    assert "ompression" in str(error)
    assert resident_bytes() - before < RESIDENT_BYTES
