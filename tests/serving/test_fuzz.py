"""Requests that nobody should send: no crash, no growth, no stack trace to the sender."""

from __future__ import annotations

import contextlib
import gc
import os
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from pyarrow import flight
from schemathesis import GenerationMode, checks
from schemathesis.core.result import Ok
from schemathesis.openapi import from_asgi

import teravec
from teravec.errors import ProtocolError, TeravecError
from teravec.serving.deploy.program import Server
from teravec.serving.http.app import http_app
from teravec.serving.server.local import LocalLists
from teravec.serving.server.metrics import Metrics
from teravec.serving.server.service import SearchService
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.protocol import Answer, SearchRequest, Wanted
from teravec.serving.wire.security import Address
from tests.serving.conftest import QUERIES, Launch, url

GOOD = SearchRequest(QUERIES[:2], Wanted(k=3), nprobe=4).encode()


@pytest.fixture
def server(index: Path, serve: Launch) -> Server:
    return serve(index, http=Address("127.0.0.1", 0))


def sent(client: flight.FlightClient, command: bytes, data: bytes | None) -> bytes:
    """What comes back for one frame."""
    options = flight.FlightCallOptions(timeout=60)
    writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(command), options)
    try:
        if data is not None:
            writer.write_metadata(pa.py_buffer(data))
        writer.done_writing()
        answer: bytes = reader.read_chunk().app_metadata.to_pybytes()
        return answer
    finally:
        writer.close()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def mutated(good: bytes, cuts: list[tuple[int, int, bytes]]) -> bytes:
    data = bytearray(good)
    for start, length, new in cuts:
        at = start % (len(data) + 1)
        data[at : at + length] = new
    return bytes(data)


CUTS = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 40), st.binary(max_size=20)),
    min_size=1,
    max_size=4,
)


def test_flight(server: Server, index: Path) -> None:
    with flight.FlightClient(url(server)) as client:
        methods = st.sampled_from(
            [b"search", b"search-lists", b"refine", b"", b"pickle", b"\xff\x00"]
        )

        @settings(
            max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(
            methods,
            st.one_of(
                st.none(), st.binary(max_size=300), CUTS.map(lambda cuts: mutated(GOOD, cuts))
            ),
        )
        def fuzz(command: bytes, data: bytes | None) -> None:
            answer = sent(client, command, data)
            assert b"Traceback" not in answer
            assert b"/src/" not in answer
            assert b"its log says why" not in answer
            with contextlib.suppress(TeravecError):
                Answer.decode(answer)

        fuzz()
        gc.collect()
        before, opened = resident_bytes(), descriptors()
        fuzz()
        for _ in range(300):
            sent(client, b"search", GOOD[:-8])
        gc.collect()
        assert resident_bytes() - before < 30 << 20
        assert descriptors() <= opened + 4
        assert Answer.decode(sent(client, b"search", GOOD)).counts.tolist() == [3, 3]


def test_what_is_wrong_does_not_end_an_exchange(server: Server) -> None:
    cut, flipped = GOOD[:-8], GOOD[:60] + b"\xff" + GOOD[61:]
    with flight.FlightClient(url(server)) as client:
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(b"search"))
        for data in (cut, GOOD, b"\x00" * 99, flipped, GOOD):
            writer.write_metadata(pa.py_buffer(data))
            answer = reader.read_chunk().app_metadata.to_pybytes()
            if data is GOOD:
                assert Answer.decode(answer).counts.tolist() == [3, 3]
            else:
                with pytest.raises(ProtocolError):
                    Answer.decode(answer)
        writer.close()


def test_other_flight_methods_say_little(server: Server) -> None:
    with flight.FlightClient(url(server)) as client:
        for name in ("info", "statistics", "list-sizes", "no such", "x" * 5000):
            for body in (b"", b"\x00" * 100, b"TVFR" + b"\xff" * 40):
                for result in client.do_action(flight.Action(name, body)):
                    assert b"Traceback" not in result.body.to_pybytes()
        for call in (
            lambda: client.do_get(flight.Ticket(b"\xff" * 50)).read_all(),
            lambda: list(client.list_flights()),
            lambda: client.do_put(
                flight.FlightDescriptor.for_path("x"), pa.schema([("a", pa.int8())])
            )[0].close(),
        ):
            with pytest.raises(pa.ArrowException) as found:
                call()
            assert "Traceback" not in str(found.value)


def test_record_batches_are_not_frames(server: Server) -> None:
    """Data of Arrow itself, compressed or not, is no request."""
    batch = pa.record_batch({"queries": np.zeros(1 << 16)})
    ipc = pa.ipc.IpcWriteOptions(compression="zstd")
    with flight.FlightClient(url(server)) as client:
        options = flight.FlightCallOptions(timeout=60, write_options=ipc)
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(b"search"), options)
        writer.begin(batch.schema, options=ipc)
        writer.write_batch(batch)
        writer.done_writing()
        with pytest.raises(TeravecError):
            Answer.decode(reader.read_chunk().app_metadata.to_pybytes())
        reader.cancel()


CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_http_against_its_openapi(mode: GenerationMode, index: Path) -> None:
    service = SearchService(LocalLists(index, Limits()), Limits(), Metrics())
    schema = from_asgi("/openapi.json", http_app(service))
    paths = set()
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        paths.add(operation.path)

        @settings(
            max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(operation.as_strategy(generation_mode=mode))
        def fuzz(case: schemathesis.Case) -> None:
            _give_time(case.body)
            response = case.call_and_validate(checks=CHECKS)
            assert "Traceback" not in response.text

        with contextlib.suppress(Unsatisfiable):  # nothing of such a request can be wrong
            fuzz()
    assert paths >= {"/search", "/get", "/info", "/statistics", "/metrics", "/healthz", "/readyz"}
    service.close()


def _give_time(body: object) -> None:
    """Lengthen a deadline that is over before a search can begin: its answer, 504, is right.

    So it is for a version that does not come.
    """
    if isinstance(body, dict):
        if isinstance(body.get("min_version"), int):
            body["min_version"] = 0
        timeout_s = body.get("timeout_s")
        if isinstance(timeout_s, int | float) and 0 < timeout_s < 60:
            body["timeout_s"] = 60.0


def test_http_rubbish(server: Server) -> None:
    base = f"http://{server.http_address}"
    with httpx.Client(base_url=base) as web:
        for content in (
            b"",
            b"{",
            b"[" * 100_000,
            b"\xff" * 100,
            b'{"k": ' + b"9" * 6000 + b"}",
            b'{"queries": [[NaN]], "k": 1, "nprobe": 1}',
        ):
            answer = web.post(
                "/search", content=content, headers={"content-type": "application/json"}
            )
            assert answer.status_code in (400, 422), answer.text
            assert "Traceback" not in answer.text
        assert web.get("/console/..%2f..%2fservice.py").status_code == 404
        assert web.get("/healthz").status_code == 200


def test_what_is_fuzzed_still_answers(server: Server) -> None:
    with teravec.connect(url(server)) as remote:
        assert remote.search(QUERIES, 3, 4)[1].shape == (40, 3)
