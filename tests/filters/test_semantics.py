"""Filters beside DuckDB: the same rows pass, whatever is null."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teravec.errors import InvalidArgument
from teravec.filters.bind import bind
from teravec.filters.evaluate import bound_columns, passing_rows
from teravec.filters.filter import parse_filter
from teravec.filters.json_form import tree_from_json, tree_to_json
from teravec.filters.tree import In

SCHEMA = pa.schema(
    [
        ("n", pa.int8()),
        ("u", pa.uint64()),
        ("f", pa.float64()),
        ("x", pa.decimal128(6, 2)),
        ("s", pa.string()),
        ("c", pa.dictionary(pa.int32(), pa.string())),
        ("b", pa.bool_()),
        ("d", pa.date32()),
        ("t", pa.timestamp("us")),
        ("tags", pa.list_(pa.string())),
    ]
)
WORDS = ["", "a", "ab", "abc", "b", "é", "日本", "日本語", "😀", "😁", "a%", "a_b", "z"]
DATES = [datetime.date(1969, 12, 31), datetime.date(2024, 2, 29), datetime.date(2024, 3, 1)]
MOMENTS = [datetime.datetime(2024, 2, 29, 0, 0), datetime.datetime(2024, 2, 29, 10, 30, 0, 1)]
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "n": st.integers(-128, 127) | st.integers(-3, 3),
    "u": st.sampled_from([0, 1, 2**63, 2**64 - 1]),
    "f": st.sampled_from([-1.5, -0.0, 0.0, 0.1, 2.0, 1e300]),
    "x": st.sampled_from([Decimal(text) for text in ("-9999.99", "-0.01", "0.00", "1.50", "2.00")]),
    "s": st.sampled_from(WORDS),
    "c": st.sampled_from(WORDS[:5]),
    "b": st.booleans(),
    "d": st.sampled_from(DATES),
    "t": st.sampled_from(MOMENTS),
    "tags": st.lists(st.none() | st.sampled_from(WORDS[:5]), max_size=3),
}


def quoted(word: str) -> str:
    return "'" + word.replace("'", "''") + "'"


LITERALS: dict[str, st.SearchStrategy[str]] = {
    "n": st.sampled_from(["-129", "-128", "-2", "0", "1.5", "3", "127", "128", "99999999999"]),
    "u": st.sampled_from(["-1", "0", "0.5", "9223372036854775808", "18446744073709551615"]),
    "f": st.sampled_from(["-1.5", "0", "0.1", "2", "1e300"]),
    "x": st.sampled_from(["-10000", "-0.015", "0", "1.5", "1.504", "2", "123456"]),
    "s": st.sampled_from(WORDS).map(quoted),
    "c": st.sampled_from(WORDS).map(quoted),
    "b": st.sampled_from(["true", "false"]),
    "d": st.sampled_from(
        [f"DATE '{date}'" for date in DATES] + ["TIMESTAMP '2024-02-29 10:00:00'"]
    ),
    "t": st.sampled_from(["TIMESTAMP '2024-02-29 10:30:00'", "DATE '2024-02-29'"]),
}


@st.composite
def leaves(draw: st.DrawFn) -> str:
    column = draw(st.sampled_from(SCHEMA.names))
    if draw(st.integers(0, 5)) == 0:
        return f"{column} is {draw(st.sampled_from(['null', 'not null']))}"
    if column == "tags":
        word = draw(LITERALS["s"])
        return draw(st.sampled_from([f"{word} in tags", f"array_contains(tags, {word})"]))
    literal = LITERALS[column]
    one, two, three = draw(literal), draw(literal), draw(literal)
    forms = [f"{column} = {one}", f"{column} <> {one}", f"{column} in ({one}, {two}, {three})"]
    forms += [f"{column} not in ({one}, {two})"]
    if column == "b":
        return draw(st.sampled_from([*forms, "b", "not b"]))
    forms += [f"{column} {op} {one}" for op in ("<", "<=", ">", ">=")] + [f"{one} < {column}"]
    forms += [f"{column} between {one} and {two}", f"{column} not between {one} and {two}"]
    if column in ("s", "c"):
        word = draw(st.sampled_from(["", "a", "ab", "日", "😀", "z"]))
        forms += [f"{column} like '{word}%'", f"starts_with({column}, 'a%')"]
    return draw(st.sampled_from(forms))


FILTERS = st.recursive(
    leaves(),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda p: f"({' '.join(p)})"),
        inner.map(lambda text: f"not ({text})"),
    ),
    max_leaves=5,
)
DUCKDB = duckdb.connect()
ROWS = st.fixed_dictionaries({name: st.none() | values for name, values in VALUES.items()})


@settings(max_examples=80, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=12), FILTERS)
def test_the_same_rows_pass_as_in_duckdb(rows: list[dict[str, Any]], text: str) -> None:
    table = pa.Table.from_pylist(rows, SCHEMA)
    DUCKDB.register("rows", table.append_column("row", pa.array(range(len(rows)))))
    # Exactly: DuckDB rounds a constant with more digits to the column's type.
    exact = ", ".join(f"{name}::decimal(38, 4) as {name}" for name in ("n", "u", "x"))
    where = f"from (select * replace ({exact}) from rows) where {text}"
    expected = DUCKDB.sql(f"select row {where}").fetchall()
    tree = parse_filter(text)
    assert tree_from_json(tree_to_json(tree)) == tree
    bound = bind(tree, SCHEMA)
    arrays = {name: table[name].combine_chunks() for name in bound_columns(bound)}
    found = np.flatnonzero(passing_rows(bound, arrays)).tolist()
    assert found == sorted(row for (row,) in expected), text


def passes(text: str, column: pa.Array) -> list[bool]:
    bound = bind(parse_filter(text), pa.schema([("v", column.type)]))
    return list(passing_rows(bound, {"v": column}).tolist())


def test_floats_compare_as_ieee_numbers() -> None:
    column = pa.array([float("nan"), 0.1, -0.0, None, float("inf")], pa.float32())
    assert passes("v = 0.1", column) == [False, True, False, False, False]  # as float32 rounds it
    assert passes("v > 0", column) == [False, True, False, False, True]
    assert passes("not v > 0", column) == [True, False, True, False, False]
    assert passes("v in (0, 7)", column) == [False, False, True, False, False]
    assert passes("v <> 0", column) == [True, True, False, False, True]


def test_time_zones() -> None:
    moments = pa.array([0, 3_600_000], pa.timestamp("ms", tz="Europe/Berlin"))
    assert passes("v = TIMESTAMP '1970-01-01 01:00:00Z'", moments) == [False, True]
    assert passes("v = TIMESTAMP '1970-01-01 02:00:00+01:00'", moments) == [False, True]
    with pytest.raises(InvalidArgument, match="has no time zone"):
        passes("v = TIMESTAMP '1970-01-01 01:00:00Z'", moments.cast(pa.timestamp("ms")))


@pytest.mark.parametrize(
    ("text", "at", "what"),
    [
        ("lnag = 'en'", 1, "no column named 'lnag'; columns: b, c, d, f, n, s, t, tags, u, x"),
        ("n = 1 and s > 3", 11, "s: a column of string found, but 3 is a number"),
        ("n = 'one'", 1, "n: a column of int8 found, but 'one' is a string"),
        ("tags = 'a'", 1, "a column of lists found"),
        ("'a' in s", 1, "a column of string found, lists expected"),
        ("s", 1, "a column of string is no condition"),
        ("d > '2024-13-01'", 1, "is no date"),
        ("b < true", 1, "a column of bool takes = and <>"),
    ],
)
def test_what_does_not_fit_the_columns(text: str, at: int, what: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        bind(parse_filter(text), SCHEMA)
    assert str(caught.value).startswith(f"filter, character {at}: ")
    assert what in str(caught.value)


def test_expressions_of_pyarrow() -> None:
    field = pc.field
    alike = [
        (field("n") == 3, "n = 3"),
        (pc.scalar(3) < field("n"), "n > 3"),
        ((field("n") > 1) & ~(field("f") <= 0.1) | field("b"), "n > 1 and not f <= 0.1 or b"),
        (field("s").isin(["a", "b'\n"]), "s in ('a', 'b''\n')"),
        (field("s").is_null(), "s is null"),
        (field("s").is_valid(), "s is not null"),
        (pc.starts_with(field("s"), "a_b"), "starts_with(s, 'a_b')"),
        (field("d") >= datetime.date(2024, 2, 29), "d >= DATE '2024-02-29'"),
        (field("x") != Decimal("1.50"), "x <> 1.50"),
        (field("t") < MOMENTS[1], "t < TIMESTAMP '2024-02-29 10:30:00.000001'"),
    ]
    for expression, text in alike:
        assert bind(parse_filter(expression), SCHEMA) == bind(parse_filter(text), SCHEMA), text
    many = parse_filter(field("n").isin(list(range(10_000))))
    assert isinstance(many, In)
    assert len(many.values) == 10_000  # where the expression's text leaves most out


@pytest.mark.parametrize(
    "expression",
    [
        pc.field("n") + 1 == 2,
        pc.field("n") == pc.field("u"),
        pc.field("n") == pc.scalar(None),
        pc.field("n").cast("int64") == 3,
        pc.field("s", "t") == 1,
        pc.field(0) == 1,
        pc.scalar(True),
        pc.match_substring(pc.field("s"), "a"),
        pc.field("f") == float("nan"),
    ],
    ids=str,
)
def test_other_expressions_are_refused_in_one_line(expression: pc.Expression) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_filter(expression)
    assert str(caught.value).startswith("filter: ")
    assert "\n" not in str(caught.value)


NESTED: Any = ["=", "n", 1]
for _ in range(200):
    NESTED = ["not", NESTED]


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        "n = 1",
        ["eval", "n"],
        ["and", ["=", "n", 1]],
        ["=", 3, 4],
        ["=", "n", None],
        ["=", "n", 1.5],
        ["=", "n", 10**120],
        ["=", "n", {"number": "1e99999999"}],
        ["=", "n", {"date": "2024-01-01", "more": 1}],
        ["=", "t", {"timestamp": 2**90, "zoned": False}],
        ["in", "n", []],
        ["in", "n", list(range(30_000))],
        ["or", *[["=", "n", 1]] * 3_000],
        ["=", "s", "x" * 300_000],
        NESTED,
    ],
    ids=lambda content: str(content)[:40],
)
def test_json_of_a_stranger_is_checked(content: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"^filter: "):
        tree_from_json(content)
