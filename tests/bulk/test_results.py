"""Result files: what is written is read back, and what is not one is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from teravec.bulk.formats.found import FoundArrays
from teravec.bulk.results import check_output, read_neighbors, write_found, write_neighbors
from teravec.errors import InvalidArgument, InvalidSource, StorageError

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
        "query": [0, 0, 2],
        "rank": [0, 1, 0],
        "id": [5, 1 << 40, 7],
        "distance": [0.5, 1.0, 2.0],
    }


def test_outputs_are_checked_before_the_work(tmp_path: Path) -> None:
    check_output(tmp_path / "r.npz")
    with pytest.raises(InvalidArgument, match=r"\.txt"):
        check_output(tmp_path / "r.txt")
    with pytest.raises(InvalidArgument, match=r"\.ibin"):
        check_output(tmp_path / "r.ibin", within_radius=True)
    with pytest.raises(StorageError, match="no directory"):
        check_output(tmp_path / "no" / "r.npz")


def truth_file(path: Path, kind: str) -> tuple[Path, np.ndarray, np.ndarray]:
    """A file of the kind, by a name that does not say it."""
    distances, ids = neighbors()
    write_neighbors(path.with_suffix(kind), distances, ids)
    return path.with_suffix(kind).rename(path), distances, ids


@pytest.mark.parametrize("kind", EXTENSIONS)
@pytest.mark.parametrize("name", ["bigann-10M", "gt.fbin", "GT.public.100", "truth.dat"])
def test_a_name_need_not_say_the_format(kind: str, name: str, tmp_path: Path) -> None:
    path, _, ids = truth_file(tmp_path / name, kind)
    np.testing.assert_array_equal(read_neighbors(path).ids, ids)
    np.testing.assert_array_equal(read_neighbors(path, kind[1:]).ids, ids)


@pytest.mark.parametrize("dtype", ["<i4", "<u4", "<i8", "<u8", ">i8"])
@pytest.mark.parametrize(
    "names",
    [
        ("I", "D"),
        ("neighbors", "distances"),
        ("ids", "distances"),
        ("indices", "dists"),
        ("arr_0", "arr_1"),
        ("arr_1", "arr_0"),
        ("labels",),
    ],
)
def test_npz_of_other_tools(names: tuple[str, ...], dtype: str, tmp_path: Path) -> None:
    distances, ids = neighbors()
    arrays = dict(zip(names, [ids.astype(dtype), distances.astype("f8")], strict=False))
    np.savez_compressed(tmp_path / "t.npz", **arrays)  # type: ignore[arg-type]
    found = read_neighbors(tmp_path / "t.npz")
    np.testing.assert_array_equal(found.ids, ids)
    if len(names) > 1:
        assert found.distances is not None
        np.testing.assert_array_equal(found.distances, distances)


def test_what_is_no_truth_says_how_to_go_on(tmp_path: Path) -> None:
    distances, ids = neighbors()
    np.savez(tmp_path / "two.npz", I=ids, ids=ids)
    with pytest.raises(InvalidSource, match="I, ids found"):
        read_neighbors(tmp_path / "two.npz")
    (tmp_path / "sift.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))
    with pytest.raises(InvalidSource, match=r"numpy\.savez"):
        read_neighbors(tmp_path / "sift.hdf5")
    (tmp_path / "t.dat").write_bytes(bytes(range(50)))
    with pytest.raises(InvalidSource, match="--truth-format"):
        read_neighbors(tmp_path / "t.dat")
    write_neighbors(tmp_path / "t.ibin", distances, ids)
    with pytest.raises(InvalidSource, match=r"t\.ibin"):
        read_neighbors(tmp_path / "t.ibin", "ivecs")
    with pytest.raises(InvalidArgument, match="one of npz, ibin"):
        read_neighbors(tmp_path / "t.ibin", "hdf5")
    np.save(tmp_path / "f.npy", distances)
    with pytest.raises(InvalidSource, match="integer ids"):
        read_neighbors(tmp_path / "f.npy")


@pytest.mark.parametrize("extension", [".npz", ".parquet"])
def test_queries_with_ids_of_a_column(extension: str, tmp_path: Path) -> None:
    distances, ids = neighbors()
    names = 10**17 + 3 * np.random.default_rng(0).permutation(len(ids))
    path = tmp_path / f"r{extension}"
    write_found(path, FoundArrays.of_rows(distances, ids, names))
    np.testing.assert_array_equal(read_neighbors(path).ids, ids)
    if extension == ".npz":
        with np.load(path) as file:
            np.testing.assert_array_equal(file["queries"], names)
    else:
        table = pq.read_table(path).to_pydict()
        assert table["query"] == np.repeat(names, 3).tolist()
        assert table["row"] == np.repeat(np.arange(7), 3).tolist()
