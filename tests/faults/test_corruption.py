"""Damage of every kind: a typed error that names the file, or the right answer; nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import teravec
from teravec.index.verify import verify
from teravec.progress import NoProgress
from teravec.training.options import TrainOptions
from teravec.training.record import LayoutOptions
from tests.conftest import clustered

D, N, NLIST = 4, 150, 3
QUERIES = clustered(4, D, seed=9)


def make(root: Path, seed: int) -> Path:
    """A tiny index with every kind of file."""
    root.mkdir()
    np.save(root / "x.npy", clustered(N, D, seed))
    teravec.build(
        root / "x.npy", root / "i", nlist=NLIST, codec="sq8", transform="rotation", slices=2,
        shards=2, niter=2,
    )  # fmt: skip
    return root / "i"


def answer(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """What a search of all lists finds."""
    with teravec.open(root, threads=1) as index:
        return index.search(QUERIES, k=5, nprobe=NLIST)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("sound") / "a", seed=0)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("other") / "b", seed=1)


@pytest.fixture
def index(sound: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(sound, tmp_path / "i"))


def files(root: Path) -> list[Path]:
    """Names of all files of an index."""
    return sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())


def check_found(root: Path, name: Path, expected: tuple[np.ndarray, np.ndarray]) -> None:
    """The damage is reported with the file's name, and search gives no wrong answer."""
    try:
        damages = verify(root, NoProgress())
    except teravec.TeravecError as error:
        damages = [error]
    assert damages, f"{name}: damage not found"
    assert any(name.name in str(damage) for damage in damages), [str(d) for d in damages]
    try:
        found = answer(root)
    except teravec.TeravecError:
        return
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_every_byte_flipped(index: Path) -> None:
    expected = answer(index)
    rng = np.random.default_rng(0)
    flips = 0
    for name in files(index):
        path = index / name
        data = path.read_bytes()
        for at in range(len(data)):
            damaged = bytearray(data)
            damaged[at] ^= int(rng.integers(1, 256))
            path.write_bytes(damaged)
            check_found(index, name, expected)
            flips += 1
        path.write_bytes(data)
    assert flips > 4000
    assert verify(index, NoProgress()) == []


def test_files_cut_extended_removed_or_replaced(index: Path, other: Path) -> None:
    expected = answer(index)
    for name in files(index):
        path = index / name
        data = path.read_bytes()
        cuts = [data[:n] for n in (0, 1, 7, len(data) // 2, len(data) - 1)]
        for damaged in [*cuts, data + b"x", data + data, (other / name).read_bytes()]:
            path.write_bytes(damaged)
            if damaged != data:  # the two have the same rotation
                check_found(index, name, expected)
        path.unlink()
        check_found(index, name, expected)
        path.mkdir()
        check_found(index, name, expected)
        path.rmdir()
        path.write_bytes(data)
    assert verify(index, NoProgress()) == []


def test_slices_swapped(index: Path) -> None:
    expected = answer(index)
    one, two = index / "slices/00000.lists", index / "slices/00001.lists"
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)
    check_found(index, Path("slices/00000.lists"), expected)
    with pytest.raises(teravec.CorruptFile):
        answer(index)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A build that stands before its merge."""
    np.save(tmp_path / "x.npy", clustered(N, D))
    options = TrainOptions(nlist=NLIST, niter=2)
    teravec.train(tmp_path / "x.npy", tmp_path / "i", options=options, layout=LayoutOptions(3, 2))
    teravec.shard(tmp_path / "x.npy", tmp_path / "i")
    return tmp_path / "i"


def check_merge_stops(root: Path, error: type[Exception], name: str) -> None:
    """The merge stops, names the file, and neither seals an index nor removes a shard."""
    shards = {path.name: path.read_bytes() for path in (root / "shards").iterdir()}
    with pytest.raises(error, match=name):
        teravec.merge(root)
    assert not (root / "manifest.json").exists()
    shutil.rmtree(root / "slices", ignore_errors=True)  # those without the damage are sealed
    assert {p.name: p.read_bytes() for p in (root / "shards").iterdir()} == shards


def test_every_byte_of_a_shard_flipped(sharded: Path) -> None:
    path = sorted((sharded / "shards").iterdir())[1]
    data = path.read_bytes()
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x41
        path.write_bytes(damaged)
        check_merge_stops(sharded, teravec.CorruptFile, path.name)
    path.write_bytes(data)
    assert teravec.merge(sharded).ntotal == N


def test_shards_missing_foreign_or_overlapping(sharded: Path, tmp_path: Path) -> None:
    shards = sorted((sharded / "shards").iterdir())
    for path in shards:
        data = path.read_bytes()
        path.unlink()
        check_merge_stops(sharded, teravec.MissingFile, "no shard has rows")
        path.write_bytes(data[:-1])
        check_merge_stops(sharded, teravec.CorruptFile, path.name)
        path.write_bytes(data)
    extra = sharded / "shards" / "9999999999999-9999999999999.lists"
    shutil.copy(shards[1], extra)
    check_merge_stops(sharded, teravec.ForeignFile, "overlap")
    extra.unlink()
    np.save(tmp_path / "y.npy", clustered(N, D, seed=5))
    options = TrainOptions(nlist=NLIST, niter=2, seed=3)
    teravec.train(tmp_path / "y.npy", tmp_path / "j", options=options, layout=LayoutOptions(3, 2))
    teravec.shard(tmp_path / "y.npy", tmp_path / "j")
    data = shards[2].read_bytes()
    shards[2].write_bytes((tmp_path / "j" / "shards" / shards[2].name).read_bytes())
    check_merge_stops(sharded, teravec.ForeignFile, shards[2].name)
    shards[2].write_bytes(data)
    assert teravec.merge(sharded).ntotal == N


class _Stop(Exception):
    pass


class _StopsInKMeans:
    """Ends a build after a few blocks of the k-means stage."""

    def __init__(self) -> None:
        self.name = ""

    def stage(self, name: str, total: int, unit: str) -> _StopsInKMeans:
        self.name, self.count = name, 0
        return self

    def __enter__(self) -> _StopsInKMeans:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, amount: int) -> None:
        self.count += 1
        if self.name == "k-means" and self.count > 3:
            raise _Stop


def test_damage_to_what_training_keeps(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", clustered(N, D))
    arguments = {"nlist": NLIST, "niter": 5}
    with pytest.raises(_Stop):
        teravec.build(tmp_path / "x.npy", tmp_path / "i", progress=_StopsInKMeans(), **arguments)  # type: ignore[arg-type]
    kept = [p for p in (tmp_path / "i").rglob("*") if p.is_file()]
    assert {"sample.f32", "sample.json", "kmeans.json", "build.json"} < {p.name for p in kept}
    for path in kept:
        data = path.read_bytes()
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        with pytest.raises(teravec.CorruptFile, match=path.name):
            teravec.build(tmp_path / "x.npy", tmp_path / "i", **arguments)  # type: ignore[arg-type]
        path.write_bytes(data)
    teravec.build(tmp_path / "x.npy", tmp_path / "i", **arguments)  # type: ignore[arg-type]
