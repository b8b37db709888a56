"""Inverted files: they let the same rows pass as the columns do, and damage is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teravec.errors import CorruptFile, TeravecError
from teravec.filters.bind import bind
from teravec.filters.evaluate import bound_columns, passing_rows
from teravec.filters.filter import parse_filter
from teravec.filters.lookup import find_rows
from teravec.segments.inverting import BinSizes, invert_columns
from teravec.storage.columnfile import ColumnFile, ColumnFileHeader, ColumnFileWriter
from teravec.storage.invertedfile import InvertedFile, rows_of_bitmap, verify_inverted
from teravec.storage.local_store import LocalStore
from teravec.storage.store import StorePath
from tests.filters.test_semantics import FILTERS, ROWS, SCHEMA

SMALL = BinSizes(sampled=64, few=3, most=8, least_rows=4)
PLAIN = pa.schema(
    [(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type) for f in SCHEMA]
)


def seal(
    folder: Path, table: pa.Table, memory_bytes: int = 1 << 20, sizes: BinSizes = SMALL
) -> StorePath:
    """Write a column file and its inverted file."""
    store, header = LocalStore(folder), ColumnFileHeader(0, 1, 0, 7)
    with store.publish("a.columns") as file:
        writer = ColumnFileWriter(file, header, table.schema)
        writer.write(table)
        writer.finish()
    path = StorePath(store, "a.inverted")
    with ColumnFile(StorePath(store, "a.columns")) as columns:
        invert_columns(path, columns, table.schema, memory_bytes, sizes)
    return path


def compare(table: pa.Table, path: StorePath, text: str) -> None:
    """The rows that pass by the inverted file and by the columns."""
    bound = bind(parse_filter(text), table.schema)
    arrays = {name: table[name].combine_chunks() for name in bound_columns(bound)}
    expected = np.flatnonzero(passing_rows(bound, arrays))
    with InvertedFile(path) as file:
        found = rows_of_bitmap(find_rows(bound, file.columns, len(table)))
    assert found.tolist() == expected.tolist(), text


@settings(max_examples=40, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=30), st.integers(1, 9), st.lists(FILTERS, max_size=6))
def test_the_same_rows_pass_as_by_the_columns(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, Any]],
    times: int,
    filters: list[str],
) -> None:
    table = pa.Table.from_pylist(rows * times, PLAIN)
    path = seal(tmp_path_factory.mktemp("inverted"), table)
    for text in filters:
        compare(table, path, text)


def many(n: int) -> pa.Table:
    """Columns with more values than bins, nulls and not-a-numbers."""
    rng = np.random.default_rng(4)
    floats = rng.standard_normal(n).astype(np.float32)
    floats[::7] = np.nan
    floats[3::9] = -0.0
    half = pa.array(rng.integers(0, 900, n).astype(np.float16))
    words = [None if i % 11 == 0 else f"w{i * i % 4001}" for i in range(n)]
    tags = [[f"t{int(j)}" for j in rng.zipf(1.3, i % 6) % 3000] for i in range(n)]
    numbers = np.where(rng.random(n) < 0.3, 5, rng.integers(-(2**62), 2**62, n))
    columns = {"f": floats, "h": half, "s": words, "tags": tags, "n": numbers}
    return pa.table(columns)


QUESTIONS = (
    "f > 0.5", "f <= 0", "f = 0", "f is null", "not (f < 1 or s = 'w9')", "f between -1 and 0.25",
    "h >= 898", "h in (0, 3, 3.5)", "s = 'w9'", "s like 'w12%'", "s in ('w0', 'w1', 'nothing')",
    "s is null", "'t1' in tags", "'t2999' in tags", "'t7' in tags and n = 5", "n <> 5", "n < -1000",
    "n > 4611686018427387000", "not 't1' in tags",
)  # fmt: skip


def test_many_values_in_any_memory(tmp_path: Path) -> None:
    table = many(5000)
    sizes = BinSizes(sampled=2000, few=50, most=64, least_rows=16)
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    path = seal(tmp_path / "one", table, sizes=sizes)
    seal(tmp_path / "other", table, memory_bytes=50_000, sizes=sizes)
    one, two = (tmp_path / name / "a.inverted" for name in ("one", "other"))
    assert one.read_bytes() == two.read_bytes()
    for text in QUESTIONS:
        compare(table, path, text)


def test_every_damaged_byte_is_found(tmp_path: Path) -> None:
    path = seal(tmp_path, many(60))
    verify_inverted(path)
    whole = bytearray((tmp_path / "a.inverted").read_bytes())
    for at in range(0, len(whole), 131):
        damaged = bytearray(whole)
        damaged[at] ^= 0x55
        (tmp_path / "b.inverted").write_bytes(damaged)
        with pytest.raises(TeravecError, match=r"b\.inverted"):
            verify_inverted(StorePath(path.store, "b.inverted"))
    (tmp_path / "b.inverted").write_bytes(whole[:-1])
    with pytest.raises(CorruptFile):
        verify_inverted(StorePath(path.store, "b.inverted"))
