"""Killing a command at any instant: a rerun finishes it, with the bytes of an undisturbed one."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import clustered, write_fbin
from tests.faults.conftest import Commands, interrupt, tree

TRAINING = ["--nlist", "300", "--niter", "6", "--sample", "20000", "--shards", "4", "--slices", "3"]
SHARDS = [f"shards/{row:013d}-{row + 15_000:013d}.lists" for row in range(0, 60_000, 15_000)]
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60,000 vectors of 32 dimensions."""
    return write_fbin(tmp_path_factory.mktemp("kill") / "x.fbin", clustered(60_000, 32))


@dataclass(frozen=True)
class Undisturbed:
    """A build that nobody killed, and how long it took."""

    root: Path
    files: dict[str, bytes | None]
    seconds: float


def build(source: Path, out: Path, *options: str) -> list[object]:
    """Arguments of the build that is killed here."""
    return ["build", source, "--out", out, *TRAINING, "--no-calibrate", "-q", *options]


@pytest.fixture(scope="module")
def undisturbed(commands: Commands, source: Path) -> Undisturbed:
    """The build, whole; the second run is timed, as the first loads libraries."""
    out = source.with_name("undisturbed")
    assert commands.run(*build(source, source.with_name("first"))) == 0
    started = time.monotonic()
    assert commands.run(*build(source, out)) == 0
    seconds = time.monotonic() - started
    assert tree(source.with_name("first")) == tree(out)
    return Undisturbed(out, tree(out), seconds)


@pytest.fixture(scope="module")
def trained(commands: Commands, source: Path) -> Path:
    """A model, and no shards."""
    out = source.with_name("trained")
    assert commands.run("train", source, "--out", out, *TRAINING, "-q") == 0
    return out


@pytest.fixture(scope="module")
def sharded(commands: Commands, source: Path, trained: Path) -> Path:
    """All shards, and no slices."""
    out = source.with_name("sharded")
    shutil.copytree(trained, out)
    assert commands.run("shard", source, "--out", out, "-q") == 0
    return out


def finish_under_kills(
    commands: Commands, arguments: Sequence[object], lives: Callable[[int], float], most: int = 30
) -> int:
    """Run a command again and again, each time to be killed, until it ends; count the kills."""
    for kills in range(most):
        code = commands.run(*arguments, kill_after_s=lives(kills))
        if code == 0:
            return kills
        assert code == KILLED
    assert commands.run(*arguments) == 0
    return most


def test_builds_killed_often(
    commands: Commands, source: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    rng, longest = random.Random(0), undisturbed.seconds * 0.25
    arguments = build(source, tmp_path / "i")
    # Short lives: the build gets to its end in many small steps.
    kills = finish_under_kills(commands, arguments, lambda _: rng.uniform(0.01, longest))
    assert kills >= 4  # 10 to 20 of them
    assert tree(tmp_path / "i") == undisturbed.files


@pytest.mark.parametrize("part", range(8))
def test_builds_killed_once_at_any_time(
    part: int, commands: Commands, source: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    life = undisturbed.seconds * (part + random.Random(part).random()) / 8
    assert commands.run(*build(source, tmp_path / "i"), kill_after_s=life) in (0, KILLED)
    assert commands.run(*build(source, tmp_path / "i")) == 0
    assert tree(tmp_path / "i") == undisturbed.files


def test_builds_killed_when_a_file_appears(
    commands: Commands, source: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    out, kills = tmp_path / "i", 0
    sealed = [
        "build.json.tmp",
        "build.json",
        "training/sample.f32.tmp",
        "training/sample.f32",
        "training/sample.json",
        "training/kmeans.json",
        "training/centroids-0003.npy",
        "training/centroids-0006.npy",
        "model/centroids.npy",
        "model/codec.npy",
        "model/model.json",
        "shards",
        f"{SHARDS[0]}.tmp",
        *SHARDS,
        "slices",
        "slices/00000.lists",
        "slices/00001.lists",
        "slices/00002.lists.tmp",
        "slices/00002.lists",
        "manifest.json.tmp",
        "manifest.json",
    ]
    for name in sealed:
        code = commands.run(*build(source, out), kill_at=out / name)
        assert code in (0, KILLED), name
        kills += code == KILLED
        if code == 0:
            break  # it won the race to its end
    assert kills >= 15
    assert commands.run(*build(source, out)) == 0
    assert tree(out) == undisturbed.files


def test_train_killed(
    commands: Commands, source: Path, trained: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    rng = random.Random(3)
    arguments = ["train", source, "--out", tmp_path / "i", *TRAINING, "-q"]
    kills = finish_under_kills(
        commands, arguments, lambda _: rng.uniform(0.01, 0.4 * undisturbed.seconds)
    )
    assert kills >= 2
    assert tree(tmp_path / "i") == tree(trained)


def test_shard_killed(
    commands: Commands, source: Path, trained: Path, sharded: Path, tmp_path: Path
) -> None:
    out, rng = Path(shutil.copytree(trained, tmp_path / "i")), random.Random(4)
    arguments = ["shard", source, "--out", out, "-q"]
    for name in SHARDS[:3]:
        assert commands.run(*arguments, kill_at=out / name) in (0, KILLED)
    kills = finish_under_kills(commands, arguments, lambda n: rng.uniform(0, 0.02 + 0.02 * n))
    assert kills >= 1
    (out / SHARDS[1]).unlink()
    ranges = ["--rows", "15000:30000"]
    finish_under_kills(commands, [*arguments, *ranges], lambda n: rng.uniform(0, 0.02 + 0.01 * n))
    found = {name: data for name, data in tree(out).items() if not name.endswith(".tmp")}
    assert found == tree(sharded)


@pytest.mark.parametrize("keep", [False, True])
def test_merge_killed(
    keep: bool, commands: Commands, sharded: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    out, rng = Path(shutil.copytree(sharded, tmp_path / "i")), random.Random(5)
    arguments = ["merge", "--out", out, "-q", *(["--keep-shards"] if keep else [])]
    for number in (0, 1, 2):
        assert commands.run(*arguments, kill_at=out / f"slices/{number:05d}.lists") in (0, KILLED)
    kills = finish_under_kills(commands, arguments, lambda n: rng.uniform(0, 0.005 + 0.005 * n))
    assert kills >= 1
    kept = {name: data for name, data in tree(sharded).items() if name.startswith("shards")}
    assert tree(out) == {**undisturbed.files, **(kept if keep else {})}
    assert commands.run("merge", "--out", out, "-q") == 0
    assert tree(out) == undisturbed.files


def test_killed_while_shards_were_removed(
    commands: Commands, source: Path, sharded: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(sharded, tmp_path / "i"))
    assert commands.run("merge", "--out", out, "--keep-shards", "-q") == 0
    (out / SHARDS[0]).unlink()
    shards_left = tree(out)
    assert commands.run(*build(source, out, "--keep-shards")) == 0
    assert tree(out) == shards_left
    assert commands.run(*build(source, out)) == 0
    assert tree(out) == undisturbed.files


@pytest.mark.parametrize("at", ["training/kmeans.json", f"{SHARDS[0]}.tmp"])
def test_interrupt_leaves_a_resumable_build(
    at: str, commands: Commands, source: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    interrupt(build(source, tmp_path / "i"), (tmp_path / "i" / at).exists)
    assert not list((tmp_path / "i").rglob("*.tmp"))
    assert commands.run(*build(source, tmp_path / "i")) == 0
    assert tree(tmp_path / "i") == undisturbed.files


def test_a_finished_build_stays_as_it_is(
    commands: Commands, source: Path, undisturbed: Undisturbed
) -> None:
    times = {path: path.stat().st_mtime_ns for path in undisturbed.root.rglob("*")}
    assert commands.run(*build(source, undisturbed.root)) == 0
    assert {path: path.stat().st_mtime_ns for path in undisturbed.root.rglob("*")} == times
    assert tree(undisturbed.root) == undisturbed.files


def test_groundtruth_killed(commands: Commands, source: Path, tmp_path: Path) -> None:
    queries = write_fbin(tmp_path / "q.fbin", clustered(200, 32, seed=1))
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, out = tmp_path / "whole" / "gt.bin", tmp_path / "killed" / "gt.bin"
    options = ["-k", "10", "-q"]
    started = time.monotonic()
    assert commands.run("groundtruth", source, queries, "--out", whole, *options) == 0
    longest, rng = 0.6 * (time.monotonic() - started), random.Random(6)
    arguments = ["groundtruth", source, queries, "--out", out, *options]
    kills = 0
    for name in ("state.json", "values-16384.npy", "ids-24576.npy.tmp"):
        code = commands.run(*arguments, kill_at=tmp_path / "killed" / "gt.bin.partial" / name)
        kills += code == KILLED
    kills += finish_under_kills(commands, arguments, lambda _: rng.uniform(0.01, longest))
    assert kills >= 3
    assert tree(out.parent) == tree(whole.parent)  # the file, and no checkpoint


def test_groundtruth_removes_what_a_kill_left(
    commands: Commands, source: Path, tmp_path: Path
) -> None:
    queries = write_fbin(tmp_path / "q.fbin", clustered(5, 32, seed=1))
    out, data = tmp_path / "gt.bin", source.with_name("few.fbin")
    write_fbin(data, clustered(500, 32))
    (tmp_path / "gt.bin.partial").mkdir()
    for name in ("state.json.tmp", "values-8192.npy.tmp", "ids-8192.npy"):
        (tmp_path / "gt.bin.partial" / name).write_bytes(b"half")
    assert commands.run("groundtruth", data, queries, "--out", out, "-k", "3", "-q") == 0
    assert sorted(tree(tmp_path)) == ["gt.bin", "q.fbin"]


def test_export_killed(commands: Commands, undisturbed: Undisturbed, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.faiss", tmp_path / "out.faiss"
    assert commands.run("export-faiss", undisturbed.root, whole, "-q") == 0
    arguments = ["export-faiss", undisturbed.root, out, "-q"]
    assert commands.run(*arguments, kill_at=tmp_path / "out.faiss.tmp") == KILLED
    assert not out.exists()
    assert commands.run(*arguments) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(tree(tmp_path)) == ["out.faiss", "whole.faiss"]


def test_calibration_killed(
    commands: Commands, source: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    whole, out = (Path(shutil.copytree(undisturbed.root, tmp_path / name)) for name in "ab")
    arguments = ["calibrate", out, "--data", source, "-q"]
    assert commands.run("calibrate", whole, "--data", source, "-q") == 0
    kills = 0
    for name in ("calibration.partial/state.json", "calibration.json.tmp"):
        kills += commands.run(*arguments, kill_at=out / name) == KILLED
    assert kills >= 1
    # The build finds what is missing: here, the calibration.
    again = [argument for argument in build(source, out) if argument != "--no-calibrate"]
    assert commands.run(*again) == 0
    assert tree(out) == tree(whole)
    added = {name for name in tree(out) if name.split("/")[0] not in ("known", "adding")}
    assert added == {*undisturbed.files, "calibration.json"}
