"""Damage of every kind: a typed error that names the file, or the right answer; nothing else."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import teravec
from teravec.cli.main import app
from teravec.engines.block_sizes import BlockSizes
from teravec.engines.resources import Resources
from teravec.evaluation.groundtruth import groundtruth
from teravec.index.manifest import read_manifest, write_manifest
from teravec.index.verify import verify
from teravec.kernels.metric import Metric
from teravec.model.description import ModelDescription
from teravec.progress import NoProgress, Progress
from teravec.search.memory_shares import MemoryShares
from teravec.sources import open_source
from teravec.storage.arrays import describe_file
from teravec.storage.jsonfile import write_json
from teravec.storage.layout import IndexPaths
from teravec.storage.listfile import ListFile
from teravec.training.options import TrainOptions
from teravec.training.record import LayoutOptions
from tests.conftest import LONG, clustered
from tests.faults.conftest import tree
from tests.stopping import Stopped, StopsAfter

D, N, NLIST = 4, 120, 3
QUERIES = clustered(4, D, seed=9)


def make(root: Path, seed: int) -> Path:
    """A tiny index with every kind of file that it cannot do without."""
    root.mkdir()
    np.save(root / "x.npy", clustered(N, D, seed))
    teravec.build(
        root / "x.npy",
        root / "i",
        nlist=NLIST,
        codec="sq8",
        transform="rotation",
        slices=2,
        shards=2,
        niter=2,
        calibrate=False,
    )
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


def within(root: Path) -> tuple[np.ndarray, ...]:
    """What a range search of all lists finds: about everything."""
    with teravec.open(root, threads=1) as index:
        return index.range_search(QUERIES, radius=1e6, nprobe=NLIST)


def assert_same(found: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> None:
    """Every array equal."""
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@contextmanager
def flipped(path: Path, at: int, *, restore: bool = True) -> Iterator[None]:
    """A file with another byte at one place."""
    with path.open("r+b", buffering=0) as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 + 37 * at % 255)]))
        yield
        if restore:
            file.seek(at)
            file.write(bytes([byte]))


def check_found(
    root: Path, name: Path, expected: tuple[np.ndarray, np.ndarray], *, alone: bool = True
) -> None:
    """The damage is reported with the file's name, and search gives no wrong answer.

    Of a sound file from elsewhere (not ``alone``), search may name another that disagrees.
    """
    try:
        damages = verify(root, NoProgress())
    except teravec.TeravecError as error:
        damages = [error]
    assert damages, f"{name}: damage not found"
    assert any(name.name in str(damage) for damage in damages), [str(d) for d in damages]
    try:
        found = answer(root)
    except teravec.TeravecError as error:
        message = str(error)
        if (name.name if alone else str(root)) not in message:
            raise AssertionError(f"{name} is damaged, and search says: {message}") from error
        return
    assert_same(found, expected)


def places(size: int, every: int = 1) -> list[int]:
    """Bytes of a file to flip: the ends whole, and of the rest those at some distance."""
    step = every if LONG else 7 * every
    return sorted({*range(0, size, step), *range(min(64, size)), *range(max(0, size - 8), size)})


def test_every_byte_flipped(index: Path) -> None:
    expected, flips = answer(index), 0
    for name in files(index):
        for at in places((index / name).stat().st_size):
            with flipped(index / name, at):
                check_found(index, name, expected)
            flips += 1
    assert flips > (4000 if LONG else 1000)
    assert verify(index, NoProgress()) == []


def test_files_cut_extended_removed_or_replaced(index: Path, other: Path) -> None:
    expected = answer(index)
    for name in files(index):
        path = index / name
        data = path.read_bytes()
        cuts = [data[:n] for n in (0, 1, 7, len(data) // 2, len(data) - 1)]
        theirs = (other / name).read_bytes()
        for damaged in [*cuts, data + b"x", data + data, theirs]:
            path.write_bytes(damaged)
            if damaged != data:  # the two have the same rotation
                check_found(index, name, expected, alone=damaged != theirs)
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
    for name in ("slices/00000.lists", "slices/00001.lists"):
        check_found(index, Path(name), expected, alone=False)
    with pytest.raises(teravec.CorruptFile, match="slices/0000"):
        answer(index)


@pytest.mark.parametrize("part", ["model", "slices"])
def test_directories_of_another_index(part: str, index: Path, other: Path) -> None:
    shutil.rmtree(index / part)
    shutil.copytree(other / part, index / part)
    with pytest.raises(teravec.CorruptFile, match=part):
        answer(index)
    assert any(part in str(damage) for damage in verify(index, NoProgress()))


def test_lists_flipped_where_they_are_streamed(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Lists that memory does not hold are read through buffers, and large ones in parts.
    expected, of_memory = answer(index), MemoryShares.of

    def stream(*given: Any, **options: Any) -> MemoryShares:
        return replace(of_memory(*given, **options), lists_bytes=0, chunk_bytes=100)

    monkeypatch.setattr(MemoryShares, "of", stream)
    assert_same(answer(index), expected)
    assert_same(within(index), within(index))
    for name in ("slices/00000.lists", "slices/00001.lists"):
        with ListFile(index / name) as file:
            rows_stop = file.header.table_offset
        for at in range(128, rows_stop, 19):
            with flipped(index / name, at):
                with pytest.raises(teravec.CorruptFile, match=Path(name).name):
                    within(index)
                check_found(index, Path(name), expected)  # it need not read every list's ids


@pytest.mark.parametrize("cut", [False, True])
def test_damage_after_opening(cut: bool, index: Path) -> None:
    path = index / "slices/00000.lists"
    data = path.read_bytes()
    with teravec.open(index) as opened:
        with path.open("r+b") as file:
            file.truncate(200 if cut else len(data))
            file.seek(150)
            file.write(bytes([data[150] ^ 1]))
        with pytest.raises(teravec.CorruptFile, match=path.name):
            opened.search(QUERIES, k=5, nprobe=NLIST)
        with pytest.raises(teravec.CorruptFile, match=path.name):  # and it stays an error
            opened.search(QUERIES, k=5, nprobe=NLIST)
        path.write_bytes(data)
        expected = opened.search(QUERIES, k=5, nprobe=NLIST)
    assert_same(expected, answer(index))


def test_damage_on_the_command_line(index: Path, tmp_path: Path) -> None:
    path = index / "slices/00001.lists"
    path.write_bytes(path.read_bytes()[:130] + b"??" + path.read_bytes()[132:])
    (index / "model" / "codec.npy").unlink()
    result = CliRunner().invoke(app, ["verify", str(index), "-q"])
    assert result.exit_code == 1
    assert [name for name in ("codec.npy", path.name) if name in result.stderr] == [
        "codec.npy",
        path.name,
    ]
    assert len(result.stderr.splitlines()) == 2  # a line for each damage
    result = CliRunner().invoke(app, ["info", str(index)])
    assert result.exit_code == 1
    assert "codec.npy" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_export_of_a_damaged_index_leaves_nothing(index: Path, tmp_path: Path) -> None:
    path = index / "slices/00001.lists"
    for at in range(128, path.stat().st_size, 29):
        with flipped(path, at), pytest.raises(teravec.CorruptFile, match=path.name):
            teravec.export_faiss(index, tmp_path / "out.faiss")
        assert [p.name for p in tmp_path.iterdir()] == ["i"]


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (self.path, "w")


@pytest.mark.parametrize("name", ["centroids.npy", "codec.npy", "transform.npy"])
def test_no_pickle_is_read_from_a_model(name: str, index: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    np.save(index / "model" / name, np.array([Trap(sprung)], object), allow_pickle=True)
    with pytest.raises(teravec.CorruptFile, match=name):
        answer(index)
    assert name in str(verify(index, NoProgress())[0])
    # As a forger would: with checksums that fit, from the array's up to the manifest's.
    paths = IndexPaths(index)
    description = ModelDescription.read(paths.model)
    files = {**description.files, name: describe_file(paths.model / name)}
    description = replace(description, files=files)
    write_json(paths.model / "model.json", description.content())
    write_manifest(paths, replace(read_manifest(paths), model=description.checksum))
    with pytest.raises(teravec.CorruptFile, match=name):
        answer(index)
    assert not sprung.exists()


def test_no_pickle_is_read_from_a_source(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    np.save(tmp_path / "x.npy", np.array([[Trap(sprung)] * 4] * 9, object), allow_pickle=True)
    with pytest.raises(teravec.InvalidSource, match=r"x\.npy"):
        teravec.build(tmp_path / "x.npy", tmp_path / "i")
    (tmp_path / "y.npy").write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(teravec.InvalidSource, match=r"y\.npy"):
        teravec.build(tmp_path / "y.npy", tmp_path / "i")
    assert not sprung.exists()
    assert not (tmp_path / "i").exists()


def check_merge_stops(root: Path, error: type[Exception], name: str) -> None:
    """The merge stops, names the file, and neither seals an index nor removes a shard."""
    before = tree(root / "shards")
    with pytest.raises(error, match=name):
        teravec.merge(root)
    assert not (root / "manifest.json").exists()
    assert tree(root / "shards") == before
    slices = root / "slices"
    if slices.exists():  # those without the damage may be sealed, and must be right
        sound = tree(root.with_name("sound") / "slices")
        assert all(data == sound[name] for name, data in tree(slices).items())
        shutil.rmtree(slices)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A build that stands before its merge; beside it, in ``sound``, the same merged."""
    np.save(tmp_path / "x.npy", clustered(N, D))
    options = TrainOptions(nlist=NLIST, niter=2)
    teravec.train(tmp_path / "x.npy", tmp_path / "i", options=options, layout=LayoutOptions(3, 2))
    teravec.shard(tmp_path / "x.npy", tmp_path / "i")
    teravec.merge(shutil.copytree(tmp_path / "i", tmp_path / "sound"))
    return tmp_path / "i"


def test_every_byte_of_a_shard_flipped(sharded: Path) -> None:
    path = sorted((sharded / "shards").iterdir())[1]
    with ListFile(path) as file:
        lists = range(file.header.codes_offset, file.header.table_offset)
    # Header, table and footer whole; of the lists, which take a merge to find, a part.
    for at in sorted({*range(path.stat().st_size)} - {*lists} | {*lists[::3]}):
        with flipped(path, at):
            check_merge_stops(sharded, teravec.CorruptFile, path.name)
    teravec.merge(sharded)
    assert tree(sharded) == tree(sharded.with_name("sound"))


def test_shards_missing_cut_or_replaced(sharded: Path, tmp_path: Path) -> None:
    shards = sorted((sharded / "shards").iterdir())
    for number, path in enumerate(shards):
        data = path.read_bytes()
        path.unlink()
        rows = ["0 to 40", "40 to 80", "80 to 120"][number]
        check_merge_stops(sharded, teravec.MissingFile, f"no shard has rows {rows}.*lists")
        path.mkdir()
        check_merge_stops(sharded, teravec.TeravecError, path.name)
        path.rmdir()
        for cut in (b"", data[:1], data[:128], data[: len(data) // 2], data[:-1], data + b"x"):
            path.write_bytes(cut)
            check_merge_stops(sharded, teravec.CorruptFile, path.name)
        path.write_bytes(data)
    # Two shards that have changed places are the same shards.
    one, two = shards[0].read_bytes(), shards[1].read_bytes()
    shards[0].write_bytes(two)
    shards[1].write_bytes(one)
    teravec.merge(sharded)
    assert tree(sharded) == tree(sharded.with_name("sound"))


def test_no_shards(sharded: Path) -> None:
    shutil.rmtree(sharded / "shards")
    with pytest.raises(teravec.MissingFile, match="shards"):
        teravec.merge(sharded)
    assert not (sharded / "slices").exists()


def test_shards_that_overlap_or_are_foreign(sharded: Path, tmp_path: Path) -> None:
    shards = sorted((sharded / "shards").iterdir())
    extra = sharded / "shards" / "9999999999999-9999999999999.lists"
    shutil.copy(shards[1], extra)
    check_merge_stops(sharded, teravec.ForeignFile, "overlap")
    extra.unlink()
    partly = shutil.copytree(sharded, tmp_path / "partly", ignore=lambda *_: ["shards"])
    [wide] = teravec.shard(tmp_path / "x.npy", partly, rows=(30, 70))
    shutil.copy(wide, sharded / "shards")
    check_merge_stops(sharded, teravec.ForeignFile, f"{wide.name}: rows 30 to 70 overlap")
    (sharded / "shards" / wide.name).unlink()
    np.save(tmp_path / "y.npy", clustered(N, D, seed=5))
    options = TrainOptions(nlist=NLIST, niter=2, seed=3)
    teravec.train(tmp_path / "y.npy", tmp_path / "j", options=options, layout=LayoutOptions(3, 2))
    teravec.shard(tmp_path / "y.npy", tmp_path / "j")
    data = shards[2].read_bytes()
    shards[2].write_bytes((tmp_path / "j" / "shards" / shards[2].name).read_bytes())
    check_merge_stops(sharded, teravec.ForeignFile, shards[2].name)
    with pytest.raises(teravec.ForeignFile, match=shards[2].name):
        teravec.shard(tmp_path / "x.npy", sharded)
    shards[2].write_bytes(data)
    teravec.merge(sharded)
    assert tree(sharded) == tree(sharded.with_name("sound"))


def test_a_slice_of_a_killed_merge_that_was_damaged(sharded: Path) -> None:
    # The rerun finds the slice sealed. Unless it is sound, it must stop, or write it again.
    sound = tree(sharded.with_name("sound"))
    (sharded / "slices").mkdir()
    data = (sharded.with_name("sound") / "slices/00000.lists").read_bytes()
    bad = []
    for at in [*range(0, 128, 16), *range(128, len(data), 40), len(data) - 1]:
        build = shutil.copytree(sharded, sharded.with_name(f"at{at}"))
        path, stopped = build / "slices/00000.lists", ""
        path.write_bytes(data)
        with flipped(path, at, restore=False):
            try:
                teravec.merge(build)
            except teravec.CorruptFile as error:
                stopped = str(error)
        kept = tree(build / "shards") == tree(sharded / "shards")
        if not (path.name in stopped and kept if stopped else tree(build) == sound):
            bad.append(at)
    assert bad == []


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A build that stands in the midst of its k-means."""
    np.save(tmp_path / "x.npy", clustered(N, D))
    with pytest.raises(Stopped):
        go_on(tmp_path, progress=StopsAfter(blocks=3, stage="k-means"))
    return tmp_path / "i"


def go_on(directory: Path, progress: Progress | None = None) -> None:
    """Run the build of ``stopped``."""
    source, out = directory / "x.npy", directory / "i"
    teravec.build(
        source, out, nlist=NLIST, niter=5, transform="rotation", progress=progress or NoProgress()
    )


def test_damage_to_what_training_keeps(stopped: Path, tmp_path: Path) -> None:
    kept = [stopped / name for name in files(stopped)]
    assert {"sample.f32", "sample.json", "kmeans.json", "build.json"} < {p.name for p in kept}
    before = tree(stopped)
    for path in kept:
        data = path.read_bytes()
        positions = range(0, len(data), 2 if path.suffix == ".json" else 97)
        for at in positions:
            with flipped(path, at), pytest.raises(teravec.CorruptFile, match=path.name):
                go_on(tmp_path)
            assert before == tree(stopped)
        for cut in (b"", data[:9], data[:-1], data + b"x"):
            path.write_bytes(cut)
            with pytest.raises(teravec.CorruptFile, match=path.name):
                go_on(tmp_path)
        path.unlink()
        path.mkdir()
        with pytest.raises(teravec.TeravecError, match=path.name):
            go_on(tmp_path)
        path.rmdir()
        path.write_bytes(data)
    for name in ("sample.f32", "centroids"):  # those that a sealed file still names
        [path] = [p for p in kept if p.name.startswith(name)]
        moved = path.rename(tmp_path / "moved")
        with pytest.raises(teravec.MissingFile, match=path.name):
            go_on(tmp_path)
        moved.rename(path)
    go_on(tmp_path)
    assert verify(stopped, NoProgress()) == []


@pytest.mark.parametrize("name", ["sample.json", "kmeans.json"])
def test_what_training_keeps_is_made_again(name: str, stopped: Path, tmp_path: Path) -> None:
    (stopped / "training" / name).unlink()
    go_on(tmp_path)
    found = tree(stopped)
    shutil.rmtree(stopped)
    go_on(tmp_path)
    assert tree(stopped) == found


def test_damage_to_a_finished_build(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", clustered(N, D))
    go_on(tmp_path)
    for name in ("build.json", "manifest.json"):
        path = tmp_path / "i" / name
        for at in range(0, path.stat().st_size, 29):
            with flipped(path, at), pytest.raises(teravec.CorruptFile, match=name):
                go_on(tmp_path)


def test_damage_to_the_checkpoint_of_a_ground_truth(tmp_path: Path) -> None:
    sizes = BlockSizes(truth_block_bytes=1 << 12)
    np.save(tmp_path / "x.npy", clustered(1000, D))
    source = open_source(tmp_path / "x.npy")

    def find(progress: Progress) -> tuple[np.ndarray, np.ndarray]:
        return groundtruth(
            source,
            QUERIES,
            5,
            metric=Metric.L2,
            resources=Resources(1 << 30, 1, progress, sizes=sizes, checkpoint_s=0),
            checkpoint=tmp_path / "partial",
        )

    with pytest.raises(Stopped):
        find(StopsAfter(blocks=3, stage="groundtruth"))
    before = tree(tmp_path / "partial")
    assert len(before) == 3
    for name, data in before.items():
        path = tmp_path / "partial" / name
        assert data is not None
        for at in range(0, len(data), 5):
            with flipped(path, at), pytest.raises(teravec.CorruptFile, match=name):
                find(NoProgress())
        path.write_bytes(data[:-1])
        with pytest.raises(teravec.CorruptFile, match=name):
            find(NoProgress())
        path.write_bytes(data)
    assert tree(tmp_path / "partial") == before
    found = find(NoProgress())
    shutil.rmtree(tmp_path / "partial")
    assert_same(found, find(NoProgress()))
