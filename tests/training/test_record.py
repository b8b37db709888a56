"""The build record: the same build goes on, any other is refused, nothing is overwritten."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from teravec.errors import CorruptFile, InvalidArgument, MissingFile, OutputExists, TeravecError
from teravec.sources import Source, Weights, open_source
from teravec.storage.jsonfile import read_json, write_json
from teravec.storage.layout import IndexPaths
from teravec.training.options import TrainOptions
from teravec.training.record import BuildRecord, LayoutOptions, begin_build, read_record
from tests.storage.damage import flipped

TRAIN = TrainOptions(nlist=4, codec="flat")
LAYOUT = LayoutOptions(shards=2, slices=None)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    np.save(tmp_path / "base.npy", np.random.default_rng(0).standard_normal((100, 8)).astype("f4"))
    return open_source(tmp_path / "base.npy")


@pytest.fixture
def paths(tmp_path: Path) -> IndexPaths:
    return IndexPaths(tmp_path / "new" / "index")


def tree(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def begin(paths: IndexPaths, source: Source, **changes: Any) -> BuildRecord:
    layout = {name: changes.pop(name) for name in ("shards", "slices") if name in changes}
    train, cut = replace(TRAIN, **changes), replace(LAYOUT, **layout)
    with begin_build(paths, source, train, cut) as record:
        return record


def begin_weighed(paths: IndexPaths, source: Source, weights: Weights | None) -> BuildRecord:
    with begin_build(paths, source, TRAIN, LAYOUT, weights) as record:
        return record


def test_new_then_the_same_again(paths: IndexPaths, source: Source) -> None:
    record = begin(paths, source)
    before = tree(paths.root)
    assert list(before) == [paths.root / "build.json"]
    assert read_record(paths) == record == begin(paths, source)
    assert tree(paths.root) == before
    assert record.plan() == read_record(paths).plan()
    assert record.ntotal == 100


def test_moved_source_is_the_same_source(paths: IndexPaths, source: Source, tmp_path: Path) -> None:
    record = begin(paths, source)
    (tmp_path / "elsewhere").mkdir()
    moved = Path(source.files[0].path).rename(tmp_path / "elsewhere" / "base.npy")
    assert begin(paths, open_source(moved)) == record


@pytest.mark.parametrize(
    "change",
    [
        {"nlist": 5},
        {"metric": "ip"},
        {"transform": "none"},
        {"codec": "sq8"},
        {"sample": 50},
        {"niter": 3},
        {"seed": 1},
        {"shards": 3},
        {"shards": None},
        {"slices": 2},
    ],
    ids=str,
)
def test_other_options_are_refused(
    paths: IndexPaths, source: Source, change: dict[str, Any]
) -> None:
    begin(paths, source)
    before = tree(paths.root)
    (name,) = change
    with pytest.raises(OutputExists, match=f"{paths.root} holds another index: {name} "):
        begin(paths, source, **change)
    assert tree(paths.root) == before


def _other_content(path: Path) -> Path:
    np.save(path, np.ones((100, 8), np.float32))
    return path


def _other_rows(path: Path) -> Path:
    np.save(path, np.ones((99, 8), np.float32))
    return path


def _other_name(path: Path) -> Path:
    return path.rename(path.with_name("other.npy"))


@pytest.mark.parametrize(
    ("make_other", "words"),
    [
        (_other_content, "its content changed"),
        (_other_rows, "99 x 8 from base.npy found, 100 x 8 from base.npy expected"),
        (_other_name, "100 x 8 from other.npy found"),
    ],
)
def test_other_source_is_refused(
    paths: IndexPaths, source: Source, make_other: Callable[[Path], Path], words: str
) -> None:
    begin(paths, source)
    other = open_source(make_other(Path(source.files[0].path)))
    with pytest.raises(OutputExists, match=f"{paths.root} was begun with other vectors: {words}"):
        begin(paths, other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shards": 0}, "shards is 0; at least 1"),
        ({"slices": -1}, "slices is -1; at least 1"),
        ({"shards": 101}, "101 shards of 100 vectors"),
        ({"slices": 5}, "5 slices of 4 lists"),
        ({"nlist": 0}, "nlist"),
        ({"nlist": 101}, "101 lists"),
        ({"codec": "pq3"}, "divisible"),
    ],
    ids=str,
)
def test_invalid_options_write_nothing(
    paths: IndexPaths, source: Source, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidArgument, match=words):
        begin(paths, source, **change)
    assert not paths.root.parent.exists()


def test_what_is_in_the_way_is_left_alone(paths: IndexPaths, source: Source) -> None:
    paths.root.parent.mkdir()
    paths.root.write_text("a file")
    with pytest.raises(OutputExists, match="is not a teravec build"):
        begin(paths, source)
    assert paths.root.read_text() == "a file"
    paths.root.unlink()
    paths.root.mkdir()
    (paths.root / "thesis.tex").write_text("all of it")
    with pytest.raises(OutputExists, match="is not a teravec build"):
        begin(paths, source)
    assert tree(paths.root) == {paths.root / "thesis.tex": b"all of it"}


def test_empty_directory_and_one_of_a_killed_begin_are_used(
    paths: IndexPaths, source: Source
) -> None:
    paths.root.mkdir(parents=True)
    begin(paths, source)
    paths.build.remove()
    (paths.root / "build.json.tmp").write_bytes(b"half")
    record = begin(paths, source)
    assert list(tree(paths.root)) == [paths.root / "build.json"]
    assert read_record(paths) == record


def test_damaged_record_is_corrupt(paths: IndexPaths, source: Source) -> None:
    with pytest.raises(MissingFile):
        read_record(paths)
    begin(paths, source)
    for _ in flipped(paths.root / "build.json", flips=[0x02]):
        with pytest.raises(CorruptFile):
            read_record(paths)
    content = read_json(paths.build, "teravec-build", 1)
    wrongs: list[dict[str, Any]] = [{"train": {"lists": 3}}, {"train": []}, {"layout": None}]
    for wrong in wrongs:
        write_json(paths.build, {**content, **wrong})
        with pytest.raises(CorruptFile, match="unexpected fields"):
            read_record(paths)


def test_name_that_the_system_refuses(tmp_path: Path, source: Source) -> None:
    with pytest.raises(TeravecError):
        begin(IndexPaths(tmp_path / ("x" * 300)), source)


def test_weights_belong_to_the_build(paths: IndexPaths, source: Source, tmp_path: Path) -> None:
    weights = np.linspace(0, 1, 100, dtype=np.float32)
    np.save(tmp_path / "w.npy", weights)
    given = Weights(tmp_path / "w.npy", 100)
    record = begin_weighed(paths, source, given)
    assert read_record(paths) == record == begin_weighed(paths, source, given)
    with pytest.raises(OutputExists, match=r"begun with weights w\.npy .* not no weights"):
        begin_weighed(paths, source, None)
    np.save(tmp_path / "w.npy", weights[::-1])
    with pytest.raises(OutputExists, match="begun with weights"):
        begin_weighed(paths, source, Weights(tmp_path / "w.npy", 100))
