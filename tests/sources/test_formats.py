"""Every format reads back what NumPy or pyarrow wrote."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from teravec.sources import open_source

from .writers import FORMATS, random_matrix, write_bin, write_npy


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("n", "d"), [(1, 1), (23, 5), (40, 16)])
def test_round_trip(name: str, n: int, d: int, tmp_path: Path) -> None:
    extension, dtype, write = FORMATS[name]
    x = random_matrix(n, d, dtype)
    path = tmp_path / f"x{extension}"
    write(path, x)
    source = open_source(path)
    assert (source.ntotal, source.d, source.dtype) == (n, d, np.dtype(dtype))
    assert not source.has_ids
    whole = source.read(0, n)
    assert whole.dtype == np.float32
    assert whole.flags.c_contiguous
    np.testing.assert_array_equal(whole, x.astype(np.float32))
    for start, stop in [(0, n), (n // 3, n), (0, n // 2 + 1), (n // 2, n // 2), (n - 1, n)]:
        np.testing.assert_array_equal(source.read(start, stop), x[start:stop])
    rows = np.arange(0, n, 3)
    np.testing.assert_array_equal(source.take(rows), x[rows])


def test_upper_case_extension(tmp_path: Path) -> None:
    x = random_matrix(3, 4, "f4")
    write_bin(tmp_path / "X.FBIN", x)
    np.testing.assert_array_equal(open_source(tmp_path / "X.FBIN").read(0, 3), x)


def test_npy_version_2(tmp_path: Path) -> None:
    x = random_matrix(3, 4, "f4")
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, x, version=(2, 0))
    np.testing.assert_array_equal(open_source(tmp_path / "x.npy").read(0, 3), x)


def test_values_between_integers(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((50, 8))
    write_npy(tmp_path / "h.npy", x.astype("f2"))
    expected = x.astype("f2").astype("f4")
    np.testing.assert_array_equal(open_source(tmp_path / "h.npy").read(0, 50), expected)


def test_reading_holds_the_output_and_a_little(tmp_path: Path) -> None:
    n, d = 40_000, 256
    write_bin(tmp_path / "x.u8bin", np.ones((n, d), np.uint8))
    source = open_source(tmp_path / "x.u8bin")
    tracemalloc.start()
    try:
        out = source.read(0, n)
        assert tracemalloc.get_traced_memory()[1] < out.nbytes + (4 << 20)
        del out
        tracemalloc.reset_peak()
        taken = source.take(np.arange(0, n, 9))
        assert tracemalloc.get_traced_memory()[1] < taken.nbytes + (8 << 20)
    finally:
        tracemalloc.stop()
