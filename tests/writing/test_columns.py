"""Columns stay with their rows: built, added, replaced, deleted, compacted, verified, reopened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import teravec
from teravec.errors import CorruptFile, InvalidArgument, InvalidSource, OutputExists, TeravecError
from teravec.index.columns import IndexColumns
from teravec.index.opened import OpenedIndex
from teravec.segments.shard_columns import ColumnSource, write_shard_columns
from teravec.sources import open_data
from teravec.storage.columnfile import ColumnFile, ColumnFileHeader
from teravec.storage.local_store import stored
from tests.storage.arrow_values import every_type
from tests.storage.damage import flipped
from tests.writing.conftest import ROWS, D

N = 1500
OPTIONS: dict[str, Any] = {"nlist": 12, "codec": "flat", "calibrate": False}


def rows_of(start: int, stop: int, *, seed: int = 0, first_id: int | None = None) -> Any:
    """Make a table of vectors, ids, and a column of every type."""
    table = every_type(N, seed).slice(start, stop - start)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(ROWS[start:stop].ravel()), D)
    ids = np.arange(stop - start) + (start if first_id is None else first_id)
    return table.append_column("vec", vectors).append_column("id", pa.array(ids))


def build(data: Any, out: Path, **options: Any) -> Path:
    given = {"id_column": "id", "vector_column": "vec", "columns": "all", **OPTIONS, **options}
    teravec.build(data, out, **given)
    return out


def visible(path: Path) -> dict[int, dict[str, Any]]:
    """Read all visible rows of an index, by id."""
    found: dict[int, dict[str, Any]] = {}
    with OpenedIndex(path) as index:
        columns = IndexColumns(index)
        for number, file in enumerate(index.segments):
            ids = file.read_ids(0, file.header.ntotal) + index.id_bases[number]
            table = columns.read(number, 0, len(ids), columns.schema.names)
            dead = index.deleted[number].find(ids)
            for id_, row, gone in zip(ids.tolist(), table.to_pylist(), dead, strict=True):
                if not gone:
                    assert id_ not in found
                    found[id_] = row
    return found


def expected(table: Any) -> dict[int, dict[str, Any]]:
    rows = table.drop(["vec"]).to_pylist()
    return {row.pop("id"): row for row in rows}


def test_life_of_an_index_with_columns(tmp_path: Path) -> None:
    base = rows_of(0, 1000)
    pq.write_table(base, tmp_path / "base.parquet", row_group_size=170)
    index = build(tmp_path / "base.parquet", tmp_path / "index", shards=3, slices=2)
    want = expected(base)
    assert visible(index) == want
    again = build(base, tmp_path / "again", slices=2)  # from memory, in one shard
    for one, other in zip(*(teravec.versions(p)[0].segments for p in (index, again)), strict=True):
        assert one.columns is not None
        assert other.columns is not None
        assert one.columns.checksum == other.columns.checksum

    more = rows_of(1000, 1300, first_id=900)  # 100 of them replace rows
    teravec.add(index, more)
    want |= expected(more)
    assert visible(index) == want
    teravec.delete(index, [3, 950, 1199])
    want = {id_: row for id_, row in want.items() if id_ not in (3, 950, 1199)}
    teravec.add(index, rows_of(1300, N, first_id=5000).select([*reversed(more.schema.names)]))
    want |= expected(rows_of(1300, N, first_id=5000))
    assert visible(index) == want
    teravec.verify(index)

    teravec.compact(index, full=True)
    assert visible(index) == want
    teravec.verify(index)
    teravec.vacuum(index, older_than="0s")
    assert visible(index) == want
    assert sorted(p.suffix for p in (index / "segments").iterdir()) == [".columns", ".lists"]
    assert not (index / "slices").exists()

    info = teravec.info(index)["columns"]
    assert [column["name"] for column in info] == base.drop(["vec", "id"]).schema.names
    assert {c["name"]: c["type"] for c in info}["zoned"] == "timestamp[ns, tz=Europe/Berlin]"
    assert all(column["bytes"] > 0 for column in info)
    with OpenedIndex(index) as opened:
        assert IndexColumns(opened).schema.equals(every_type(1).schema)


@pytest.mark.parametrize("codec", ["rabitq1+sq8", "sq8"])
def test_columns_follow_places(tmp_path: Path, codec: str) -> None:
    table = rows_of(0, 800).select(["vec", "id", "string", "int64"])
    index = build(table, tmp_path / "index", codec=codec, slices=3)
    teravec.add(index, rows_of(800, 1000).select(["vec", "id", "string", "int64"]))
    teravec.compact(index, full=True)
    with OpenedIndex(index) as opened:
        columns = IndexColumns(opened)
        names = columns.check(["int64", "string"])
        places, ids = [], []
        for run, size in enumerate(opened.runs.sizes.tolist()):
            for row in range(0, size, 7):
                place = run << 32 | row
                (segment,), (at,) = opened.find_rows(np.array([place]))
                places.append(place)
                ids.append(int(opened.segments[segment].read_ids(int(at), int(at) + 1)[0]))
        order = np.random.default_rng(0).permutation(len(places))
        asked = np.append(np.array(places)[order], -1)
        found = columns.take(asked, names)
    want = expected(rows_of(0, 1000))
    rows = [{name: want[ids[i]][name] for name in names} for i in order]
    assert found.to_pylist() == [*rows, {"int64": None, "string": None}]
    with pytest.raises(InvalidArgument, match=r"'nothing' asked for; .* has string, int64"):
        columns.check(["nothing"])


def test_attributes_beside_the_vectors(tmp_path: Path) -> None:
    table = every_type(600).select(["string", "int64", "double"])
    np.save(tmp_path / "x.npy", ROWS[:600])
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table, 130)
    pa.csv.write_csv(table.select(["string", "int64"]), tmp_path / "a.csv")
    want = dict(enumerate(table.to_pylist()))
    for beside in (tmp_path / "a.parquet", tmp_path / "a.arrow", table):
        out = tmp_path / f"index-{getattr(beside, 'suffix', '')}"
        teravec.build(tmp_path / "x.npy", out, attributes=beside, **OPTIONS)
        assert visible(out) == want
    teravec.build(ROWS[:600], tmp_path / "csv", attributes=tmp_path / "a.csv", **OPTIONS)
    found = visible(tmp_path / "csv")
    assert {i: row["int64"] for i, row in found.items()} == {
        i: row["int64"] for i, row in want.items()
    }
    assert sorted(p.name for p in tmp_path.glob("*.spool")) == []
    with pytest.raises(InvalidSource, match="600 rows found, 500 expected"):
        teravec.build(ROWS[:500], tmp_path / "no", attributes=table, **OPTIONS)
    with pytest.raises(InvalidSource, match=r"x\.npy: column 'url' is to be kept"):
        teravec.build(tmp_path / "x.npy", tmp_path / "no", columns=["url"], **OPTIONS)


def test_streams_and_bad_rows(tmp_path: Path) -> None:
    table = rows_of(0, 700).select(["vec", "id", "string", "tags"])
    vectors = table["vec"].to_pylist()
    bad = [5, 6, 7, 300]
    for row in bad:
        vectors[row] = None
    kind = pa.list_(pa.float32(), D)
    holed = table.set_column(0, pa.field("vec", kind), [pa.array(vectors, kind)])
    kept = pa.concat_tables([table.slice(0, 5), table.slice(8, 292), table.slice(301)])
    index = build(holed, tmp_path / "memory", skip_bad=True, shards=2)
    assert visible(index) == expected(kept)
    stream = pa.RecordBatchReader.from_batches(table.schema, table.to_batches(90))
    index = build(stream, tmp_path / "stream")
    assert visible(index) == expected(table)
    assert list(tmp_path.glob("*.spool")) == []
    more = pa.RecordBatchReader.from_batches(table.schema, table.slice(0, 50).to_batches(20))
    teravec.add(index, more)
    assert visible(index) == expected(table)
    assert list((index / "adding").iterdir()) == []
    mapping = {"vec": ROWS[:50], "title": [f"t{i}" for i in range(50)]}
    teravec.build(mapping, tmp_path / "map", columns=["title"], **OPTIONS)
    assert visible(tmp_path / "map")[7] == {"title": "t7"}


def test_other_columns_are_refused(tmp_path: Path) -> None:
    table = rows_of(0, 300).select(["vec", "id", "string", "int64"])
    index = build(table, tmp_path / "index")
    with pytest.raises(OutputExists, match=r"begun with columns string .*, not columns int64"):
        build(table, index, columns=["int64"])
    with pytest.raises(OutputExists, match="not no columns"):
        build(table, index, columns=None)
    changed = table.set_column(3, "int64", pa.array(np.arange(300)))
    with pytest.raises(OutputExists, match="columns of other values"):
        build(changed, index)
    with pytest.raises(InvalidArgument, match=r"'int64' of type double found; .* it is int64"):
        teravec.add(index, table.set_column(3, "int64", pa.array(np.arange(300) / 2)))
    with pytest.raises(InvalidSource, match="'string'"):
        teravec.add(index, table.drop(["string"]))
    with pytest.raises(InvalidArgument, match="the index has string, int64"):
        teravec.add(index, table, columns=["string"])
    plain = build(table, tmp_path / "plain", columns=None)
    teravec.add(plain, table)  # its other columns are not kept
    with pytest.raises(InvalidArgument, match="built without columns"):
        teravec.add(plain, table, columns=["string"])
    assert "columns" not in json.loads((plain / "manifest.json").read_text())
    nested = table.append_column("place", pa.array([{"x": 1}] * 300))
    with pytest.raises(InvalidSource, match="column 'place' of type struct<x: int64> found"):
        build(nested, tmp_path / "nested")
    with pytest.raises(InvalidArgument, match="'string' is named twice"):
        build(table, tmp_path / "twice", columns="string,int64,string")


def test_a_null_where_the_index_has_none(tmp_path: Path) -> None:
    index = build(rows_of(0, 300).select(["vec", "id", "sure"]), tmp_path / "index")
    nullable = rows_of(300, 310).select(["vec", "id"])
    sure = pa.array(range(10), pa.int32())
    teravec.add(index, nullable.append_column("sure", sure))
    assert visible(index)[305] == {"sure": 5}
    holed = pa.array([None, *range(9)], pa.int32())
    with pytest.raises(InvalidSource, match="'sure' holds a null"):
        teravec.add(index, nullable.append_column("sure", holed))
    teravec.compact(index, full=True)
    teravec.verify(index)


def test_wide_rows_in_little_memory(tmp_path: Path) -> None:
    n = 400
    texts = [str(i) * (3000 if i % 50 == 0 else 300) for i in range(n)]
    table = pa.table({"v": ROWS[:n].tolist(), "text": texts})
    source = open_data(table, columns=["text"])
    assert source.attributes is not None
    columns = ColumnSource(source.attributes.schema, source.column_batches)
    order = np.random.default_rng(0).permutation(n)
    files = []
    for memory in (1 << 30, 200_000):
        path = stored(tmp_path / f"{memory}.columns")
        header = ColumnFileHeader(0, 12, 0, 1)
        write_shard_columns(path, columns, (0, n), order, header, memory, 1)
        files.append((tmp_path / path.last_name).read_bytes())
    assert files[0] == files[1]
    assert len(list(tmp_path.iterdir())) == 2  # the parts are gone
    with ColumnFile(tmp_path / "200000.columns") as file:
        assert file.read(0, n)["text"].to_pylist() == [texts[i] for i in order]


def test_damaged_columns(tmp_path: Path) -> None:
    index = build(rows_of(0, 300).select(["vec", "id", "string"]), tmp_path / "index")
    (file,) = (index / "slices").glob("*.columns")
    for _ in flipped(file, 100, 400, flips=(0x20,)):
        with pytest.raises(CorruptFile, match=file.name):
            teravec.verify(index)
    sound = file.read_bytes()
    file.write_bytes(sound[:-1])
    with pytest.raises(CorruptFile, match=file.name):
        teravec.open(index)
    file.unlink()
    with pytest.raises(TeravecError, match=file.name):
        teravec.open(index)
