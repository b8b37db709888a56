"""Vectors in every form that databases keep them in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from teravec.errors import InvalidSource
from teravec.sources.databases.decoding import RowDecoder, choose_vector_column

N, D = 7, 3
X = (np.arange(N * D).reshape(N, D) / 4 - 2).astype(np.float32)
IDS = list(range(10, 10 + N))


def pgvector(x: np.ndarray, dtype: str) -> list[bytes]:
    head = np.array([x.shape[1], 0], ">i2").tobytes()
    return [head + row.astype(dtype).tobytes() for row in x]


def opaque(rows: list[bytes], name: str) -> pa.Array:
    kind = pa.opaque(pa.binary(), name, "PostgreSQL")
    return pa.ExtensionArray.from_storage(kind, pa.array(rows, pa.binary()))


FORMS: dict[str, Any] = {
    "vector": lambda x: opaque(pgvector(x, ">f4"), "vector"),
    "halfvec": lambda x: opaque(pgvector(x, ">f2"), "halfvec"),
    "bytes": lambda x: pa.array([row.tobytes() for row in x]),
    "large bytes": lambda x: pa.array([row.tobytes() for row in x], pa.large_binary()),
    "fixed bytes": lambda x: pa.array([row.tobytes() for row in x], pa.binary(4 * D)),
    "real[]": lambda x: pa.array(x.tolist(), pa.list_(pa.float32())),
    "float8[]": lambda x: pa.array(x.tolist(), pa.list_(pa.float64())),
    "float[3]": lambda x: pa.array(x.tolist(), pa.list_(pa.float32(), D)),
    "text": lambda x: pa.array([str(row) for row in x.tolist()]),
    "json": lambda x: pa.array([str(row) for row in x.tolist()], pa.json_()),
}


def decoder(batch: pa.RecordBatch, *, lenient: bool = False, key: str | None = "id") -> RowDecoder:
    names = {f.name: f.type.type_name for f in batch.schema if hasattr(f.type, "type_name")}
    column = choose_vector_column(batch.schema, names, "v", "float32", "db")
    made = RowDecoder(column, "id", key, "db", lenient=lenient)
    made.find_dimension(batch)
    return made


def batch_of(form: str, x: np.ndarray = X) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(IDS[: len(x)]), FORMS[form](x)], ["id", "v"])


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_vectors(form: str) -> None:
    batch = batch_of(form)
    made = decoder(batch)
    for part, start in ((batch, 0), (batch.slice(2, 3), 2), (batch.slice(6), 6)):
        rows = made.decode(part)
        assert np.array_equal(rows.vectors, X[start : start + part.num_rows])
        assert rows.ids is not None
        assert rows.ids.tolist() == IDS[start : start + part.num_rows]
    assert made.d == D


@pytest.mark.parametrize("form", FORMS)
def test_a_null_and_another_length_are_errors_that_name_the_key(form: str) -> None:
    batch = batch_of(form)
    values = batch.column(1)
    storage = values.storage if isinstance(values, pa.ExtensionArray) else values
    rows = storage.to_pylist()
    broken = {"null": None}
    if form not in ("fixed bytes", "float[3]"):
        short = FORMS[form](X[:1, :2])
        broken["of 2 dimensions"] = getattr(short, "storage", short).to_pylist()[0]
    for what, value in broken.items():
        changed = pa.array([*rows[:4], value, *rows[5:]], storage.type)
        if isinstance(values, pa.ExtensionArray):
            changed = pa.ExtensionArray.from_storage(values.type, changed)
        bad = pa.RecordBatch.from_arrays([batch.column(0), changed], ["id", "v"])
        with pytest.raises(InvalidSource, match=f"id = 14 holds .*{what}"):
            decoder(bad).decode(bad)
        found = decoder(bad, lenient=True).decode(bad)
        assert (found.bad, found.keys) == (1, ("id = 14",))
        assert np.isnan(found.vectors[4]).all()
        assert np.array_equal(np.delete(found.vectors, 4, 0), np.delete(X, 4, 0))


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ([[1.0, None, 2.0]], "no vector"),
        ([[1.0, np.nan, 2.0]], "NaN or infinity"),
        ([[1.0, 1e300, 2.0]], "NaN or infinity"),
        ([[]], "0 dimensions"),
    ],
)
def test_bad_items(values: list, what: str) -> None:
    array = pa.array([*X.tolist(), *values], pa.list_(pa.float64()))
    ids = pa.array([*IDS, 99])
    batch = pa.RecordBatch.from_arrays([ids, array], ["id", "v"])
    with pytest.raises(InvalidSource, match=f"id = 99 holds .*{what}"):
        decoder(batch).decode(batch)
    assert np.isnan(decoder(batch, lenient=True).decode(batch).vectors[-1]).all()


@pytest.mark.parametrize("text", ["[1,2", "1", "{}", '["a",1,2]', "[1,2,3]]", "NaN", ""])
def test_text_that_is_no_array(text: str) -> None:
    texts = pa.array(["[1,2,3]", text, "[4,5,6]"])
    batch = pa.RecordBatch.from_arrays([pa.array([1, 2, 3]), texts], ["id", "v"])
    made = decoder(batch, lenient=True)
    assert made.decode(batch).keys == ("id = 2",)
    with pytest.raises(InvalidSource, match=r"id = 2.* as \[1,2,3\] expected"):
        decoder(batch)


def test_ids() -> None:
    for ids, message in (([1, None], "id = null"), ([1, -4], "id = -4")):
        batch = pa.RecordBatch.from_arrays([pa.array(ids), pa.array(X[:2].tolist())], ["id", "v"])
        with pytest.raises(InvalidSource, match=message):
            decoder(batch).decode(batch)
    batch = pa.RecordBatch.from_arrays([pa.array(["a"]), pa.array(X[:1].tolist())], ["id", "v"])
    with pytest.raises(InvalidSource, match="whole numbers expected"):
        decoder(batch).decode(batch)


def test_half_floats_as_bytes() -> None:
    column = choose_vector_column(pa.schema([("v", pa.binary())]), {}, None, "float16", "db")
    made = RowDecoder(column, None, None, "db", lenient=False)
    batch = pa.record_batch({"v": [row.tobytes() for row in X.astype("<f2")]})
    made.find_dimension(batch)
    assert np.array_equal(made.decode(batch).vectors, X)


def test_the_likeliest_column_is_chosen() -> None:
    many = pa.schema([("t", pa.string()), ("b", pa.binary()), ("v", pa.list_(pa.float32()))])
    assert choose_vector_column(many, {}, None, "float32", "db").name == "v"
    assert choose_vector_column(many.remove(2), {}, None, "float32", "db").name == "b"
    both = pa.schema([("a", pa.binary()), ("b", pa.binary())])
    with pytest.raises(InvalidSource, match="a, b may all hold vectors"):
        choose_vector_column(both, {}, None, "float32", "db")
    with pytest.raises(InvalidSource, match="one with vectors expected"):
        choose_vector_column(pa.schema([("a", pa.int64())]), {}, None, "float32", "db")
    sparse = pa.schema([("s", pa.opaque(pa.binary(), "sparsevec", "PostgreSQL"))])
    with pytest.raises(InvalidSource, match=r"s \(sparsevec\) found"):
        choose_vector_column(sparse, {"s": "sparsevec"}, "s", "float32", "db")
