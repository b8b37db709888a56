"""Columns: which are read, ids, nulls, and decoding every row once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from teravec.errors import InvalidSource, StorageError
from teravec.sources import open_source
from teravec.sources.cursor import ColumnReader

from .writers import random_matrix, table, write_bin, write_ipc, write_parquet

X = random_matrix(20, 4, "f4")
WRITERS = {".parquet": write_parquet, ".arrow": write_ipc}


def write_table(path: Path, columns: Any) -> None:
    rows = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(rows, path, row_group_size=6)
        return
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=6)


@pytest.fixture(params=WRITERS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"x{request.param}"


def fixed(x: np.ndarray = X) -> Any:
    return table(x).column("v")


def refuses(path: Path, match: str, **columns: Any) -> None:
    def read() -> None:
        source = open_source(path, **columns)
        source.read_ids(0, source.ntotal)
        source.read(0, source.ntotal)

    with pytest.raises(InvalidSource, match=match) as caught:
        read()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("dtype", ["i8", "i2", "u4", "u8"])
def test_ids(dtype: str, path: Path) -> None:
    ids = (np.arange(20)[::-1] * 10).astype(dtype)
    write_table(path, {"id": ids, "v": fixed()})
    source = open_source(path, id_column="id")
    assert source.has_ids
    assert source.describe()["id_column"] == "id"
    assert source.read_ids(3, 17).dtype == np.int64
    np.testing.assert_array_equal(source.read_ids(3, 17), ids[3:17])
    blocks = list(source.blocks(2, 20, 5))
    np.testing.assert_array_equal(np.concatenate([block.ids for block in blocks]), ids[2:])
    np.testing.assert_array_equal(np.concatenate([block.vectors for block in blocks]), X[2:])


def test_ids_across_files(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", X, ids=np.arange(100, 120))
    write_ipc(tmp_path / "b.arrow", X, ids=np.arange(20))
    source = open_source(tmp_path, id_column="id")
    expected = [*range(115, 120), *range(7)]
    assert source.read_ids(15, 27).tolist() == expected


def test_named_vector_column(path: Path) -> None:
    write_table(path, {"a": fixed(), "b": fixed(X + 1)})
    refuses(path, "vector columns a, b found, expected one")
    for name, expected in (("a", X), ("b", X + 1)):
        source = open_source(path, vector_column=name)
        np.testing.assert_array_equal(source.read(0, 20), expected)
        assert source.describe()["files"][0]["vector_column"] == name


def test_lists_of_other_things_are_no_candidates(path: Path) -> None:
    write_table(path, {"words": [["a"]] * 20, "n": range(20), "v": fixed()})
    np.testing.assert_array_equal(open_source(path).read(0, 20), X)
    refuses(path, r"column 'words' of type list<.*> found, expected a list", vector_column="words")


def test_no_vector_column(path: Path) -> None:
    write_table(path, {"n": pa.array(range(20)), "s": ["x"] * 20})
    refuses(path, r"columns n \(int64\), s \(string\) found, expected a list or fixed-size list")


def test_no_such_column(path: Path) -> None:
    write_table(path, {"v": fixed(), "n": range(20)})
    refuses(path, "columns v, n found, expected exactly one called 'w'", vector_column="w")
    refuses(path, "columns v, n found, expected exactly one called 'w'", id_column="w")


def test_id_column_of_another_type(path: Path) -> None:
    write_table(path, {"v": fixed(), "name": [True] * 20})
    refuses(path, "id column 'name' of type bool found, expected integers", id_column="name")


def test_columns_named_for_other_formats(tmp_path: Path) -> None:
    path = tmp_path / "x.fbin"
    write_bin(path, X)
    refuses(path, r"column 'id' is named, but \.fbin files have no columns", id_column="id")
    refuses(path, r"column 'v' is named, but \.fbin files", vector_column="v")


def test_null_id(path: Path) -> None:
    write_table(path, {"v": fixed(), "id": [*range(13), None, *range(6)]})
    refuses(path, "row 13 has a null id", id_column="id")


def test_id_too_large(path: Path) -> None:
    write_table(path, {"v": fixed(), "id": pa.array([1] * 14 + [2**63] * 6, pa.uint64())})
    refuses(path, "row 14 has id 9223372036854775808, expected less than 2", id_column="id")


def test_negative_id_is_named_by_its_row_of_the_file(tmp_path: Path) -> None:
    for name, wrong in (("a", 7), ("b", -4)):
        ids = pa.array([*range(13), wrong, *range(6)])
        write_table(tmp_path / f"{name}.parquet", {"v": fixed(), "id": ids})
    source = open_source(tmp_path, id_column="id")
    with pytest.raises(InvalidSource, match=r"b\.parquet: row 13 \(row 33 of .*\) has id -4, "):
        source.read_ids(0, source.ntotal)


@pytest.mark.parametrize("row", [0, 8])
@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 4)])
def test_null_vector(row: int, kind: Any, path: Path) -> None:
    rows: list[Any] = X.tolist()
    rows[row] = None
    write_table(path, {"v": pa.array(rows, kind)})
    refuses(path, f"row {row} has a null vector")


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 4)])
def test_null_inside_a_vector(kind: Any, path: Path) -> None:
    rows: list[Any] = X.tolist()
    rows[9][2] = None
    write_table(path, {"v": pa.array(rows, kind)})
    refuses(path, "row 9 holds a null value")


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float32())])
def test_lists_of_differing_length(kind: Any, path: Path) -> None:
    rows = X.tolist()
    write_table(path, {"v": pa.array(rows, kind)})
    np.testing.assert_array_equal(open_source(path).read(0, 20), X)
    rows[11] = rows[11][:3]
    write_table(path, {"v": pa.array(rows, kind)})
    refuses(path, "row 11 holds 3 values, expected 4 as in row 0")


def test_file_that_vanishes_or_is_closed_to_us(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(path, {"v": fixed()})
    source = open_source(path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        patch.setattr(pq, "ParquetFile", refuse)
        with pytest.raises(StorageError, match="no permission"):
            source.read(0, 5)
    path.unlink()
    with pytest.raises(InvalidSource, match="no such file"):
        source.read(0, 5)


def test_a_large_row_group_is_decoded_in_pieces(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((200_000, 64)).astype("f4")
    write_parquet(tmp_path / "x.parquet", x, rows=len(x))
    source = open_source(tmp_path)
    before = pa.total_allocated_bytes()
    peak = 0
    for start in range(0, 200_000, 10_000):
        np.testing.assert_array_equal(source.read(start, start + 10_000), x[start : start + 10_000])
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert peak < x.nbytes // 4
    assert pa.total_allocated_bytes() <= before


class CountingColumn:
    """A column of row numbers, which counts the rows that are decoded."""

    def __init__(self, group: int, groups: int, piece: int) -> None:
        self.starts = np.arange(groups + 1) * group
        self.piece = piece
        self.decoded = 0

    def pieces(self, group: int) -> Iterator[np.ndarray]:
        for row in range(self.starts[group], self.starts[-1], self.piece):
            rows = np.arange(row, min(row + self.piece, self.starts[-1]))
            self.decoded += len(rows)
            yield rows

    def reader(self) -> ColumnReader:
        return ColumnReader(Path("x"), self.starts, self.pieces)


def test_block_after_block_decodes_once() -> None:
    column = CountingColumn(group=100, groups=5, piece=7)
    reader = column.reader()
    for start in range(0, 500, 20):
        assert reader.read(start, start + 20).tolist() == list(range(start, start + 20))
    assert column.decoded == 500


def test_two_threads_worth_of_places_decode_once_each() -> None:
    column = CountingColumn(group=1000, groups=2, piece=10)
    reader = column.reader()
    for start in range(0, 500, 20):
        for base in (0, 1000):
            assert reader.read(base + start, base + start + 20)[0] == base + start
    assert column.decoded == 1000


def test_far_groups_are_not_decoded_on_the_way() -> None:
    column = CountingColumn(group=100, groups=50, piece=100)
    reader = column.reader()
    reader.read(5, 10)
    assert reader.read(4210, 4220).tolist() == list(range(4210, 4220))
    assert column.decoded == 200


def test_going_back_decodes_again() -> None:
    column = CountingColumn(group=100, groups=2, piece=10)
    reader = column.reader()
    for start in (60, 20, 190, 0):
        assert reader.read(start, start + 5).tolist() == list(range(start, start + 5))


@pytest.mark.parametrize("read", [lambda r: r.read(95, 110)])
def test_data_that_end_early(read: Callable[[ColumnReader], np.ndarray]) -> None:
    column = CountingColumn(group=100, groups=1, piece=10)
    reader = ColumnReader(Path("x.parquet"), np.array([0, 150]), column.pieces)
    with pytest.raises(InvalidSource, match=r"x\.parquet: data end at row 100"):
        read(reader)
