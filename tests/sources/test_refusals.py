"""Files that are not what they say, and values that cannot be indexed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from teravec.errors import InvalidSource, StorageError
from teravec.sources import open_source

from .writers import random_matrix, write_bin, write_ipc, write_npy, write_parquet, write_vecs

X = random_matrix(10, 4, "f4")


def refuses(paths: Any, match: str, **columns: Any) -> None:
    with pytest.raises(InvalidSource, match=match) as caught:
        open_source(paths, **columns)
    assert "\n" not in str(caught.value)


def cut(path: Path, count: int) -> None:
    """Drop the last bytes of a file."""
    os.truncate(path, path.stat().st_size - count)


def test_bin_size_disagrees(tmp_path: Path) -> None:
    path = tmp_path / "x.fbin"
    write_bin(path, X)
    cut(path, 1)
    refuses(path, r"x\.fbin: 167 bytes found, expected 168 for its header's n=10, d=4")
    path.write_bytes(path.read_bytes() + b"...")
    refuses(path, "170 bytes found, expected 168")
    path.write_bytes(b"\1\0\0")
    refuses(path, "3 bytes found, expected a header of 8")


def test_bin_absurd_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "x.u8bin"
    path.write_bytes(np.array([5, 0], "<u4").tobytes())
    refuses(path, "dimension 0 found, expected 1 to")
    path.write_bytes(np.array([2**32 - 1, 2**32 - 1], "<u4").tobytes())
    refuses(path, "8 bytes found, expected 18446744065119617033")


def test_vecs_size_disagrees(tmp_path: Path) -> None:
    path = tmp_path / "x.fvecs"
    write_vecs(path, X)
    cut(path, 4)
    refuses(path, "196 bytes found, expected a multiple of 20")
    path.write_bytes(b"\1\0")
    refuses(path, "2 bytes found, expected a first row")


@pytest.mark.parametrize("d", [0, -1, 2**30])
def test_vecs_absurd_dimension(d: int, tmp_path: Path) -> None:
    path = tmp_path / "x.bvecs"
    path.write_bytes(np.array([d, 0, 0], "<i4").tobytes())
    refuses(path, f"dimension {d} found")


@pytest.mark.parametrize("extension", [".fvecs", ".bvecs"])
def test_vecs_row_of_another_dimension(extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{extension}"
    write_vecs(path, X.astype("u1" if extension == ".bvecs" else "f4"))
    raw = bytearray(path.read_bytes())
    raw[7 * len(raw) // 10] = 3
    path.write_bytes(raw)
    source = open_source(path)
    assert source.read(0, 7).shape == (7, 4)
    with pytest.raises(InvalidSource, match="row 7 says dimension 3, expected 4"):
        source.read(5, 10)
    with pytest.raises(InvalidSource, match="row 7 says dimension 3"):
        source.take(np.array([7]))


@pytest.mark.parametrize(
    ("dtype", "hint"),
    [
        ("O", "never unpickled: save np.stack"),
        ("c8", "real numbers"),
        ("S4", "real numbers"),
        ("V2", "not bfloat16"),
        ("f16", "of up to 8 bytes"),
        ("M8[s]", "real numbers"),
    ],
)
def test_npy_dtype(dtype: str, hint: str, tmp_path: Path) -> None:
    write_npy(tmp_path / "x.npy", np.zeros((10, 4), dtype))
    refuses(tmp_path / "x.npy", rf"dtype .* found, expected .*{hint}")


def test_npy_shape(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    write_npy(path, X.ravel())
    refuses(path, r"array of shape \(40,\) found, expected \(n, d\); save x.reshape\(-1, d\)")
    write_npy(path, X.reshape(2, 5, 4))
    refuses(path, r"shape \(2, 5, 4\) found, .*save x.reshape\(len\(x\), -1\), or x.resh")
    np.save(path, 3.0)
    refuses(path, r"array of shape \(\) found")
    write_npy(path, np.empty((5, 0), "f4"))
    refuses(path, "dimension 0 found")


def test_npy_truncated(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    write_npy(path, X)
    cut(path, 6)
    refuses(path, "282 bytes found, expected 288")
    os.truncate(path, 60)
    refuses(path, "no sound .npy header")
    path.write_bytes(b"")
    refuses(path, "no sound .npy header")
    path.write_bytes(b"\x93NUMPY\x09\x00" + b" " * 200)
    refuses(path, "version 9.0 found")


@pytest.mark.parametrize("extension", [".parquet", ".arrow", ".feather"])
def test_columnar_garbage(extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{extension}"
    for contents in (b"", b"garbage" * 40, b"ARROW1" * 20, b"PAR1" * 20):
        path.write_bytes(contents)
        refuses(path, rf"x\{extension}: ")
    (write_parquet if extension == ".parquet" else write_ipc)(path, X)
    cut(path, 20)
    refuses(path, rf"x\{extension}: ")


@pytest.mark.parametrize("extension", [".parquet", ".arrow"])
def test_columnar_damage_never_escapes_untyped(extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{extension}"
    (write_parquet if extension == ".parquet" else write_ipc)(path, X)
    sound = path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(150):
        damaged = bytearray(sound)
        damaged[rng.integers(len(sound))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            source = open_source(path)
            source.read(0, min(source.ntotal, 1000))
        except (InvalidSource, StorageError) as error:
            assert str(path) in str(error)  # noqa: PT017


def test_empty_source(tmp_path: Path) -> None:
    write_bin(tmp_path / "a.fbin", X[:0])
    (tmp_path / "b.fvecs").touch()
    write_parquet(tmp_path / "c.parquet", X[:0], fixed=False)
    write_ipc(tmp_path / "d.arrow", X[:0])
    refuses(tmp_path, r"a\.fbin, .*c\.parquet and 1 more: empty source: 0 rows found")


def test_mixed_dimensions(tmp_path: Path) -> None:
    write_bin(tmp_path / "a.fbin", X)
    write_bin(tmp_path / "b.fbin", X[:, :3].copy())
    refuses(tmp_path, r"b\.fbin: dimension 3 found, expected 4 as in .*a\.fbin")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f4", "f2"])
def test_values_that_are_not_finite(value: float, dtype: str, tmp_path: Path) -> None:
    bad = X.astype(dtype)
    bad[6, 2] = value
    write_bin(tmp_path / "a.fbin", X)
    write_npy(tmp_path / "b.npy", bad)
    source = open_source(tmp_path)
    match = rf"b\.npy: row 6 \(row 16 of the source\) holds {value} in dimension 2"
    for start, stop in [(0, 20), (16, 17), (12, 18)]:
        with pytest.raises(InvalidSource, match=match):
            source.read(start, stop)
    with pytest.raises(InvalidSource, match=match):
        source.take(np.array([1, 12, 16, 18]))
    with pytest.raises(InvalidSource, match=match):
        list(source.blocks(0, 20, 3))
    assert len(source.take(np.array([15, 17]))) == 2
    assert len(source.read(17, 20)) == 3


def test_large_finite_values_are_fine(tmp_path: Path) -> None:
    huge = np.full((10, 4), np.finfo("f4").max, "f4")
    write_bin(tmp_path / "a.fbin", huge)
    np.testing.assert_array_equal(open_source(tmp_path).read(0, 10), huge)


def test_float64_beyond_float32(tmp_path: Path) -> None:
    x = X.astype("f8")
    x[8, 1] = 1e300
    write_parquet(tmp_path / "a.parquet", x)
    with pytest.raises(InvalidSource, match=r"row 8 .* holds 1e\+300 in dimension 1"):
        open_source(tmp_path).read(0, 10)


@pytest.mark.parametrize("write", [write_bin, write_vecs, write_npy])
def test_file_that_shrinks(write: Any, tmp_path: Path) -> None:
    path = tmp_path / {"write_bin": "x.fbin", "write_vecs": "x.fvecs"}.get(write.__name__, "x.npy")
    write(path, X)
    source = open_source(path)
    cut(path, 30)
    assert len(source.read(0, 8)) == 8
    with pytest.raises(InvalidSource, match="it has shrunk since it was opened"):
        source.read(0, 10)
    with pytest.raises(InvalidSource, match="it has shrunk since it was opened"):
        source.take(np.array([2, 9]))
    path.unlink()
    with pytest.raises(InvalidSource, match="no such file"):
        source.read(0, 1)


def test_failed_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bin(tmp_path / "x.fbin", X)
    source = open_source(tmp_path)

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(StorageError, match=r"x\.fbin: cannot read: the disk reported"):
        source.read(0, 1)
