"""The column file: round trips, bytes that do not depend on pieces, damage."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teravec.errors import CorruptFile, ForeignFile, InvalidArgument, TeravecError
from teravec.storage.column_types import parse_schema, schema_content
from teravec.storage.columnfile import (
    ColumnFile,
    ColumnFileHeader,
    ColumnFileWriter,
    verify_columns,
)
from teravec.storage.local_store import LocalStore
from tests.storage.arrow_values import every_type

HEADER = ColumnFileHeader(3, 9, 0, 77)


def seal(path: Path, table: Any, cuts: list[int] | None = None, threads: int = 1) -> str:
    """Write a table to a column file, in pieces that end at the cuts."""
    bounds = [0, *(cuts or []), len(table)]
    with LocalStore(path.parent).publish(path.name, verify_columns) as file:
        writer = ColumnFileWriter(file, HEADER, table.schema, threads)
        for start, stop in pairwise(bounds):
            writer.write(table.slice(start, stop - start))
        return writer.finish()


def test_round_trip_of_every_type(tmp_path: Path) -> None:
    table = every_type(500)
    seal(tmp_path / "a.columns", table)
    rows = np.array([499, 0, 3, 3, 250])
    with ColumnFile(tmp_path / "a.columns") as file:
        assert file.header.ntotal == 500
        assert file.schema.equals(table.schema)
        assert file.read(0, 500).equals(table)
        assert file.read(10, 10).num_rows == 0
        assert file.read(17, 93, ["tags", "int8"]).equals(table.select(["tags", "int8"])[17:93])
        assert file.take(rows).equals(table.take(rows))
        assert sum(file.column_bytes()) < (tmp_path / "a.columns").stat().st_size
        with pytest.raises(InvalidArgument, match="'nothing' asked for; it has int8, int16"):
            file.read(0, 1, ["nothing"])


def test_schema_survives_json() -> None:
    schema = every_type(1).schema
    assert parse_schema(schema_content(schema), "x").equals(schema)
    for wrong in ("list<list<string>>", "decimal128(99, 1)", "map<string, int32>", 3):
        with pytest.raises(CorruptFile, match="columns"):
            parse_schema([{"name": "a", "type": wrong}], "x")


@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(0, 3000), max_size=6), offset=st.integers(0, 9))
def test_bytes_do_not_depend_on_pieces(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], offset: int
) -> None:
    folder = tmp_path_factory.mktemp("files")
    texts = [None if i % 5 == 0 else "x" * (i % 97) for i in range(3010)]
    marks = [None if i % 3 == 0 else i % 2 == 0 for i in range(3010)]
    lists = [None if i % 4 == 0 else [i] * (i % 6) for i in range(3010)]
    whole = pa.table({"text": texts, "mark": marks, "lists": lists, "n": range(3010)})
    table = whole.slice(offset, 3000)
    copied = pa.Table.from_pylist(table.to_pylist(), table.schema)
    first = seal(folder / "a", table, sorted(cuts), threads=2)
    assert first == seal(folder / "b", copied)
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()


def test_few_rows_cost_few_bytes(tmp_path: Path) -> None:
    n = 40_000
    texts = np.random.default_rng(0).integers(0, 1 << 62, n)
    table = pa.table({"text": [f"{text:032x}" for text in texts], "number": np.arange(n)})
    seal(tmp_path / "a", table)
    with ColumnFile(tmp_path / "a") as file:
        read = CountingFile(file.file)
        file.file = read  # type: ignore[assignment]
        assert file.take(np.array([123]), ["text"])["text"][0].as_py() == f"{texts[123]:032x}"
        assert read.bytes < 64 << 10
        whole = file.file.size
    assert whole > 200 << 10
    pq.write_table(table, tmp_path / "a.parquet")
    assert whole <= 1.2 * (tmp_path / "a.parquet").stat().st_size


class CountingFile:
    """An open file that counts what is read from it."""

    def __init__(self, file: Any) -> None:
        self._file, self.size, self.path, self.bytes = file, file.size, file.path, 0

    def read(self, length: int, offset: int) -> bytearray:
        self.bytes += length
        data: bytearray = self._file.read(length, offset)
        return data

    def close(self) -> None:
        self._file.close()


def test_long_rows_and_no_rows(tmp_path: Path) -> None:
    long = pa.table({"text": ["a" * 300_000, None, "b" * 200_000, ""]})
    seal(tmp_path / "long", long, [1, 2])
    seal(tmp_path / "none", long.slice(0, 0))
    with ColumnFile(tmp_path / "long") as file:
        assert file.read(0, 4).equals(long)
        assert list(file.plan_pieces(0, 4, 250_000, 1000)) == [(0, 1), (1, 4)]
    with ColumnFile(tmp_path / "none") as file:
        assert file.read(0, 0).equals(long.slice(0, 0))
        file.verify()


def test_nulls_only_where_the_schema_allows(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("a", pa.int64(), nullable=False)])
    table = pa.Table.from_arrays([pa.array([1, None])], schema=schema)
    with pytest.raises(InvalidArgument, match="column 'a': a null found"):
        seal(tmp_path / "a", table)
    assert not (tmp_path / "a").exists()


def test_flipped_and_lost_bytes_are_found(tmp_path: Path) -> None:
    table = pa.table({"text": [f"text {i % 9}" for i in range(80)], "n": range(80)})
    path = tmp_path / "a.columns"
    seal(path, table)
    sound = path.read_bytes()
    for at in range(0, len(sound), 3):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 0x10]) + sound[at + 1 :])
        with pytest.raises(TeravecError, match=r"a\.columns"):
            verify_columns(path)
    for length in (0, 100, 128, len(sound) // 2, len(sound) - 1):
        path.write_bytes(sound[:length])
        with pytest.raises(CorruptFile, match=r"a\.columns"):
            verify_columns(path)
    path.write_bytes(sound + b"\0")
    with pytest.raises(CorruptFile, match=r"a\.columns"):
        verify_columns(path)


def test_swapped_chunks_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pa.table({"n": rng.integers(0, 1 << 62, 16_384)})
    path = tmp_path / "a.columns"
    seal(path, table)
    sound = bytearray(path.read_bytes())
    middle = 128 + (len(sound) - 128) // 2
    sound[200:300], sound[middle : middle + 100] = sound[middle : middle + 100], sound[200:300]
    path.write_bytes(sound)
    with ColumnFile(path) as file, pytest.raises(CorruptFile, match="column 'n', rows 0 to 8,192"):
        file.read(0, 1)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    table = pa.table({"n": [1, 2]})
    seal(tmp_path / "a", table)
    with ColumnFile(tmp_path / "a") as file:
        file.check_belongs(ColumnFileHeader(3, 9, 2, 77), table.schema)
        with pytest.raises(ForeignFile, match="expected"):
            file.check_belongs(ColumnFileHeader(3, 9, 2, 78), table.schema)
        with pytest.raises(ForeignFile, match="expected"):
            file.check_belongs(file.header, table.rename_columns(["m"]).schema)
