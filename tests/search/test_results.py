"""Result files: what is written is read back, and what is not one is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from teravec.errors import InvalidArgument, InvalidSource, StorageError
from teravec.search.formats.found import FoundArrays
from teravec.search.results import check_output, read_neighbors, write_found, write_neighbors

EXTENSIONS = (".ibin", ".bin", ".ivecs", ".npy", ".npz", ".parquet")


def neighbors(n: int = 7, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    distances = np.sort(rng.random((n, k), np.float32), axis=1)
    ids = rng.integers(0, 1000, (n, k))
    ids[2, -1], distances[2, -1] = -1, np.inf
    return distances, ids


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_round_trip(extension: str, tmp_path: Path) -> None:
    distances, ids = neighbors()
    path = tmp_path / f"r{extension}"
    write_neighbors(path, distances, ids)
    found = read_neighbors(path)
    np.testing.assert_array_equal(found.ids, ids)
    assert found.ids.dtype == np.int64
    if found.distances is not None:
        held = ids != -1
        np.testing.assert_array_equal(found.distances[held], distances[held])
    assert (found.distances is not None) == (extension in (".bin", ".npz", ".parquet"))


@pytest.mark.parametrize("extension", [".ibin", ".bin", ".ivecs"])
def test_wide_ids_need_a_wide_format(extension: str, tmp_path: Path) -> None:
    distances, ids = neighbors()
    ids[0, 0] = 1 << 31
    with pytest.raises(InvalidArgument, match="64"):
        write_neighbors(tmp_path / f"r{extension}", distances, ids)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_damaged_files_are_said(extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"r{extension}"
    write_neighbors(path, *neighbors())
    data = path.read_bytes()
    for damaged in (b"", data[:3], data[:-1], b"\xff" * 40):
        path.write_bytes(damaged)
        with pytest.raises(InvalidSource, match=path.name):
            read_neighbors(path)


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "r.npy", np.array([[{}]]), allow_pickle=True)
    with pytest.raises(InvalidSource, match=r"r\.npy"):
        read_neighbors(tmp_path / "r.npy")


def test_ranges(tmp_path: Path) -> None:
    lims, ids = np.array([0, 2, 2, 3]), np.array([5, 1 << 40, 7])
    distances = np.array([0.5, 1, 2], np.float32)
    found = FoundArrays(lims, distances, ids)
    write_found(tmp_path / "r.npz", found)
    content = np.load(tmp_path / "r.npz")
    np.testing.assert_array_equal(content["lims"], lims)
    np.testing.assert_array_equal(content["ids"], ids)
    write_found(tmp_path / "r.parquet", found)
    assert pq.read_table(tmp_path / "r.parquet").to_pydict() == {
        "query": [0, 0, 2], "rank": [0, 1, 0], "id": [5, 1 << 40, 7], "distance": [0.5, 1.0, 2.0],
    }  # fmt: skip


def test_outputs_are_checked_before_the_work(tmp_path: Path) -> None:
    check_output(tmp_path / "r.npz")
    with pytest.raises(InvalidArgument, match=r"\.txt"):
        check_output(tmp_path / "r.txt")
    with pytest.raises(InvalidArgument, match=r"\.ibin"):
        check_output(tmp_path / "r.ibin", within_radius=True)
    with pytest.raises(StorageError, match="no directory"):
        check_output(tmp_path / "no" / "r.npz")
