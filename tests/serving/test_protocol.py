"""Requests and answers as types."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from teravec import errors
from teravec.errors import InvalidArgument, LimitExceeded, ProtocolError, TeravecError
from teravec.serving.server.merging import Part, merged
from teravec.serving.server.two_stages import check_candidates
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.protocol import (
    Answer,
    ListRequest,
    RefineRequest,
    SearchRequest,
    Wanted,
    encode_error,
    error_code,
)

XQ = np.arange(12, dtype=np.float32).reshape(3, 4)


def u4(*values: int) -> np.ndarray:
    return np.array(values, np.uint32)


def test_search_request() -> None:
    request = SearchRequest(XQ, Wanted(radius=2.5), nprobe=7, timeout_s=3.0, allow_partial=True)
    again = SearchRequest.decode(request.encode())
    np.testing.assert_array_equal(again.queries, XQ)
    assert (again.wanted, again.nprobe, again.timeout_s) == (Wanted(radius=2.5), 7, 3.0)
    assert again.allow_partial
    assert again.candidates is None
    request = SearchRequest(XQ, Wanted(k=2), recall=0.9, candidates=40)
    again = SearchRequest.decode(request.encode())
    assert (again.candidates, again.recall, again.nprobe) == (40, 0.9, None)


def test_list_request_table() -> None:
    request = ListRequest(
        "v", XQ, u4(2, 0, 1), u4(5, 9, 4), np.array([1, 2, 3], np.float32), Wanted(k=3), 1.0
    )
    list_nos, distances = ListRequest.decode(request.encode()).table()
    assert list_nos.tolist() == [[5, 9], [-1, -1], [4, -1]]
    assert distances.tolist() == [[1, 2], [0, 0], [3, 0]]


def test_refine_request() -> None:
    places = np.array([5 << 32 | 1, 7, 5 << 32], np.int64)
    request = RefineRequest("v", XQ, u4(2, 0, 1), places, Wanted(k=3), 1.0)
    again = RefineRequest.decode(request.encode())
    np.testing.assert_array_equal(again.queries, XQ)
    assert again.places.tolist() == places.tolist()
    assert (again.version, again.wanted, again.counts.tolist()) == ("v", Wanted(k=3), [2, 0, 1])


@pytest.mark.parametrize(
    ("counts", "places", "wanted"),
    [
        ([2, 0, 2], [1, 2, 3], Wanted(k=1)),  # one place less than counted
        ([3], [1, 2, 3], Wanted(k=1)),  # one query less
        ([2, 0, 1], [1, -2, 3], Wanted(k=1)),
        ([2, 0, 1], [1, 2, 3], Wanted(radius=1.0)),
    ],
)
def test_bad_refine_requests(counts: list[int], places: list[int], wanted: Wanted) -> None:
    with pytest.raises((InvalidArgument, ProtocolError)):
        RefineRequest("v", XQ, u4(*counts), np.array(places, np.int64), wanted, 1.0)


@pytest.mark.parametrize(
    "change",
    [
        {"counts": u4(3)},
        {"errors": np.array([1, np.nan], np.float32)},
        {"errors": None},
        {"ids": np.array([1 << 32, 9 << 32])},
        {"distances": np.array([np.inf, 1], np.float32)},
    ],
)
def test_candidates_are_checked(change: dict) -> None:
    good = Answer(
        "v",
        u4(2),
        np.array([2, 1], np.float32),
        np.array([1 << 32, 2 << 32]),
        errors=np.zeros(2, np.float32),
    )
    lists = np.array([1, 2])
    check_candidates(Answer.decode(good.encode()), 1, 2, lists)
    with pytest.raises(ProtocolError):
        check_candidates(replace(good, **change), 1, 2, lists)


@pytest.mark.parametrize(
    "options",
    [
        {"nprobe": 0},
        {"nprobe": 1, "recall": 0.9},
        {"nprobe": True},
        {"nprobe": 1, "timeout_s": 0.0},
        {"nprobe": 1, "timeout_s": float("nan")},
        {"candidates": 0},
        {"candidates": 2.0},
        {"wanted": Wanted(radius=1.0), "candidates": 9},
        {"nprobe": 1.5},
        {"recall": 1.5},
        {"recall": float("nan")},
    ],
)
def test_bad_search_requests(options: dict) -> None:
    with pytest.raises(InvalidArgument):
        SearchRequest(XQ, **{"wanted": Wanted(k=1), **options})


@pytest.mark.parametrize("wanted", [{}, {"k": 1, "radius": 1.0}, {"k": 0}, {"radius": np.inf}])
def test_bad_wanted(wanted: dict) -> None:
    with pytest.raises(InvalidArgument):
        Wanted(**wanted)


def test_bad_queries_are_named() -> None:
    queries = XQ.copy()
    queries[1, 2] = np.nan
    with pytest.raises(InvalidArgument, match="query 1"):
        SearchRequest(queries, Wanted(k=1), nprobe=1)


@pytest.mark.parametrize(
    ("limits", "bound"),
    [
        (Limits(queries=2), "queries: 3 asked for, this server takes at most 2"),
        (Limits(k=4), "k: 5 asked for, this server takes at most 4"),
        (Limits(nprobe=5), "nprobe: 6 asked for, this server takes at most 5"),
        (Limits(pairs=17), "18 asked for, this server takes at most 17"),
        (Limits(answer_bytes=100), "answer bytes: 180"),
        (Limits(answer_bytes=200), "answer bytes: 252"),
        (Limits(timeout_s=1), "timeout_s: 10"),
    ],
)
def test_bounds_are_told(limits: Limits, bound: str) -> None:
    with pytest.raises(LimitExceeded, match=bound):
        SearchRequest(XQ, Wanted(k=5), nprobe=6, candidates=7).check(limits)


def test_a_wide_row_does_not_make_a_wide_table_for_nothing() -> None:
    counts = u4(*[0] * 999, 100)
    request = ListRequest(
        "v",
        np.ones((1000, 4), np.float32),
        counts,
        u4(*range(100)),
        np.ones(100, np.float32),
        Wanted(k=1),
        1.0,
    )
    with pytest.raises(LimitExceeded, match="queries x nprobe: 100,000"):
        request.check(Limits(pairs=10_000))


def answer(counts: list[int], distances: list[float], ids: list[int]) -> Answer:
    return Answer("v", u4(*counts), np.array(distances, np.float32), np.array(ids, np.int64))


def test_answers() -> None:
    distances = np.array([[1, 2], [3, np.inf]], np.float32)
    ids = np.array([[7, 8], [9, -1]])
    made = Answer.of_top_k("v", distances, ids)
    again = Answer.decode(made.encode())
    assert again.ids.tolist() == [7, 8, 9]
    np.testing.assert_array_equal(again.top_k(2, np.inf)[0], distances)
    np.testing.assert_array_equal(again.top_k(2, np.inf)[1], ids)
    assert [part.ids.tolist() for part in again.split([1, 1])] == [[7, 8], [9]]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (answer([1], [1], [1]), "rows"),
        (answer([3, 0], [1, 2, 3], [1, 2, 3]), "rows"),
        (answer([2, 0], [2, 1], [1, 2]), "ordered"),
        (answer([1, 1], [np.nan, 1], [1, 2]), "finite"),
        (answer([1, 1], [1, 1], [1, -2]), "negative"),
    ],
)
def test_impossible_answers(given: Answer, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        given.check(2, Wanted(k=2), larger_is_closer=False)


def test_possible_answers() -> None:
    answer([2, 1], [1, 2, 1], [1, 2, 3]).check(2, Wanted(k=2), larger_is_closer=False)
    answer([2, 1], [2, 1, 5], [1, 2, 3]).check(2, Wanted(k=2), larger_is_closer=True)
    answer([0, 0], [], []).check(2, Wanted(k=2), larger_is_closer=True)
    with pytest.raises(ProtocolError, match="radius"):
        answer([1], [4], [1]).check(1, Wanted(radius=3.0), larger_is_closer=False)


def test_errors_travel_by_type_and_say_nothing_more() -> None:
    for error in (errors.Busy("b"), LimitExceeded("l"), errors.OtherIndex("o")):
        with pytest.raises(type(error), match=str(error)):
            Answer.decode(encode_error(error))
    with pytest.raises(TeravecError) as found:
        Answer.decode(encode_error(KeyError("secret")))
    assert "secret" not in str(found.value)
    assert error_code(MemoryError()) == "busy"


def test_merging() -> None:
    one = Part(np.array([0, 2]), answer([2, 1], [1, 5, 2], [10, 11, 12]))
    two = Part(np.array([0, 1]), answer([2, 1], [1, 3, 4], [9, 13, 14]))
    found = merged([one, two], 4, Wanted(k=3), False, "v")
    assert found.counts.tolist() == [3, 1, 1, 0]
    assert found.ids.tolist() == [9, 10, 13, 14, 12]  # equal distances by id
    assert merged([], 2, Wanted(k=3), False, "v").counts.tolist() == [0, 0]
