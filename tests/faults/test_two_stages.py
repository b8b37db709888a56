"""Kills, damage and little memory, where codes have two stages."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest

import teravec
from teravec.index.verify import verify
from teravec.progress import NoProgress
from tests.conftest import clustered, write_fbin
from tests.faults.conftest import Commands, tree
from tests.faults.test_corruption import check_found, flipped, places
from tests.faults.test_kill import KILLED

OPTIONS = ["--nlist", "40", "--niter", "3", "--codec", "rabitq2+sq6", "--slices", "3"]
OPTIONS += ["--no-calibrate", "-q"]  # calibrations have a time, and are killed in test_kill
QUERIES = clustered(4, 4, seed=9)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40,000 vectors of 32 dimensions."""
    return write_fbin(tmp_path_factory.mktemp("kill") / "x.fbin", clustered(40_000, 32))


@pytest.fixture(scope="module")
def whole(commands: Commands, source: Path) -> Path:
    """A build that nobody killed."""
    out = source.with_name("whole")
    assert commands.run("build", source, "--out", out, *OPTIONS, "--shards", "3") == 0
    return out


def test_merges_killed(commands: Commands, source: Path, whole: Path, tmp_path: Path) -> None:
    out, kills = tmp_path / "i", 0
    arguments = ["build", source, "--out", out, *OPTIONS, "--shards", "3"]
    names = ["00000.fine.tmp", "00000.lists", "00001.fine.tmp", "00001.lists", "00002.fine"]
    for name in names:
        code = commands.run(*arguments, kill_at=out / "slices" / name)
        assert code in (0, KILLED), name
        kills += code == KILLED
    assert kills >= 3
    assert commands.run(*arguments) == 0
    assert tree(out) == tree(whole)


def test_builds_killed_often(commands: Commands, source: Path, whole: Path, tmp_path: Path) -> None:
    rng, arguments = random.Random(1), ["build", source, "--out", tmp_path / "i", *OPTIONS]
    arguments += ["--shards", "3"]
    for _ in range(12):
        if commands.run(*arguments, kill_after_s=rng.uniform(0.02, 0.5)) == 0:
            break
    assert commands.run(*arguments) == 0
    assert tree(tmp_path / "i") == tree(whole)


def test_finer_codes_that_a_killed_merge_left_and_that_were_damaged(
    commands: Commands, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "i"
    arguments = ["build", source, "--out", out, *OPTIONS, "--keep-shards"]
    assert commands.run(*arguments) == 0
    fine = out / "slices" / "00001.fine"
    data = fine.read_bytes()
    (out / "manifest.json").unlink()
    fine.write_bytes(data[:5000] + b"?" + data[5001:])
    assert commands.run(*arguments) == 1  # it says so, and trusts nothing
    fine.unlink()
    assert commands.run(*arguments) == 0
    assert fine.read_bytes() == data


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A tiny index to damage; its finer codes fill some pages."""
    np.save(tmp_path / "x.npy", clustered(400, 4))
    teravec.build(
        tmp_path / "x.npy", tmp_path / "i", nlist=3, codec="rabitq2+sq8", slices=2, niter=2
    )
    return tmp_path / "i"


def answer(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """What a search of all lists finds."""
    with teravec.open(root, threads=1) as opened:
        return opened.search(QUERIES, k=5, nprobe=3)


def test_finer_codes_flipped(index: Path) -> None:
    expected = answer(index)
    for path in sorted((index / "slices").glob("*.fine")):
        for at in places(path.stat().st_size, every=23):
            with flipped(path, at):
                check_found(index, path.relative_to(index), expected)
    assert verify(index, NoProgress()) == []


def test_finer_codes_cut_swapped_removed_or_of_elsewhere(index: Path, tmp_path: Path) -> None:
    expected = answer(index)
    one, two = sorted((index / "slices").glob("*.fine"))
    np.save(tmp_path / "y.npy", clustered(400, 4, seed=5))
    teravec.build(tmp_path / "y.npy", tmp_path / "o", nlist=3, codec="rabitq2+sq8", slices=2)
    data, foreign = one.read_bytes(), (tmp_path / "o" / "slices" / one.name).read_bytes()
    cuts = [data[:n] for n in (0, 1, 4095, 4096, len(data) // 2, len(data) - 1)]
    for damaged in [*cuts, data + b"x", foreign, two.read_bytes()]:
        one.write_bytes(damaged)
        check_found(index, one.relative_to(index), expected)
    one.unlink()
    check_found(index, one.relative_to(index), expected)
    with pytest.raises(teravec.MissingFile, match=one.name):
        answer(index)
    one.write_bytes(data)
    assert verify(index, NoProgress()) == []


def test_export_writes_the_finer_codes(index: Path, tmp_path: Path) -> None:
    teravec.export_faiss(index, tmp_path / "out.faiss")
    found = faiss.read_index(str(tmp_path / "out.faiss"))
    faiss.extract_index_ivf(found).nprobe = 3
    distances, ids = found.search(QUERIES, 5)
    with teravec.open(index) as opened:
        expected = opened.search(QUERIES, k=5, nprobe=3, candidates=400)
    np.testing.assert_array_equal(ids, expected[1])
    np.testing.assert_allclose(distances, expected[0], rtol=1e-4)


def test_little_memory(source: Path, whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "i"))
    queries = clustered(300, 32, seed=2)
    with teravec.open(copy) as opened:
        expected = opened.search(queries, k=10, nprobe=8)
    with teravec.open(copy, memory="16MiB") as opened:
        found = opened.search(queries, k=10, nprobe=8)
        assert opened.batch_rows(8, 10) < 1 << 14
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)
