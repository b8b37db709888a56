"""Files as NumPy, big-ann-benchmarks, Deep1B, DiskANN and cuVS leave them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from teravec.errors import InvalidSource
from teravec.sources import open_source

from .writers import random_matrix, write_bin, write_npy, write_vecs

N, D = 53, 7
X = random_matrix(N, D, "f4")


def holds(path: Path | str, x: np.ndarray, **options: Any) -> None:
    source = open_source(path, **options)
    assert (source.ntotal, source.d) == x.shape
    for start, stop in ((0, len(x)), (len(x) // 3, len(x) // 2 + 1), (len(x) - 1, len(x))):
        np.testing.assert_array_equal(source.read(start, stop), x[start:stop].astype("f4"))
    rows = np.arange(2, len(x), 4)
    np.testing.assert_array_equal(source.take(rows), x[rows].astype("f4"))


def refuses(path: Path, match: str, **options: Any) -> None:
    with pytest.raises(InvalidSource, match=match) as caught:
        open_source(path, **options).read(0, 1)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


TYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("dtype", TYPES)
def test_npy_of_any_number(dtype: str, endian: str, order: Any, tmp_path: Path) -> None:
    x = random_matrix(N, D, dtype).astype(endian + dtype, order=order)
    write_npy(tmp_path / "x.npy", x)
    holds(tmp_path / "x.npy", x)
    assert open_source(tmp_path).dtype == np.dtype(dtype)


def test_npy_of_booleans(tmp_path: Path) -> None:
    write_npy(tmp_path / "x.npy", X > 0)
    holds(tmp_path / "x.npy", X > 0)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_versions(version: tuple[int, int], tmp_path: Path) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, np.asfortranarray(X), version)
    holds(tmp_path / "x.npy", X)


@pytest.mark.parametrize("shape", [(1, D), (D, 1), (1, 1)])
def test_npy_that_is_in_both_orders(shape: tuple[int, int], tmp_path: Path) -> None:
    write_npy(tmp_path / "x.npy", np.asfortranarray(random_matrix(*shape, "f4")))
    holds(tmp_path / "x.npy", np.load(tmp_path / "x.npy"))


def test_columns_are_read_in_bounded_memory(tmp_path: Path) -> None:
    x = np.asfortranarray(np.random.default_rng(0).standard_normal((100_000, 64)).astype("f4"))
    write_npy(tmp_path / "x.npy", x)
    source = open_source(tmp_path)
    tracemalloc.start()
    try:
        for start in range(0, len(x), 10_000):
            np.testing.assert_array_equal(source.read(start, start + 10_000), x[start:][:10_000])
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


def test_columns_that_shrink(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    write_npy(path, np.asfortranarray(X))
    source = open_source(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InvalidSource, match="it has shrunk since it was opened"):
        source.read(0, N)
    refuses(path, "bytes found, expected")


@pytest.mark.parametrize("kind", ["fbin", "f16bin", "u8bin", "i8bin"])
def test_cropped_files_of_big_ann(kind: str, tmp_path: Path) -> None:
    dtype = {"fbin": "f4", "f16bin": "f2", "u8bin": "u1", "i8bin": "i1"}[kind]
    x = random_matrix(N, D, dtype)
    path = tmp_path / f"base.1B.{kind}.crop_nb_{N}"
    write_bin(path, x)
    holds(path, x)
    holds(tmp_path, x)
    # Cropped by a download of so many bytes: the header is the whole file's.
    path.write_bytes(np.array([10**9, D], "<u4").tobytes() + x.tobytes())
    holds(path, x)
    path.write_bytes(path.read_bytes()[:-1])
    refuses(path, "bytes found, expected 8|bytes found, expected [0-9]+ for its header's n=1000000")


def test_parts_of_deep1b(tmp_path: Path) -> None:
    for part in range(3):
        write_vecs(tmp_path / f"base_0{part}", X + part)
    holds(tmp_path, np.concatenate([X, X + 1, X + 2]))
    holds(tmp_path / "base_02", X + 2)
    (tmp_path / "learn_00").write_bytes(b"no vectors of any kind")
    refuses(tmp_path / "learn_00", "dimension .* found, expected 1 to")


def test_bin_of_diskann(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    write_bin(path, X)
    holds(path, X)
    for dtype, kind in (("u1", "u8bin"), ("i1", "i8bin")):
        x = random_matrix(N, D, dtype)
        write_bin(path, x)
        refuses(path, f"{N} x {D} values of one byte found; add --format u8bin or --format i8bin")
        holds(path, x, format=kind)
        holds(f"{path}:{kind}", x)
    write_bin(path, X.astype("f8"))
    refuses(path, "expected .* for its header's n=53, d=7 of float32; .*--format with one of fvecs")
    path.write_bytes(b"123")
    refuses(path, "3 bytes found, expected a header of 8")


@pytest.mark.parametrize("kind", ["fvecs", "fbin", "npy", "parquet", "arrow"])
def test_format_overrides_the_extension(kind: str, tmp_path: Path) -> None:
    from .writers import FORMATS

    _, dtype, write = FORMATS[kind]
    x = random_matrix(N, D, dtype)
    write(tmp_path / f"x.{kind}", x)
    path = (tmp_path / f"x.{kind}").rename(tmp_path / "x.csv")
    holds(path, x, format=kind)
    holds(path, x, format=f".{kind.upper()}")
    if kind in ("npy", "parquet", "arrow"):  # what they begin with says what they are
        holds(path, x)
    else:
        refuses(path, r"extension '\.csv' found")


def test_headers_that_could_be_two_things_are_not_guessed(tmp_path: Path) -> None:
    write_bin(tmp_path / "x.data", X)
    refuses(tmp_path / "x.data", "extension '.data' found.*add --format with that name")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("sift.hdf5", r"np.save\('sift.npy', h5py.File\('sift.hdf5'\)\['train'\]\)"),
        ("x.H5", "h5py"),
        ("x.csv", "duckdb.read_csv"),
        ("x.tsv", "duckdb"),
        ("x.jsonl", "duckdb.read_json"),
        ("x.pt", r"torch.load\('x.pt', weights_only=True\)"),
        ("x.safetensors", "safetensors.numpy.load_file"),
        ("x.pkl", "pd.read_pickle"),
        ("x.fvecs.gz", "gunzip x.fvecs.gz"),
        ("x.npy.zst", "unzstd"),
        ("x.mat", "loadmat"),
        ("gt.ibin", "it holds neighbours"),
        ("x.faiss", "reconstruct_n"),
        ("x.orc", "orc.read"),
    ],
)
def test_formats_of_others_are_refused_with_the_conversion(
    name: str, line: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"whatever it is")
    refuses(tmp_path / name, f"expected one of .fvecs, .*; convert it: .*{line}")


def test_npz_is_refused_with_the_names_in_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", emb=X, ids=np.arange(N))
    refuses(tmp_path / "x.npz", r"np.load\('x.npz'\)\['emb'\]\)  # arrays there: emb, ids")
    (tmp_path / "x.npz").write_bytes(b"no zip")
    refuses(tmp_path / "x.npz", r"np.load\('x.npz'\)\['NAME'\]")
