"""Small searches in JSON that are joined: answered as if each were alone, or the usual way."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import teravec
from teravec.errors import InvalidArgument
from teravec.serving.http.body import read_body
from teravec.serving.http.small_bodies import SmallBodies
from teravec.serving.server.local import LocalLists
from teravec.serving.server.metrics import Metrics
from teravec.serving.server.origin import HERE
from teravec.serving.server.service import SearchService
from teravec.serving.wire.context import RequestContext
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.security import Address, ServerSecurity
from tests.serving.conftest import QUERIES, D, Launch

LOCAL = Address("127.0.0.1", 0)
ROWS = QUERIES.astype(float).tolist()


@pytest.fixture(scope="module")
def small(index: Path) -> Iterator[SmallBodies]:
    service = SearchService(LocalLists(index, Limits()), Limits(), Metrics())
    yield SmallBodies(service)
    service.close()


def body(**content: Any) -> bytes:
    return json.dumps({"k": 5, "nprobe": 9} | content).encode()


def answered(small: SmallBodies, *bodies: bytes) -> list[dict[str, Any] | None]:
    read = [small.read(each, time.monotonic()) for each in bodies]
    assert None not in read
    found = [each for each in read if each is not None]
    assert len({each.key for each in found}) == 1
    texts = small.answer(found, HERE, RequestContext.new())
    return [None if text is None else json.loads(text) for text in texts]


def test_answers_are_those_of_the_index(small: SmallBodies, index: Path) -> None:
    with teravec.open(index) as local:
        distances, ids = local.search(QUERIES[:7], 5, 9)
    for field in ("queries", "query"):
        bodies = [body(**{field: row if field == "query" else [row]}) for row in ROWS[:7]]
        for answer, own, far in zip(answered(small, *bodies), ids, distances, strict=True):
            assert answer is not None
            (result,) = answer["results"]
            assert result["ids"] == own.tolist()
            assert np.array_equal(np.array(result["distances"], np.float32), far)
            assert answer["missing"] == 0
            assert answer["seconds"] > 0
    (strings,) = answered(small, body(query=ROWS[0], string_ids=True))
    assert strings is not None
    assert strings["results"][0]["ids"] == [str(i) for i in ids[0]]


@pytest.mark.parametrize(
    "strange",
    [
        body(queries=ROWS[:2]),
        body(ids=[3]),
        body(query=ROWS[0], radius=2.0, k=None),
        body(query=ROWS[0], pickle=1),
        body(query=ROWS[0], min_version=0),
        body(query=ROWS[0], allow_partial=True),
        body(query=ROWS[0][:-1]),
        body(query=[*ROWS[0], 1.0]),
        body(query=["1", *ROWS[0][1:]]),
        body(query=[True, *ROWS[0][1:]]),
        body(query=[None, *ROWS[0][1:]]),
        body(query=[float("nan"), *ROWS[0][1:]]),
        body(query=[[1.0], *ROWS[0][1:]]),
        body(query=ROWS[0], k=1 << 40),
        body(query=ROWS[0])[:-1],
        body(query=ROWS[0]) + b"x",
        b"",
        b"[]",
        b'{"query": [',
        b'{"query": "[1, 2]", "k": 3}',
    ],
)
def test_what_does_not_fit_goes_the_usual_way(small: SmallBodies, strange: bytes) -> None:
    assert small.read(strange, time.monotonic()) is None


@pytest.mark.parametrize("wrong", ["1e999", "1e39", "01", "1.", "+1", "--1", ".5", "", "1 2", "e"])
def test_a_number_that_is_none_is_no_number_of_others(small: SmallBodies, wrong: str) -> None:
    good = body(query=ROWS[0])
    bad = good.replace(json.dumps(ROWS[0][0]).encode(), wrong.encode(), 1)
    assert answered(small, good, bad) == [None, None]
    assert answered(small, good)[0] is not None


def test_a_deadline_that_is_over_is_not_searched(small: SmallBodies) -> None:
    assert small.read(body(query=ROWS[0], timeout_s=0.5), time.monotonic() - 1) is None


def test_options_are_remembered_in_bounded_number(small: SmallBodies) -> None:
    for timeout_s in range(1, 600):
        assert small.read(body(query=ROWS[0], timeout_s=timeout_s), time.monotonic())
    assert small.kinds <= 256


TEXTS = st.lists(
    st.sampled_from(
        ["1", "-2.5", "3e2", "0", ",", " ", "[", "]", '"', "null", "true", "NaN", "01", "1.", "{"]
    ),
    max_size=8,
).map("".join)


@settings(
    max_examples=300,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(before=TEXTS, inside=TEXTS, after=TEXTS)
def test_what_is_joined_is_what_the_body_says(
    small: SmallBodies, before: str, inside: str, after: str
) -> None:
    numbers = ",".join(["1"] * (D - 1)) + "," + inside
    text = f'{{"k":5,"nprobe":9{before},"query":[{numbers}]{after}}}'.encode()
    read = small.read(text, time.monotonic())
    if read is None:
        return
    try:
        alone = read_body(text, D, 10).queries
    except InvalidArgument:
        assert answered(small, text) == [None]
        return
    assert alone is not None
    found = answered(small, text)[0]
    assert found is not None
    same = answered(small, body(query=alone[0].tolist()))[0]
    assert same is not None
    assert found == {**same, "seconds": found["seconds"]}


def test_many_clients_at_once(index: Path, serve: Launch, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("# name: shop\na-token-of-tests-1234\n# name: web\nanother-token-1234567\n")
    server = serve(index, http=LOCAL, security=ServerSecurity(token_file=tokens))
    with teravec.open(index) as local:
        ids = local.search(QUERIES, 5, 9)[1]

    def ask(number: int) -> None:
        secret = ("a-token-of-tests-1234", "another-token-1234567")[number % 2]
        headers = {"authorization": f"Bearer {secret}"}
        with httpx.Client(base_url=f"http://{server.http_address}", headers=headers) as web:
            for at in range(number, number + 20):
                row = at % len(ROWS)
                found = web.post("/search", content=body(query=ROWS[row]))
                assert found.json()["results"][0]["ids"] == ids[row].tolist()
                bad = web.post("/search", content=body(query=[1.0] * (D - 1) + [1e39]))
                assert (bad.status_code, bad.json()["error"]) == (422, "invalid-argument")
                assert bad.json()["request_id"] != found.headers["x-request-id"]
            headers["authorization"] = "Bearer a-token-that-is-none"
            none = web.post("/search", content=body(query=ROWS[0]), headers=headers)
            assert none.status_code == 401

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(ask, range(12)))
    assert server.service.budget.held_bytes == 0
    assert server.service.statistics()["waiting"] == 0
    text = server.service.metrics.text().decode()
    assert 'teravec_queries_total{method="search"} 240.0' in text
    assert 'teravec_http_responses_total{status="200"} 240.0' in text
    joined = float(text.split("teravec_batch_requests_count ")[1].split("\n")[0])
    assert joined < 240
