"""Vectors in memory as sources: whatever holds them, they are read as a file of them would be."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pytest

from teravec.errors import InvalidArgument, InvalidSource
from teravec.sources import Source, Weights, open_data, open_source, reopen

from .writers import random_matrix, write_npy

N, D = 300, 8
X = random_matrix(N, D, "f4")
IDS = np.random.default_rng(1).permutation(N) * 5


class Arrayed:
    """What has `__array__` only, with the signature of before NumPy 2."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __array__(self, dtype: Any = None) -> np.ndarray:
        return self._array


class Interfaced:
    """What has `__array_interface__` only."""

    def __init__(self, array: np.ndarray) -> None:
        self._array, self.__array_interface__ = array, array.__array_interface__


class OnDisk:
    """A matrix that is not in memory, as of HDF5: rows by slices, and never all of them."""

    def __init__(self, array: np.ndarray) -> None:
        self._array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, 2

    def __getitem__(self, key: slice) -> np.ndarray:
        return self._array[key].copy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise MemoryError("read whole")


class Packed:
    """What has `__dlpack__` only."""

    def __init__(self, array: np.ndarray, device: tuple[int, int] = (1, 0)) -> None:
        self._array, self._device = array, device

    def __dlpack__(self, **options: Any) -> Any:
        if self._device[0] != 1:
            raise BufferError("not on the host")
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device


class Tensor:
    """What PyTorch's tensors are to us: rows by slices, on the host only after `cpu`."""

    def __init__(self, array: np.ndarray, dtype: str = "torch.float32", at: str = "cuda") -> None:
        self._array, self.dtype, self.at = array, dtype, at
        self.shape, self.ndim = array.shape, array.ndim

    def __getitem__(self, key: Any) -> Tensor:
        return Tensor(self._array[key], self.dtype, self.at)

    def detach(self) -> Tensor:
        return Tensor(self._array, self.dtype, self.at)

    def cpu(self) -> Tensor:
        return Tensor(self._array, self.dtype, "cpu")

    def float(self) -> Tensor:
        return Tensor(self._array.astype(np.float32), "torch.float32", self.at)

    def numpy(self) -> np.ndarray:
        if self.at != "cpu" or self.dtype == "torch.bfloat16":
            raise TypeError("can't convert")
        return self._array


class DataSet:
    """What Hugging Face's data sets are to us: batches of a format, of the rows selected."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def with_format(self, kind: str) -> DataSet:
        assert kind == "arrow"
        return self

    def iter(self, batch_size: int) -> Iterator[Any]:
        return (self._table[i : i + batch_size] for i in range(0, len(self._table), batch_size))

    def __iter__(self) -> Iterator[Any]:
        yield from self._table.to_pylist()

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, key: Any) -> Any:
        return self._table[key]


TABLE = pa.table(
    {
        "id": IDS,
        "text": ["word"] * N,
        "v": pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), D),
    }
)
FRAME = pd.DataFrame({"text": ["word"] * N, "id": IDS, "v": list(X)})

HELD: dict[str, Callable[[], Any]] = {
    "C order": lambda: X,
    "Fortran order": lambda: np.asfortranarray(X),
    "strided": lambda: np.repeat(np.repeat(X, 3, axis=0), 2, axis=1)[::3, ::2],
    "reversed": lambda: X[::-1].copy()[::-1],
    "big-endian": lambda: X.astype(">f4"),
    "float64": lambda: X.astype("f8"),
    "long double": lambda: X.astype(np.longdouble),
    "read-only": lambda: np.frombuffer(X.tobytes(), "f4").reshape(N, D),
    "lists": X.tolist,
    "tuples": lambda: tuple(map(tuple, X.tolist())),
    "rows": lambda: list(X),
    "object array of rows": lambda: FRAME["v"].to_numpy(),
    "arrays": lambda: [X[:7], X[7:7], X[7:100], X[100:]],
    "__array__": lambda: Arrayed(X),
    "__array_interface__": lambda: Interfaced(X),
    "__dlpack__": lambda: Packed(X),
    "matrix on a disk": lambda: OnDisk(X),
    "tensor": lambda: Tensor(X),
    "tensors": lambda: [Tensor(X[:9]), Tensor(X[9:])],
    "mapping": lambda: {"v": X},
    "Arrow table": lambda: TABLE,
    "Arrow table in chunks": lambda: pa.concat_tables([TABLE[:11], TABLE[11:13], TABLE[13:]]),
    "Arrow tables": lambda: [TABLE[:11], TABLE[11:]],
    "record batch": lambda: TABLE.to_batches()[0],
    "Arrow array": lambda: TABLE["v"].combine_chunks(),
    "Arrow column": lambda: TABLE["v"],
    "pandas arrays": lambda: FRAME,
    "pandas lists": lambda: FRAME.assign(v=[row.tolist() for row in X]),
    "pandas of Arrow": lambda: TABLE.to_pandas(types_mapper=pd.ArrowDtype),
    "pandas rows of another order": lambda: FRAME[::-1].iloc[::-1],
    "pandas series": lambda: FRAME["v"],
    "polars array": lambda: pl.from_arrow(TABLE),
    "polars list": lambda: pl.DataFrame({"v": X.tolist()}),
    "polars series": lambda: pl.DataFrame(TABLE)["v"],
}


@pytest.mark.parametrize("kind", HELD)
def test_held_data_read_as_their_rows(kind: str) -> None:
    source = open_data(HELD[kind]())
    assert (source.ntotal, source.d, source.has_ids, source.is_held) == (N, D, False, True)
    assert np.array_equal(source.read(0, N), X)
    assert np.array_equal(source.read(5, 17), X[5:17])
    rows = np.array([0, 3, 4, 99, 150, N - 1])
    assert np.array_equal(source.take(rows), X[rows])
    blocks = list(source.blocks(0, N, 64))
    assert np.array_equal(np.concatenate([block.vectors for block in blocks]), X)
    assert np.array_equal(np.concatenate([block.ids for block in blocks]), np.arange(N))
    assert reopen(source.opened_by) is source


def test_what_holds_the_numbers_does_not_matter_to_a_description() -> None:
    described = open_data(X).describe()
    for kind, make in HELD.items():
        found = open_data(make()).describe()
        assert found["files"][0]["fingerprint"] == described["files"][0]["fingerprint"], kind
        assert (found == described) == (found["dtype"] == "float32"), kind


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i2", ">u4", "i8", "f2", "?"])
def test_every_real_type(dtype: str) -> None:
    array = (np.abs(X) * 40).astype(dtype)
    source = open_data(array)
    assert np.array_equal(source.read(0, N), array.astype(np.float32))


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda: X, {"ids": IDS}),
        (lambda: X, {"ids": IDS.tolist()}),
        (lambda: X, {"ids": pd.Series(IDS)}),
        (lambda: X, {"ids": pa.array(IDS)}),
        (lambda: X, {"ids": IDS.astype(">u2")}),
        (lambda: [X[:9], X[9:]], {"ids": IDS}),
        (lambda: TABLE["v"], {"ids": IDS}),
        (lambda: TABLE, {"id_column": "id"}),
        (lambda: FRAME, {"id_column": "id", "vector_column": "v"}),
        (lambda: pl.from_arrow(TABLE), {"id_column": "id"}),
        (lambda: {"k": IDS, "v": X}, {"id_column": "k"}),
        (lambda: [(IDS[:9], X[:9]), (IDS[9:].tolist(), X[9:])], {}),
    ],
)
def test_ids(make: Callable[[], Any], options: dict[str, Any]) -> None:
    source = open_data(make(), **options)
    assert source.has_ids
    assert source.id_column is not None
    assert np.array_equal(source.read_ids(0, N), IDS)
    assert np.array_equal(source.read_ids(8, 20), IDS[8:20])
    assert source.describe()["files"] == open_data(X, ids=IDS).describe()["files"]


def test_other_numbers_or_ids_are_another_source() -> None:
    described = open_data(X, ids=IDS).describe()
    assert open_data(X.copy(), ids=IDS.copy()).is_described_by(described)
    changed = X.copy()
    changed[200, 3] += 1e-3
    nearly = X.astype("f8")
    nearly[7, 1] *= 1 + 1e-12  # the same in float32
    others = [
        open_data(nearly, ids=IDS),
        open_data(changed, ids=IDS),
        open_data(X, ids=IDS + 1),
        open_data(X),
        open_data(X[:-1], ids=IDS[:-1]),
        open_data(X.reshape(N * 2, D // 2)),
    ]
    assert not any(other.is_described_by(described) for other in others)


def test_a_file_of_the_same_vectors_is_the_same_source(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    write_npy(path, X)
    assert open_source(path).is_described_by(open_data(X).describe())
    assert not open_data(X).is_described_by(open_source(path).describe())


def test_a_memory_map_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    write_npy(path, X)
    mapped = np.load(path, mmap_mode="r")
    views = {"whole": mapped, "rows": mapped[20:90], "as array": np.asarray(mapped)[3:]}
    for name, view in views.items():
        source = open_data(view)
        assert source.files[0].path == path, name
        assert np.array_equal(source.read(0, len(view)), view), name
        assert source.describe() == open_data(view.copy()).describe()
    for view in (mapped[::2], mapped[:, 1:], mapped.T):  # not rows of the file
        source = open_data(view)
        assert np.array_equal(source.read(0, len(view)), view)
    private = np.load(path, mmap_mode="c")
    private[0] = 7  # in memory, never in the file
    assert np.array_equal(open_data(private).read(0, 1), np.full((1, D), 7))


def test_a_map_whose_file_is_gone_is_read_from_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    write_npy(path, X)
    mapped = np.load(path, mmap_mode="r")
    path.unlink()
    assert np.array_equal(open_data(mapped).read(0, N), X)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: np.asfortranarray(x),
        lambda x: x.astype("f8"),
        lambda x: pa.table(
            {"v": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])}
        ),
    ],
)
def test_nothing_is_copied_whole(make: Callable[[np.ndarray], Any]) -> None:
    x = np.ones((100_000, 64), np.float32)  # 25.6 MB
    held = make(x)
    tracemalloc.start()
    source = open_data(held)
    for _ in source.blocks(0, len(x), 2000):
        pass
    source.describe()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6


def test_a_slice_that_fails() -> None:
    class Broken(OnDisk):
        def __getitem__(self, key: slice) -> np.ndarray:
            if key.start:
                raise OSError("cannot read chunk 7")
            return super().__getitem__(key)

    with pytest.raises(InvalidSource, match="Broken that NumPy cannot read: cannot read chunk 7"):
        open_data(Broken(X)).read(5, 9)


def test_tensors_of_types_that_numpy_does_not_have() -> None:
    source = open_data(Tensor(X, "torch.bfloat16"))
    assert source.dtype == np.float32
    assert np.array_equal(source.read(3, 9), X[3:9])


REFUSED: dict[str, tuple[Any, str]] = {
    "one vector": (X[0], r"shape \(8,\) found.*X\[None, :\]"),
    "three dimensions": (X[None], r"shape \(1, 300, 8\) found.*reshape\(len\(X\), -1\)"),
    "complex": (X.astype("c8"), "complex64 found.*X.real"),
    "objects": (X.astype(object), "object found, real numbers expected; np.stack"),
    "text": (np.array([["a"]]), "<U1 found, real numbers expected"),
    "fields": (np.zeros(3, [("a", "f4")]), "real numbers expected"),
    "dates": (np.zeros((3, 2), "M8[s]"), "real numbers expected"),
    "masked": (np.ma.masked_array(X, X > 0), "masked array found; fill it"),
    "ragged lists": ([[1.0, 2.0], [3.0]], "row 1 holds 1 values, expected 2 as in row 0"),
    "number among rows": ([[1.0, 2.0], 3.0], "row 1 holds a number, expected 2"),
    "empty": (X[:0], "empty source: 0 rows found"),
    "nan": (np.where(np.arange(N)[:, None] == 7, np.nan, X), "row 7 .* holds nan in dimension 0"),
    "beyond float32": (np.full((3, 2), 1e300), "row 0 .* holds 1e.300 in dimension 0"),
    "number": (5, "int found; a path, an array"),
    "function": (len, "found; a path, an array"),
    "frame of dimensions": (pd.DataFrame(X), r"columns 0 \(float\), 1.*df.to_numpy\(\)"),
    "frame of text": (FRAME[["id", "text"]], r"columns id \(int64\), text \(.*expected"),
    "lazy frame": (pl.LazyFrame({"v": [[1.0]]}), r"LazyFrame found.*\.collect\(\)"),
    "null row": (pd.DataFrame({"v": [[1.0], None]}), "row 1 has a null vector"),
    "ragged frame": (pd.DataFrame({"v": [[1.0, 2.0], [3.0]]}), "row 1 holds 1 values"),
    "two columns": (pd.concat([FRAME, FRAME], axis=1), "two columns called 'text' found"),
    "two vector columns": (FRAME.assign(w=FRAME["v"]), "vector columns v, w found"),
    "mapping": ({"a": X, "b": X}, "columns a, b found; name one as vector_column="),
    "data sets": ({"train": DataSet(TABLE)}, r"data sets train found; give one, as X\['train'\]"),
    "device": (Packed(X, (2, 0)), r"Packed found.*X\.cpu\(\) or X\.get\(\)"),
    "data and labels": ([X[:3], np.arange(3)], "block 1 .* dimension 3 found, expected 8"),
    "set": ({"a.npy", "b.npy"}, "a set found, which has no order; give a list"),
    "bytes": (b"x.npy", "x.npy: no such file or directory"),
    "mixed": (["x.npy", X], "paths are mixed with arrays: element 0 is a path, element 1 is nda"),
}


def read_all(data: Any) -> np.ndarray:
    source = open_data(data)
    return source.read(0, source.ntotal)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind: str) -> None:
    data, match = REFUSED[kind]
    with pytest.raises(InvalidArgument, match=match) as caught:
        read_all(data)
    assert "\n" not in str(caught.value)


def test_none_is_no_data() -> None:
    with pytest.raises(InvalidArgument, match="data is None; a path, an array"):
        open_data(None)


def test_late_values_of_another_type_are_named() -> None:
    vectors = [[1.0, 2.0]] * 1200
    source = open_data(pd.DataFrame({"v": [*vectors, "text"]}))
    with pytest.raises(InvalidSource, match="column 'v' is not list<"):
        source.read(0, 1201)


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        (IDS[:-1], r"shape \(299,\) found, whole numbers of shape \(300,\) expected"),
        (IDS.astype("f8"), "ids of type float64"),
        (IDS.astype(str).tolist(), "ids of type <U"),
        (IDS - 1, r"row \d+ has id -1, 0 to"),
        (IDS.astype(np.uint64) + np.uint64(2**63), "has id 92.*, 0 to"),
        (np.r_[IDS[:-1], IDS[4]], f"id {IDS[4]} found at rows 4 and 299, each once"),
    ],
)
def test_ids_that_do_not_fit(ids: Any, match: str) -> None:
    with pytest.raises(InvalidArgument, match=match):
        open_data(X, ids=ids)


def test_columns_and_ids_where_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidSource, match="column 'id' is named, but ndarray has no columns"):
        open_data(X, id_column="id")
    with pytest.raises(InvalidArgument, match="ids and id_column given"):
        open_data(FRAME, id_column="id", ids=IDS)
    with pytest.raises(InvalidArgument, match="ids found beside the vectors, and ids= given"):
        open_data([(IDS, X)], ids=IDS)
    with pytest.raises(InvalidSource, match=r"columns text, id, v found.*called 'key'"):
        open_data(FRAME, id_column="key")
    write_npy(tmp_path / "x.npy", X)
    with pytest.raises(InvalidArgument, match="ids= is for data in memory, a path found"):
        open_data(tmp_path / "x.npy", ids=IDS)


def test_paths_stay_paths(tmp_path: Path) -> None:
    class Place:
        def __fspath__(self) -> str:
            return str(tmp_path / "b.npy")

    write_npy(tmp_path / "a.npy", X)
    write_npy(tmp_path / "b.npy", X + 1)
    both = np.concatenate([X, X + 1])
    for data in (
        [tmp_path / "a.npy", str(tmp_path / "b.npy")],
        (tmp_path / "a.npy", Place()),
        iter([tmp_path / "a.npy", Place()]),
        tmp_path,
        tmp_path / "*.npy",
    ):
        source = open_data(data)
        assert not source.is_held
        assert np.array_equal(source.read(0, 2 * N), both)
    assert np.array_equal(open_data(Place()).read(0, N), X + 1)


def test_streams_need_a_place() -> None:
    with pytest.raises(InvalidArgument, match="no place to spool it"):
        open_data(iter([X]))


STREAMS: dict[str, Callable[[], Any]] = {
    "generator": lambda: (X[i : i + 70] for i in range(0, N, 70)),
    "generator of vectors": lambda: iter(X),
    "iterable": lambda: dict.fromkeys(range(1), X).values(),
    "generator of lists": lambda: (X[i : i + 70].tolist() for i in range(0, N, 70)),
    "loader": lambda: ([X[i : i + 70]] for i in range(0, N, 70)),
    "empty batches": lambda: iter([X[:0], X[:5], X[5:5], X[5:]]),
    "generator of tables": lambda: (TABLE[i : i + 70] for i in range(0, N, 70)),
    "generator of frames": lambda: (FRAME[i : i + 70] for i in range(0, N, 70)),
    "generator of rows by name": lambda: ({"v": row} for row in X),
    "record batches": lambda: TABLE.to_reader(70),
    "DuckDB": lambda: duckdb.connect().from_arrow(TABLE),
    "data set of Hugging Face": lambda: DataSet(TABLE),
    "Arrow data set": lambda: pyarrow.dataset.dataset(TABLE),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_streams_are_spooled(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "x.spool"
    source = open_data(STREAMS[kind](), spool_path=place)
    assert not source.is_held
    assert np.array_equal(source.read(0, N), X)
    assert source.is_described_by(open_data(X).describe())
    assert [path.name for path in tmp_path.iterdir()] == ["x.spool"]


def test_weights_in_memory() -> None:
    given = np.arange(N, dtype=">f8")
    weights = Weights(given, N)
    assert weights.take(np.array([3, 5])).tolist() == [3, 5]
    assert weights.describe() == Weights(given.astype("f8"), N).describe()
    assert weights.describe() != Weights(given + 1, N).describe()
    with pytest.raises(InvalidSource, match="300 weights found, 299 expected"):
        Weights(given, N - 1)
    with pytest.raises(InvalidSource, match=r"shape \(300, 1\) found, \(ntotal,\) expected"):
        Weights(given[:, None], N)


def test_held_sources_are_never_sent() -> None:
    source = open_data(X)
    assert isinstance(source, Source)
    with pytest.raises(TypeError, match="spooled for other processes"):
        source.files[0].file.__reduce__()
