"""Ids that are texts or UUIDs: results give them back; adds, deletes and look-ups take them."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import teravec
from teravec.cli.main import app
from teravec.errors import InvalidArgument, InvalidSource
from teravec.storage.text_ids import digest_texts
from tests.writing.conftest import ROWS, D

N = 600
KINDS: dict[str, tuple[Any, list[Any]]] = {
    "text": (pa.string(), [f"dök-{i}" for i in range(N)]),
    "large": (pa.large_string(), [f"{i}/漢" for i in range(N)]),
    "uuid": (pa.binary(16), [uuid.UUID(int=i * 10**9).bytes for i in range(N)]),
}
OPTIONS: dict[str, Any] = {"id_column": "key", "nlist": 8, "codec": "flat", "calibrate": False}


def table_of(kind: str, start: int, stop: int) -> Any:
    """Make a table of vectors, keys and numbers."""
    type_, ids = KINDS[kind]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(ROWS[start:stop].ravel()), D)
    numbers = np.arange(start, stop)
    return pa.table({"v": vectors, "n": numbers, "key": pa.array(ids[start:stop], type_)})


@pytest.mark.parametrize("kind", KINDS)
def test_life_of_text_ids(kind: str, tmp_path: Path) -> None:
    type_, ids = KINDS[kind]
    index = tmp_path / "index"
    pq.write_table(table_of(kind, 0, 400), tmp_path / "base.parquet")
    teravec.build(tmp_path / "base.parquet", index, columns=["n"], shards=2, **OPTIONS)
    moved = table_of(kind, 0, 10).set_column(0, "v", table_of(kind, 500, 510)["v"])
    teravec.add(index, moved)  # the same ids elsewhere
    stream = table_of(kind, 400, 450)
    teravec.add(index, pa.RecordBatchReader.from_batches(stream.schema, stream.to_batches(20)))
    teravec.delete(index, [ids[20], ids[21]])
    for _ in range(2):
        with teravec.open(index) as opened:
            found = opened.query(ROWS[500:510], k=1, nprobe=8, columns="n")
            assert found.schema.field("id").type == type_
            assert found["id"].to_pylist() == ids[:10]
            assert found["n"].to_pylist() == list(range(10))
            assert found.schema.names == ["query", "rank", "id", "distance", "n"]
            every = opened.query(ROWS[0], k=N, nprobe=8)["id"].to_pylist()
            assert sorted(every) == sorted({*ids[:450]} - {ids[20], ids[21]})
            rows = opened.get([ids[449], ids[20], ids[550], ids[3]])
            assert rows.to_pylist() == [{"id": ids[449], "n": 449}, {"id": ids[3], "n": 3}]
            _, numbers = opened.search(ROWS[500], k=1, nprobe=8)
            assert numbers[0] == digest_texts(pa.array(ids[:1], type_)).ids[0]
        teravec.compact(index, full=True)
        teravec.verify(index)


def test_commands_take_texts(tmp_path: Path) -> None:
    run, index = CliRunner(), str(tmp_path / "index")
    pq.write_table(table_of("uuid", 0, 300), tmp_path / "base.parquet")
    np.save(tmp_path / "q.npy", ROWS[:2])
    teravec.build(tmp_path / "base.parquet", index, **OPTIONS)
    names = [str(uuid.UUID(bytes=each)) for each in KINDS["uuid"][1]]
    search = ["search", index, str(tmp_path / "q.npy"), "-k", "1", "--nprobe", "8"]
    done = run.invoke(app, search)
    assert [json.loads(line)["id"] for line in done.output.splitlines()] == names[:2]
    done = run.invoke(app, [*search, "--out", str(tmp_path / "hits.csv"), "--quiet"])
    assert names[1] in (tmp_path / "hits.csv").read_text()
    (tmp_path / "gone.txt").write_text(f"{names[1]}\n{names[2]}\n")
    done = run.invoke(app, ["delete", index, "--ids", names[0]])
    assert done.exit_code == 0, done.output
    done = run.invoke(app, ["delete", index, "--ids-file", str(tmp_path / "gone.txt")])
    assert done.exit_code == 0, done.output
    done = run.invoke(app, ["get", index, "--ids", ",".join(names[:4])])
    assert [json.loads(line)["id"] for line in done.output.splitlines()] == [names[3]]
    erased = ["verify", index, "--erased", str(tmp_path / "gone.txt"), "-q"]
    assert run.invoke(app, erased).exit_code == 1
    teravec.compact(index, purge=True)
    assert run.invoke(app, erased).exit_code == 0
    done = run.invoke(app, ["get", index, "--ids", "no-uuid"])
    assert done.exit_code == 2


def test_other_kinds_of_ids_are_refused(tmp_path: Path) -> None:
    index, plain = tmp_path / "index", tmp_path / "plain"
    table = table_of("text", 0, 200)
    teravec.build(table, index, **OPTIONS)
    with pytest.raises(InvalidArgument, match="ids are texts, others found"):
        teravec.delete(index, [1, 2])
    with pytest.raises(InvalidArgument, match="ids that are texts, of column 'key'"):
        teravec.add(index, table, id_column="n")
    with pytest.raises(InvalidSource, match="occurs twice"):
        teravec.add(index, pa.concat_tables([table[:3], table[:1]]))
    with pytest.raises(InvalidSource, match="occur more than once"):
        teravec.build(pa.concat_tables([table, table[:1]]), tmp_path / "twice", **OPTIONS)
    holed = pa.array([None, *KINDS["text"][1][1:200]])
    with pytest.raises(InvalidSource, match="null id"):
        teravec.build(table.set_column(2, "key", holed), tmp_path / "holed", **OPTIONS)
    with pytest.raises(InvalidSource, match="a table of attributes beside them"):
        teravec.build(table, tmp_path / "both", attributes=table.select(["n"]), **OPTIONS)
    numbers = table.set_column(2, "key", pa.array(np.arange(200)))
    teravec.build(numbers, plain, **OPTIONS)
    with pytest.raises(InvalidArgument, match="has numbers as ids"):
        teravec.add(plain, table)


class Weak:
    """A digest of which the half that becomes the number tells first letters apart only."""

    def __init__(self, data: bytes, digest_size: int) -> None:
        self._data = data

    def digest(self) -> bytes:
        """Return 16 bytes."""
        return self._data[:1].ljust(8) + self._data[-8:].rjust(8)


def test_a_text_never_replaces_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teravec.storage.text_ids.blake2b", Weak)
    index = tmp_path / "index"

    def table(*ids: str) -> Any:
        rows = table_of("text", 0, len(ids))
        return rows.set_column(2, "key", pa.array(ids))

    teravec.build(table("apple", "banana", "cherry"), index, **(OPTIONS | {"nlist": 1}))
    with pytest.raises(InvalidSource, match="'banana' of the index and another id given now"):
        teravec.add(index, table("date", "berry"))
    with pytest.raises(InvalidSource, match="'apple' of the index"):
        teravec.delete(index, ["apricot"])
    with teravec.open(index) as opened:
        assert opened.get(["apricot", "apple"])["id"].to_pylist() == ["apple"]
        assert opened.version == 0
    teravec.add(index, table("date", "banana"))
    with pytest.raises(InvalidSource, match="'date' of the index"):
        teravec.add(index, table("dill"), append=True)
