"""A source of several files behaves as one NumPy matrix."""

from __future__ import annotations

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teravec.errors import InvalidArgument
from teravec.sources import Source, open_source

from .writers import FORMATS, random_matrix, write_bin, write_npy, write_parquet, write_vecs


def write_files(folder: Path, files: list[tuple[str, int]], d: int) -> tuple[Source, np.ndarray]:
    """Write files of (format, rows); return them as a source and as a matrix."""
    paths, parts = [], []
    for number, (name, n) in enumerate(files):
        extension, dtype, write = FORMATS[name]
        paths.append(folder / f"{number}{extension}")
        parts.append(random_matrix(n, d, dtype))
        write(paths[-1], parts[-1])
    return open_source(paths), np.concatenate([part.astype(np.float32) for part in parts])


FILES = st.lists(
    st.tuples(
        st.sampled_from(["fvecs", "u8bin", "npy-f16", "parquet", "arrow"]), st.integers(1, 30)
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(FILES, st.integers(1, 9), st.data())
def test_equals_a_matrix(files: list[tuple[str, int]], d: int, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, x = write_files(Path(folder), files, d)
        n = source.ntotal
        assert x.shape == (n, source.d)
        for _ in range(4):
            start = data.draw(st.integers(0, n))
            stop = data.draw(st.integers(start, n))
            np.testing.assert_array_equal(source.read(start, stop), x[start:stop])
            np.testing.assert_array_equal(source.read_ids(start, stop), np.arange(start, stop))
            rows = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1)))), np.int64)
            np.testing.assert_array_equal(source.take(rows), x[rows])
        step = data.draw(st.integers(1, n + 1))
        blocks = list(source.blocks(start, stop, step))
        assert [block.start for block in blocks] == list(range(start, stop, step))
        for block in blocks:
            end = min(stop, block.start + step)
            np.testing.assert_array_equal(block.vectors, x[block.start : end])
            np.testing.assert_array_equal(block.ids, np.arange(block.start, end))


@pytest.mark.parametrize("name", ["fbin", "bvecs", "parquet"])
@pytest.mark.parametrize("every", [1, 2, 50, 3000])
def test_take_sparse_and_dense(name: str, every: int, tmp_path: Path) -> None:
    extension, dtype, write = FORMATS[name]
    x = random_matrix(20_000, 64, dtype)
    if name == "parquet":
        write_parquet(tmp_path / "x.parquet", x, rows=6000)
    else:
        write(tmp_path / f"x{extension}", x)
    rows = np.flatnonzero(np.random.default_rng(every).random(len(x)) < 1 / every)
    taken = open_source(tmp_path / f"x{extension}").take(rows)
    assert taken.dtype == np.float32
    np.testing.assert_array_equal(taken, x[rows])


def test_files_without_rows_count_for_nothing(tmp_path: Path) -> None:
    x = random_matrix(5, 3, "f4")
    write_vecs(tmp_path / "a.fvecs", x[:0])
    write_bin(tmp_path / "b.fbin", x)
    write_npy(tmp_path / "c.npy", x[:0].astype("u1"))
    source = open_source(tmp_path)
    assert (source.ntotal, source.d, source.dtype) == (5, 3, np.dtype("f4"))
    assert [part.n for part in source.files] == [0, 5, 0]
    np.testing.assert_array_equal(source.read(0, 5), x)
    np.testing.assert_array_equal(source.take(np.array([4])), x[4:])


def test_common_dtype(tmp_path: Path) -> None:
    write_bin(tmp_path / "a.u8bin", random_matrix(2, 3, "u1"))
    write_vecs(tmp_path / "b.bvecs", random_matrix(2, 3, "u1"))
    assert open_source(tmp_path).dtype == np.uint8
    write_bin(tmp_path / "c.i8bin", random_matrix(2, 3, "i1"))
    assert open_source(tmp_path).dtype == np.float32


def test_threads_read_at_once(tmp_path: Path) -> None:
    source, x = write_files(tmp_path, [("parquet", 200), ("fbin", 100), ("arrow", 150)], 6)
    ranges = [(start, min(start + 37, 450)) for start in range(0, 450, 11)] * 3
    with ThreadPoolExecutor(6) as pool:
        for (start, stop), rows in zip(
            ranges, pool.map(lambda r: source.read(*r), ranges), strict=True
        ):
            np.testing.assert_array_equal(rows, x[start:stop])


def test_blocks_can_be_left_early(tmp_path: Path) -> None:
    source, x = write_files(tmp_path, [("fbin", 50)], 4)
    blocks = source.blocks(10, 50, 5)
    np.testing.assert_array_equal(next(blocks).vectors, x[10:15])
    blocks.close()  # type: ignore[attr-defined]


def test_ranges_outside_are_refused(tmp_path: Path) -> None:
    source, _ = write_files(tmp_path, [("fbin", 10)], 4)
    for start, stop in [(-1, 3), (0, 11), (5, 4)]:
        with pytest.raises(InvalidArgument, match=r"expected a range within \[0, 10\)"):
            source.read(start, stop)
        with pytest.raises(InvalidArgument, match="range"):
            source.read_ids(start, stop)
        with pytest.raises(InvalidArgument, match="range"):
            source.blocks(start, stop, 2)
    with pytest.raises(InvalidArgument, match="blocks of 0 rows"):
        source.blocks(0, 10, 0)


@pytest.mark.parametrize("rows", [[1, 1], [3, 2], [-1, 2], [9, 10]])
def test_row_numbers_that_do_not_fit_are_refused(rows: list[int], tmp_path: Path) -> None:
    source, _ = write_files(tmp_path, [("fbin", 10)], 4)
    with pytest.raises(InvalidArgument, match="row numbers"):
        source.take(np.array(rows))


def test_row_numbers_must_be_integers(tmp_path: Path) -> None:
    source, _ = write_files(tmp_path, [("fbin", 10)], 4)
    with pytest.raises(InvalidArgument, match="float64"):
        source.take(np.array([1.0]))


def test_describe_is_json(tmp_path: Path) -> None:
    source, _ = write_files(tmp_path, [("fbin", 10), ("parquet", 3)], 4)
    found = json.loads(json.dumps(source.describe()))
    assert {key: found[key] for key in ("d", "ntotal", "dtype", "id_column")} == {
        "d": 4,
        "ntotal": 13,
        "dtype": "float32",
        "id_column": None,
    }
    assert [file["name"] for file in found["files"]] == ["0.fbin", "1.parquet"]
    assert [file["n"] for file in found["files"]] == [10, 3]
    assert found["files"][0]["size_bytes"] == 168
    assert [file["vector_column"] for file in found["files"]] == [None, "v"]
