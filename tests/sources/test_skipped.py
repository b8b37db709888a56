"""Rows that are no vectors: found in every format, left out, and the others keep their ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teravec.errors import InvalidSource
from teravec.progress import NoProgress
from teravec.sources import Source, find_bad, open_source, read_bad, reopen, write_bad
from teravec.sources.skipped import NONE, Skipped

from .writers import random_matrix, write_bin, write_npy

N, D = 90, 5


def found(path: Any, **options: Any) -> Source:
    return find_bad(open_source(path, skip_bad=True, **options), 2, NoProgress())


def check(source: Source, x: np.ndarray, bad: set[int], ids: np.ndarray | None = None) -> None:
    """The source is the rows of x that are not bad, by every way to read it."""
    good = np.array([row for row in range(len(x)) if row not in bad])
    assert source.skipped is not None
    assert (source.ntotal, source.nrows, source.skipped.rows) == (len(good), len(x), len(bad))
    assert source.has_ids
    expected = good if ids is None else ids[good]
    for start in range(0, len(good), 7):
        for stop in (start, start + 1, start + 5, len(good)):
            stop = min(stop, len(good))
            np.testing.assert_array_equal(source.read(start, stop), x[good[start:stop]])
            np.testing.assert_array_equal(source.read_ids(start, stop), expected[start:stop])
    blocks = list(source.blocks(0, len(good), 11))
    np.testing.assert_array_equal(np.concatenate([b.vectors for b in blocks]), x[good])
    np.testing.assert_array_equal(np.concatenate([b.ids for b in blocks]), expected)
    rows = np.arange(1, len(good), 3)
    np.testing.assert_array_equal(source.take(rows), x[good[rows]])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers_that_are_not_finite(dtype: str, order: Any, tmp_path: Path) -> None:
    x = random_matrix(N, D, dtype).astype(dtype, order=order)
    x[0, 1], x[40, 0], x[41], x[N - 1, D - 1] = np.nan, np.inf, -np.inf, np.nan
    bad = {0, 40, 41, N - 1}
    if dtype == "f8":
        x[60, 2] = 1e300  # infinite in float32
        bad.add(60)
    write_npy(tmp_path / "x.npy", x)
    with np.errstate(over="ignore"):
        check(found(tmp_path), x.astype("f4"), bad)


def broken_rows(rows: list[Any]) -> set[int]:
    """Spoil some rows in every way; return which."""
    rows[3] = None
    rows[4] = [None] * D
    rows[17] = rows[17][:-1]
    rows[18] = []
    rows[19] = [*rows[19], 1]
    rows[50][2] = None
    return {3, 4, 17, 18, 19, 50}


@pytest.mark.parametrize("of", [pa.list_, pa.large_list, pa.list_view])
@pytest.mark.parametrize("value", [pa.float32(), pa.float64(), pa.int8(), pa.int32()])
def test_rows_of_columns(of: Any, value: Any, tmp_path: Path) -> None:
    x = random_matrix(N, D, "i1").astype("f4")
    rows: list[Any] = x.astype(int).tolist()
    bad = broken_rows(rows)
    ids = np.arange(N) * 3 + 1
    columns = {"id": ids, "v": pa.array(rows, of(value))}
    if of is pa.list_view:
        with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink:
            rows_of = pa.table(columns)
            with pa.ipc.new_stream(sink, rows_of.schema) as out:
                out.write_table(rows_of, max_chunksize=16)
    else:
        pq.write_table(pa.table(columns), tmp_path / "x.parquet", row_group_size=16)
    check(found(tmp_path), x, bad)
    check(found(tmp_path, id_column="id"), x, bad, ids)


def test_first_rows_that_are_bad(tmp_path: Path) -> None:
    """The dimension is that of most rows, not of a first row that is cut."""
    x = random_matrix(N, D, "f4")
    rows: list[Any] = x.tolist()
    rows[:3] = [None, [], rows[2][:2]]
    pq.write_table(pa.table({"v": pa.array(rows)}), tmp_path / "x.parquet")
    check(found(tmp_path), x, {0, 1, 2})
    nested = [None if row is None else [row] for row in rows]
    nested[7] = [rows[7], rows[8]]
    pq.write_table(pa.table({"v": pa.array(nested)}), tmp_path / "x.parquet")
    check(found(tmp_path), x, {0, 1, 2, 7})


def test_fixed_sizes_and_structs(tmp_path: Path) -> None:
    x = random_matrix(N, D, "f4")
    rows: list[Any] = x.tolist()
    rows[8], rows[30][1] = None, None
    fixed = pa.array(rows, pa.list_(pa.float32(), D))
    mask = pa.array(np.arange(N) == 77)
    inside = pa.StructArray.from_arrays([fixed], ["values"], mask=mask)
    pq.write_table(pa.table({"e": inside}), tmp_path / "x.parquet")
    check(found(tmp_path, vector_column="e.values"), x, {8, 30, 77})


def test_ids_of_bad_rows_may_be_null_and_no_others(tmp_path: Path) -> None:
    x = random_matrix(N, D, "f4")
    rows: list[Any] = x.tolist()
    rows[5] = None
    for null, fine in ((5, True), (6, False)):
        ids = [None if row == null else row for row in range(N)]
        columns = {"id": pa.array(ids, pa.uint32()), "v": pa.array(rows)}
        pq.write_table(pa.table(columns), tmp_path / "x.parquet")
        source = found(tmp_path, id_column="id")
        if fine:
            check(source, x, {5}, np.arange(N))
            continue
        with pytest.raises(InvalidSource, match=r"row 6 .* has id -1, expected 0 or more"):
            source.read_ids(0, source.ntotal)


def test_several_files(tmp_path: Path) -> None:
    x = random_matrix(3 * N, D, "f4")
    x[N - 1, 0] = x[N, 0] = x[2 * N + 10, 3] = np.nan
    for part in range(3):
        write_bin(tmp_path / f"{part}.fbin", x[part * N : (part + 1) * N])
    bad = {N - 1, N, 2 * N + 10}
    source = found(tmp_path)
    check(source, x, bad)
    check(reopen(source.opened_by), x, bad)  # as a worker opens it
    write_bad(tmp_path / "skipped.json", source)
    described = source.describe()["skipped"]
    assert described["rows"] == 3
    content = json.loads((tmp_path / "skipped.json").read_text())
    assert [(file["name"], file["first_row"], file["rows"]) for file in content["files"]] == [
        ("0.fbin", 0, [[N - 1, N]]),
        ("1.fbin", N, [[0, 1]]),
        ("2.fbin", 2 * N, [[10, 11]]),
    ]
    assert source.skipped is not None
    read = read_bad(tmp_path / "skipped.json", described)
    assert read is not None
    assert read.runs.tolist() == source.skipped.runs.tolist()
    assert read_bad(tmp_path / "skipped.json", {**described, "rows": 4}) is None
    assert read_bad(tmp_path / "nothing.json", described) is None
    (tmp_path / "skipped.json").write_text("{}")
    assert read_bad(tmp_path / "skipped.json", described) is None


def test_nothing_bad_is_the_same_source(tmp_path: Path) -> None:
    write_bin(tmp_path / "x.fbin", random_matrix(N, D, "f4"))
    assert found(tmp_path).describe() == open_source(tmp_path).describe()


def test_everything_bad(tmp_path: Path) -> None:
    write_npy(tmp_path / "x.npy", np.full((N, D), np.nan, "f4"))
    with pytest.raises(InvalidSource, match=r"x\.npy: all 90 rows of the source are bad"):
        found(tmp_path)


def test_other_damage_is_still_an_error(tmp_path: Path) -> None:
    write_bin(tmp_path / "x.fbin", random_matrix(N, D, "f4"))
    source = open_source(tmp_path, skip_bad=True)
    (tmp_path / "x.fbin").write_bytes((tmp_path / "x.fbin").read_bytes()[:-9])
    with pytest.raises(InvalidSource, match="shrunk"):
        find_bad(source, 2, NoProgress())


def test_errors_name_rows_of_the_files(tmp_path: Path) -> None:
    x = random_matrix(N, D, "f4")
    x[10] = np.nan
    write_npy(tmp_path / "x.npy", x)
    source = found(tmp_path)
    long = source.read(0, N - 1)
    long[20] = 1e30
    with pytest.raises(InvalidSource, match=r"row 21 \(row 21 of the source\) is .* long"):
        source.check_lengths(np.arange(N - 1), long)


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_places_of_rows(is_bad: list[bool]) -> None:
    bad, good = np.flatnonzero(is_bad), np.flatnonzero(np.logical_not(is_bad))
    skipped = Skipped.of(np.array_split(bad, 3))
    assert skipped.rows == len(bad)
    assert all(
        stop < start for (_, stop), (start, _) in zip(skipped.runs, skipped.runs[1:], strict=False)
    )
    np.testing.assert_array_equal(skipped.places(np.arange(len(good))), good)
    for row in range(len(good)):
        assert skipped.before(row) == good[row] - row
        for stop in range(row + 1, len(good) + 1):
            gaps = good[stop - 1] - good[row] != stop - 1 - row
            assert skipped.lie_within(row, stop) == gaps
    inside = [row for low, high in skipped.between(5, 50).tolist() for row in range(low, high)]
    assert inside == [row for row in bad.tolist() if 5 <= row < 50]


def test_too_many_places_are_refused() -> None:
    with pytest.raises(InvalidSource, match="bad rows at 12 places up to row 22; at most 10 can"):
        Skipped.of((np.array([row, row + 2]) for row in range(0, 40, 4)), 10)
    assert Skipped.of([np.arange(1000)]).runs.tolist() == [[0, 1000]]
    assert NONE.rows == 0
