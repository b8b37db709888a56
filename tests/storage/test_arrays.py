"""Array files: plain ``.npy`` whose every byte the description vouches for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from teravec.errors import CorruptFile, MissingFile
from teravec.storage.arrays import describe_file, read_array, write_array
from tests.storage.damage import flipped, truncated


@pytest.mark.parametrize("shape", [(0,), (5,), (3, 1), (1, 3), (4, 0), (7, 5)])
def test_round_trip(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for given in (array, np.asfortranarray(array), array[::-1]):
        described = write_array(tmp_path / "a.npy", given)
        assert described == describe_file(tmp_path / "a.npy")
        np.testing.assert_array_equal(read_array(tmp_path / "a.npy", described, shape), given)
        np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), given)


def test_damage_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    described = write_array(path, np.arange(6, dtype=np.float32))
    for _ in flipped(path):
        with pytest.raises(CorruptFile, match="checksum"):
            read_array(path, described)
    for _ in truncated(path):
        with pytest.raises(CorruptFile, match="bytes found"):
            read_array(path, described)
    path.unlink()
    with pytest.raises(MissingFile):
        read_array(path, described)


def test_sound_file_of_other_content_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    described = write_array(path, np.zeros((2, 3), np.float32))
    with pytest.raises(CorruptFile, match=r"\(2, 3\) found, float32 of shape \(3, 2\)"):
        read_array(path, described, (3, 2))
    with pytest.raises(CorruptFile, match="float64"):
        read_array(path, write_array(path, np.zeros(3)))
    for data in (b"", b"text", b"\x93NUMPY\x01\x00"):
        path.write_bytes(data)
        with pytest.raises(CorruptFile):
            read_array(path, describe_file(path))
    np.save(path, np.array([{}], object), allow_pickle=True)
    with pytest.raises(CorruptFile):
        read_array(path, describe_file(path))
