"""The grammar: what is understood, and what a wrong filter is told."""

from __future__ import annotations

import datetime
from decimal import Decimal

import pytest

from teravec.errors import InvalidArgument
from teravec.filters.literals import Moment, parse_moment
from teravec.filters.sql import parse_sql
from teravec.filters.tree import (
    And,
    Compare,
    Contains,
    In,
    IsNull,
    IsTrue,
    Not,
    Or,
    StartsWith,
    columns_of,
)

UNDERSTOOD = {
    "lang = 'en'": Compare("lang", "=", "en"),
    "lang == 'it''s'": Compare("lang", "=", "it's"),
    "\"we ird.name\" <> 'x'": Compare("we ird.name", "<>", "x"),
    "n != -2.50": Compare("n", "<>", Decimal("-2.5")),
    "3 < n": Compare("n", ">", 3),
    "n >= 1e3": Compare("n", ">=", 1000),
    "flag": IsTrue("flag"),
    "not not flag": IsTrue("flag"),
    "flag = false": Compare("flag", "=", False),
    "date >= DATE '2024-01-31'": Compare("date", ">=", datetime.date(2024, 1, 31)),
    "t < timestamp '1970-01-01 00:00:01.5'": Compare("t", "<", Moment(1_500_000_000)),
    "n between 1 and 2 and x is null": And(
        (And((Compare("n", ">=", 1), Compare("n", "<=", 2))), IsNull("x"))
    ),
    "n not in (1, 2)": Not(In("n", (1, 2))),
    "a is not null or b is null": Or((Not(IsNull("a")), IsNull("b"))),
    "a like 'new%'": StartsWith("a", "new"),
    "a not like 'new'": Not(Compare("a", "=", "new")),
    "starts_with(a, '50%_')": StartsWith("a", "50%_"),
    "'news' in tags": Contains("tags", "news"),
    "array_contains(tags, 'news')": Contains("tags", "news"),
    "a = 1 or b = 2 and not (c = 3 or d = 4)": Or(
        (
            Compare("a", "=", 1),
            And((Compare("b", "=", 2), Not(Or((Compare("c", "=", 3), Compare("d", "=", 4)))))),
        )
    ),
    "日本 = '語😀' -- a comment": Compare("日本", "=", "語😀"),
}

WRONG = {
    "lang = ": (8, "the end found, a constant expected"),
    "lang = 'en": (8, "does not end"),
    "lang = en": (8, "a constant expected; strings take single quotes"),
    "lang = 'en' date > 3": (13, "AND, OR or the end expected"),
    "lang = 'en'; drop table x": (12, "AND, OR or the end expected"),
    "lower(lang) = 'en'": (1, "'lower' is no function of filters"),
    "lang = null": (8, "IS NULL or IS NOT NULL expected"),
    "lang like '%en'": (11, "LIKE takes a prefix"),
    "n in ()": (7, "a constant expected"),
    "(n = 1": (7, ") expected"),
    "a.b = 1": (2, 'written "a.b"'),
    "n + 1 = 2": (3, "AND, OR or the end expected"),
    "n = 1e999999999": (5, "no number"),
    "d = date '2024-02-30'": (5, "no date"),
    "t = timestamp 'noon'": (5, "no timestamp"),
    "select 1": (8, "AND, OR or the end expected"),
    "": (1, "the end found"),
    "n not 3": (7, "IN, BETWEEN or LIKE expected"),
    "'a' = 'b'": (7, "a column's name expected"),
}


@pytest.mark.parametrize("text", UNDERSTOOD)
def test_text_becomes_a_tree(text: str) -> None:
    assert parse_sql(text) == UNDERSTOOD[text]


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_filter_is_one_line_that_points_at_the_place(text: str) -> None:
    at, what = WRONG[text]
    with pytest.raises(InvalidArgument) as caught:
        parse_sql(text)
    message = str(caught.value)
    assert message.startswith(f"filter, character {at}: ")
    assert what in message
    assert "\n" not in message


def test_offsets_of_moments() -> None:
    there = parse_moment("2024-01-31T12:00:00+02:00")
    assert there == Moment(1_706_695_200_000_000_000, zoned=True)
    assert parse_moment("2024-01-31 10:00Z") == there
    assert parse_moment("2024-01-31 10:00:00.123456789").ns == there.ns + 123_456_789


def test_bounds_hold() -> None:
    beyond = {
        "(" * 100 + "n = 1" + ")" * 100: "inside each other",
        " or ".join(["n = 1"] * 3000): "conditions; IN takes lists",
        "n in (" + ",".join(["1"] * 20_001) + ")": "values in lists",
        "n = '" + "x" * 300_000 + "'": "characters",
        "date(" * 60 + "1" + ")" * 60: "no function",
        "(" * 10_000: "inside each other",
        "not " * 20_000: "the end found",
        "- " * 20_000: "expected",
    }
    for text, what in beyond.items():
        with pytest.raises(InvalidArgument, match=what):
            parse_sql(text)


def test_columns_are_named_once() -> None:
    assert columns_of(parse_sql("b = 1 or not (a = 2 and b = 3)")) == ("a", "b")
