"""Columns and streams as pandas, polars, datasets, Ray Data and DuckDB write them."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from teravec.errors import InvalidSource
from teravec.sources import open_source

from .writers import random_matrix, table

N, D = 37, 6
X = random_matrix(N, D, "f4")
ROWS: list[Any] = X.astype(int).tolist()
IDS = np.arange(N) * 7 + 3


def write_file(path: Path, rows: pa.Table, **options: Any) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, rows.schema, **options) as out:
        out.write_table(rows, max_chunksize=10)


def write_stream(path: Path, rows: pa.Table, **options: Any) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, rows.schema, **options) as out:
        out.write_table(rows, max_chunksize=10)


def compressed(path: Path, rows: pa.Table) -> None:
    write_stream(path, rows, options=pa.ipc.IpcWriteOptions(compression="zstd"))


Writer = Callable[[Path, pa.Table], None]
WRITERS: dict[str, tuple[str, Writer]] = {
    "parquet": (".parquet", lambda path, rows: pq.write_table(rows, path, row_group_size=10)),
    "file": (".arrow", write_file),
    "stream": (".arrow", write_stream),
    "compressed": (".arrows", compressed),
}


@pytest.fixture(params=WRITERS)
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    extension, writer = WRITERS[request.param]

    def write(**columns: Any) -> Path:
        path = tmp_path / f"x{extension}"
        writer(path, pa.table(columns))
        return path

    return write


def holds_x(path: Path, **options: Any) -> None:
    source = open_source(path, **options)
    assert (source.ntotal, source.d) == (N, D)
    for start, stop in ((0, N), (9, 21), (30, 31), (3, 8), (20, 30)):
        np.testing.assert_array_equal(source.read(start, stop), X[start:stop])
    np.testing.assert_array_equal(source.take(np.arange(1, N, 5)), X[1::5])


def refuses(path: Path, match: str, **options: Any) -> None:
    with pytest.raises(InvalidSource, match=match) as caught:
        open_source(path, **options).read(0, N)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def fixed() -> Any:
    return table(X).column("v").combine_chunks()


def tensor(*shape: int) -> Any:
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), shape), fixed())


@pytest.mark.parametrize("value", [pa.int16(), pa.int32(), pa.int64(), pa.float64()])
@pytest.mark.parametrize("of", [pa.list_, pa.large_list, lambda kind: pa.list_(kind, D)])
def test_lists_of_numbers(of: Any, value: Any, write: Callable[..., Path]) -> None:
    path = write(v=pa.array(ROWS, of(value)))
    holds_x(path)
    assert open_source(path).dtype == np.dtype(value.to_pandas_dtype())


@pytest.mark.parametrize("value", [pa.uint16(), pa.uint32(), pa.uint64()])
def test_unsigned(value: Any, tmp_path: Path) -> None:
    x = random_matrix(N, D, "u8")
    pq.write_table(pa.table({"v": pa.array(x.tolist(), pa.list_(value))}), tmp_path / "x.parquet")
    np.testing.assert_array_equal(open_source(tmp_path).read(0, N), x)


@pytest.mark.parametrize("view", [pa.list_view, pa.large_list_view])
def test_views_of_lists(view: Any, tmp_path: Path) -> None:
    """Rows of a view may lie in any order, and share values."""
    values = pa.array(X[::-1].ravel())
    large = view is pa.large_list_view
    of, width = (pa.LargeListViewArray, pa.int64()) if large else (pa.ListViewArray, pa.int32())
    places, sizes = pa.array(np.arange(N)[::-1] * D, width), pa.array([D] * N, width)
    rows = of.from_arrays(places, sizes, values)
    assert rows.type == view(pa.float32())
    for writer in (write_file, write_stream):
        writer(tmp_path / "x.arrow", pa.table({"v": rows}))
        holds_x(tmp_path / "x.arrow")


@pytest.mark.parametrize("shape", [(D,), (1, D), (D, 1), (1, D, 1)])
def test_tensors_of_one_dimension(shape: tuple[int, ...], write: Callable[..., Path]) -> None:
    holds_x(write(v=tensor(*shape)))


def test_a_matrix_in_each_row_is_refused(write: Callable[..., Path]) -> None:
    path = write(v=tensor(2, 3))
    refuses(path, r"a tensor of shape \(2, 3\) is no vector: reshape it to \(6,\)")
    refuses(path, "reshape it", vector_column="v")


class Array2D(pa.ExtensionType):  # type: ignore[misc]
    """As `datasets` has it: nested lists, with the shape in the metadata."""

    def __init__(self) -> None:
        super().__init__(pa.list_(pa.list_(pa.float32())), "datasets.Array2DExtensionType")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"[[1, 6], float32]"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: Any, serialized: bytes) -> Array2D:
        return cls()


def test_extension_that_is_not_known_here(write: Callable[..., Path]) -> None:
    nested = pa.array([[row] for row in X.tolist()], pa.list_(pa.list_(pa.float32())))
    holds_x(write(v=pa.ExtensionArray.from_storage(Array2D(), nested)))


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.list_(pa.float32())),
        pa.list_(pa.list_(pa.float32(), D), 1),
        pa.list_(pa.list_(pa.list_(pa.float64()))),
    ],
)
def test_a_list_that_holds_the_vector(kind: Any, write: Callable[..., Path]) -> None:
    rows = [[row] for row in ROWS]
    if kind == pa.list_(pa.list_(pa.list_(pa.float64()))):
        rows = [[row] for row in rows]
    path = write(v=pa.array(rows, kind), plain=fixed())
    holds_x(path, vector_column="v")
    holds_x(path)  # the plain column is the vector column, not the nested one
    holds_x(write(v=pa.array(rows, kind)))


def test_vectors_in_a_dictionary(tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(N)
    keys = pa.array(np.argsort(order), pa.int32())
    rows = pa.DictionaryArray.from_arrays(keys, fixed().take(pa.array(order)))
    for writer in (write_file, write_stream):
        writer(tmp_path / "x.arrow", pa.table({"v": rows}))
        holds_x(tmp_path / "x.arrow")


def test_several_vectors_in_a_row(write: Callable[..., Path]) -> None:
    rows = [[row] for row in ROWS]
    rows[23] = [ROWS[0], ROWS[1]]
    refuses(write(v=pa.array(rows)), "row 23 holds 2 vectors, expected 1; .*a row of its own")


def test_fields_of_structs(write: Callable[..., Path]) -> None:
    inner = pa.StructArray.from_arrays([fixed(), pa.array(IDS)], ["values", "id"])
    path = write(
        n=pa.array(range(N)),
        e=inner,
        **{"e.own": pa.array(IDS)},
        deep=pa.StructArray.from_arrays([inner], ["down"]),
    )
    refuses(path, "name the field to read: --vector-column e.values")
    for name in ("e.values", "deep.down.values"):
        holds_x(path, vector_column=name)
    for name in ("e.id", "deep.down.id", "e.own"):
        source = open_source(path, id_column=name, vector_column="e.values")
        np.testing.assert_array_equal(source.read_ids(8, 33), IDS[8:33])
    refuses(
        path,
        r"columns n, e, e.own, deep \(with fields e.values, e.id, deep.down.*'e.vectors'",
        vector_column="e.vectors",
    )
    assert open_source(path, vector_column="e.values").describe()["files"][0]["vector_column"] == (
        "e.values"
    )


def test_a_null_struct_is_a_null_vector(write: Callable[..., Path]) -> None:
    mask = np.arange(N) == 17
    inner = pa.StructArray.from_arrays([fixed()], ["values"], mask=pa.array(mask))
    refuses(write(e=inner), "row 17 has a null vector", vector_column="e.values")


@pytest.mark.parametrize(
    "ids",
    [
        pa.array(IDS).dictionary_encode(),
        pa.array([Decimal(int(i)) for i in IDS]),
        pa.array(IDS).cast(pa.decimal128(38, 0)),
        pa.array(IDS, pa.uint16()),
        pa.array(IDS).cast(pa.decimal128(20, 0)).dictionary_encode(),
    ],
    ids=lambda ids: str(ids.type),
)
def test_kinds_of_ids(ids: Any, write: Callable[..., Path]) -> None:
    source = open_source(write(v=fixed(), id=ids), id_column="id")
    np.testing.assert_array_equal(source.read_ids(0, N), IDS)
    np.testing.assert_array_equal(source.read_ids(11, 25), IDS[11:25])


def test_ids_in_runs(tmp_path: Path) -> None:
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([20, N], pa.int32()), pa.array([4, 9]))
    for writer in (write_file, write_stream):
        writer(tmp_path / "x.arrow", pa.table({"id": runs, "v": fixed()}))
        source = open_source(tmp_path, id_column="id")
        assert source.read_ids(15, 25).tolist() == [4] * 5 + [9] * 5
        holds_x(tmp_path / "x.arrow")


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        (IDS + 0.0, "of type double found.*cast it: id.astype"),
        ([b"u%d" % i for i in IDS], "of type binary found.*leave out --id-column.*join by row"),
        (pa.array([Decimal("1.5")] * N), "of type decimal.* found"),
    ],
)
def test_ids_that_are_no_integers(ids: Any, match: str, write: Callable[..., Path]) -> None:
    refuses(write(v=fixed(), id=ids), match, id_column="id")


def test_decimal_ids_that_are_too_large(write: Callable[..., Path]) -> None:
    ids = [Decimal(i) for i in range(N)]
    ids[19] = Decimal(2**63)
    path = write(v=fixed(), id=pa.array(ids, pa.decimal128(38, 0)))
    with pytest.raises(InvalidSource, match="row 19 has id 9223372036854775808, expected less"):
        open_source(path, id_column="id").read_ids(0, N)


@pytest.mark.parametrize(
    ("column", "hint"),
    [
        ([str(row) for row in ROWS], r"CAST\(column AS FLOAT\[\]\)"),
        ([row.tobytes() for row in X], "np.frombuffer"),
        ([["a"]] * N, "cast its elements"),
    ],
)
def test_how_to_convert(column: Any, hint: str, write: Callable[..., Path]) -> None:
    refuses(write(v=column), hint)
    refuses(write(v=column, other=pa.array(range(N))), hint, vector_column="v")


def test_a_column_for_each_dimension(tmp_path: Path) -> None:
    pd.DataFrame(X, columns=[f"x{i}" for i in range(D)]).to_parquet(tmp_path / "x.parquet")
    refuses(tmp_path / "x.parquet", r"one column a dimension is saved as np.save\('x.npy', df.se")


def test_token_numbers_beside_the_vectors(write: Callable[..., Path]) -> None:
    holds_x(write(input_ids=pa.array([[1, 2, 3]] * N), v=fixed(), parts=pa.array([[[1.0]]] * N)))
    refuses(write(a=pa.array(ROWS), b=pa.array(ROWS)), "vector columns a, b found, expected one")


def test_two_vector_columns(write: Callable[..., Path]) -> None:
    path = write(a=fixed(), b=fixed())
    refuses(path, "vector columns a, b found, expected one; .*--vector-column a")


def test_many_columns_in_a_message(write: Callable[..., Path]) -> None:
    path = write(**{f"c{i}": pa.array(["a"] * N) for i in range(200)})
    with pytest.raises(InvalidSource, match=r"c49 and 150 more found.*'v'") as caught:
        open_source(path, vector_column="v")
    assert len(str(caught.value)) < 600
    with pytest.raises(InvalidSource, match=r"c9 \(string\) and 190 more found"):
        open_source(path)


# Every type that a column before the vectors may have: its buffers are passed over.
OTHERS = {
    "null": pa.nulls(N),
    "bool": pa.array([True, None] * 18 + [False]),
    "string": pa.array([f"text {i}" for i in range(N)]),
    "large": pa.array([f"text {i}" for i in range(N)], pa.large_string()),
    "view": pa.array(
        [f"a text that is longer than twelve {i}" for i in range(N)], pa.string_view()
    ),
    "bytes": pa.array([b"12"] * N, pa.binary(2)),
    "words": pa.array([["a", None, "b" * i] for i in range(N)]),
    "list_view": pa.array(ROWS, pa.list_view(pa.int32())),
    "map": pa.array([[("k", i)] for i in range(N)], pa.map_(pa.string(), pa.int32())),
    "struct": pa.array([{"a": i, "b": [str(i)]} if i % 3 else None for i in range(N)]),
    "kinds": pa.array(["x", "y"] * 18 + ["z"]).dictionary_encode(),
    "when": pa.array([pd.Timestamp("2026-01-01")] * N),
    "dense": pa.UnionArray.from_dense(
        pa.array([0, 1] * 18 + [0], pa.int8()),
        pa.array([i // 2 for i in range(N)], pa.int32()),
        [pa.array(range(N)), pa.array(["u"] * N)],
    ),
    "sparse": pa.UnionArray.from_sparse(pa.array([0] * N, pa.int8()), [pa.array(range(N))]),
    "runs": pa.RunEndEncodedArray.from_arrays(pa.array([N], pa.int32()), pa.array(["r"])),
}


@pytest.mark.parametrize("writer", [write_file, write_stream])
def test_other_columns_are_passed_over(writer: Writer, tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    for name, column in OTHERS.items():
        writer(path, pa.table({name: column, "v": fixed(), "id": IDS}))
        holds_x(path, vector_column="v")
        assert open_source(path, vector_column="v", id_column="id").read_ids(5, 9).tolist() == (
            IDS[5:9].tolist()
        )
    # Slices of a dense union do not fit all others' in one table; pyarrow cuts it by itself.
    writer(path, pa.table({**OTHERS, "v": fixed()}))
    holds_x(path, vector_column="v")


@pytest.mark.parametrize("codec", [None, "lz4", "zstd"])
@pytest.mark.parametrize("is_free", [False, True])
@pytest.mark.parametrize("writer", [write_file, write_stream])
def test_a_batch_larger_than_the_pieces_it_is_read_in(
    writer: Writer, is_free: bool, codec: str | None, tmp_path: Path
) -> None:
    x = np.random.default_rng(3).standard_normal((60_000, 128)).astype("f4")
    whole = table(x, fixed=not is_free, ids=np.arange(len(x)))
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink:
        make = pa.ipc.new_file if writer is write_file else pa.ipc.new_stream
        with make(sink, whole.schema, options=options) as out:
            out.write_batch(whole.combine_chunks().to_batches()[0])
    source = open_source(tmp_path, id_column="id")
    before, peak = pa.total_allocated_bytes(), 0
    for start in range(0, len(x), 7_001):
        rows = source.read(start, min(len(x), start + 7_001))
        np.testing.assert_array_equal(rows, x[start : start + 7_001])
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert peak < x.nbytes // 8
    for start in (59_990, 17, 30_001):  # back and forth
        assert source.read_ids(start, start + 9).tolist() == list(range(start, start + 9))
        np.testing.assert_array_equal(source.read(start, start + 9), x[start : start + 9])


def test_lists_with_nulls_in_other_rows_are_read_by_pieces(tmp_path: Path) -> None:
    rows: list[Any] = [[float(i), None] if i == 25 else [float(i), 1.0] for i in range(N)]
    rows[30] = None
    write_stream(tmp_path / "x.arrow", pa.table({"v": pa.array(rows, pa.list_(pa.float32()))}))
    source = open_source(tmp_path)
    assert source.read(0, 20)[:, 0].tolist() == list(range(20))
    with pytest.raises(InvalidSource, match=r"row 25 holds a null value.*--skip-bad"):
        source.read(20, 30)
    with pytest.raises(InvalidSource, match=r"row 30 has a null vector.*--skip-bad"):
        source.read(30, N)


def test_streams_end_in_several_ways(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    write_stream(path, pa.table({"v": fixed()}))
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])  # a writer that was not closed
    holds_x(path)
    path.write_bytes(whole + b"left over")
    holds_x(path)
    for cut in (9, 100, 600):
        path.write_bytes(whole[:-cut])
        refuses(path, "the stream is cut off or damaged at byte")
    path.write_bytes(b"")
    refuses(path, "0 bytes found, expected an Arrow file or stream")


def test_old_streams_have_no_continuation(tmp_path: Path) -> None:
    options = pa.ipc.IpcWriteOptions(use_legacy_format=True)
    write_stream(tmp_path / "x.arrow", pa.table({"v": fixed()}), options=options)
    holds_x(tmp_path / "x.arrow")


def test_a_stream_without_rows(tmp_path: Path) -> None:
    write_stream(tmp_path / "a.arrow", table(X[:0]))
    write_stream(tmp_path / "b.arrow", table(X))
    assert [part.n for part in open_source(tmp_path).files] == [0, N]


def test_dictionaries_that_grow_within_a_stream(tmp_path: Path) -> None:
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    schema = pa.schema({"id": pa.dictionary(pa.int32(), pa.int64()), "v": fixed().type})
    with (
        pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, schema, options=options) as out,
    ):
        for start, stop in ((0, 10), (10, 20), (20, N)):
            keys = pa.array(range(start, stop), pa.int32())
            ids = pa.DictionaryArray.from_arrays(keys, pa.array(IDS[:stop]))
            out.write_batch(pa.record_batch([ids, fixed()[start:stop]], schema=schema))
    source = open_source(tmp_path, id_column="id")
    np.testing.assert_array_equal(source.read_ids(25, N), IDS[25:])
    np.testing.assert_array_equal(source.read_ids(0, N), IDS)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    inside = pa.StructArray.from_arrays([fixed()], ["values"])
    for name in (b"outer", b"values"):
        write_stream(path, pa.table({"outer": inside}))
        path.write_bytes(path.read_bytes().replace(name, b"\xfe" + name[1:]))
        for column in (None, "outer.values"):
            refuses(path, "not a sound file of its format", vector_column=column)


@pytest.mark.parametrize("writer", [write_file, write_stream, compressed])
def test_damage_never_escapes_untyped(writer: Writer, tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    writer(path, pa.table({"s": OTHERS["words"], "v": pa.array(X.tolist()), "id": IDS}))
    sound = path.read_bytes()
    rng = np.random.default_rng(2)
    refused = 0
    for _ in range(200):
        damaged = bytearray(sound)
        damaged[rng.integers(len(sound))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            source = open_source(path, vector_column="v", id_column="id")
            stop = min(source.ntotal, 1000)
            source.read(0, stop)
            source.read_ids(0, stop)
        except InvalidSource as error:
            refused += 1
            assert str(path) in str(error)  # noqa: PT017
    assert refused > 10


def test_feather_version_1(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="V1"):
        feather.write_feather(pd.DataFrame({"a": range(5)}), str(tmp_path / "x.feather"), version=1)
    refuses(tmp_path / "x.feather", "Feather version 1 found.*convert it: feather.write_feather")


FRAME = {"v": [row.tolist() for row in X], "id": IDS.tolist()}


def _polars(write: str, **options: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        array = pl.Series("v", X, dtype=pl.Array(pl.Float32, D))
        getattr(pl.DataFrame([array, pl.Series("id", IDS)]), write)(path, **options)

    return make


def _duckdb(path: Path) -> None:
    frame = pd.DataFrame(FRAME)
    assert len(frame)
    duckdb.sql(f"COPY (SELECT CAST(v AS FLOAT[{D}]) v, id FROM frame) TO '{path}' (FORMAT parquet)")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("p.parquet", lambda path: pd.DataFrame(FRAME).to_parquet(path)),
        ("p.feather", lambda path: pd.DataFrame(FRAME).to_feather(path)),
        ("s.arrow", _polars("write_ipc_stream")),
        ("f.ipc", _polars("write_ipc")),
        ("z.ipc", _polars("write_ipc", compression="zstd")),
        ("q.pq", _polars("write_parquet")),
        ("l.arrows", lambda path: pl.DataFrame(FRAME).write_ipc_stream(path, compression="lz4")),
        ("d.parquet", _duckdb),
    ],
)
def test_what_others_write(name: str, make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / name)
    holds_x(tmp_path / name)
    source = open_source(tmp_path, id_column="id")
    np.testing.assert_array_equal(source.read_ids(0, N), IDS)
