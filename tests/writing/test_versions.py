"""Versions: committed by one writer at a time, opened, gone back to, removed."""

from __future__ import annotations

import json
import multiprocessing
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

import teravec
from teravec.index.manifest import read_manifest
from teravec.index.versions import commit_version
from teravec.storage.layout import IndexPaths
from tests.writing.conftest import BASE, NLIST, QUERIES, ROWS, MakeIndex
from tests.writing.test_adding import all_lists


def test_going_back_and_forth(index_of: MakeIndex) -> None:
    out = index_of()
    before = all_lists(out)[1]
    teravec.add(out, ROWS[BASE:])
    after = all_lists(out)[1]
    teravec.rollback(out, 0)
    assert (all_lists(out)[1] == before).all()
    teravec.rollback(out, 1)
    assert (all_lists(out)[1] == after).all()
    manifest = teravec.add(out, ROWS[:5])
    assert manifest.next_id == len(ROWS) + 5
    history = teravec.versions(out)
    assert [version.number for version in history] == [0, 1, 2, 3, 4]
    assert [version.parent for version in history] == [None, 0, 1, 2, 3]
    with pytest.raises(teravec.MissingFile, match="version 9"):
        teravec.rollback(out, 9)
    with pytest.raises(teravec.InvalidArgument, match="newest"):
        teravec.rollback(out, 4)


def test_ids_are_not_given_twice(index_of: MakeIndex) -> None:
    out = index_of()
    teravec.add(out, ROWS[:10])
    teravec.rollback(out, 0)
    assert teravec.add(out, ROWS[:10]).segments[-1].id_base == BASE + 10


def _add(path: Path, start: int) -> None:
    teravec.add(path, ROWS[start : start + 100])


def _delete(path: Path, start: int) -> None:
    teravec.delete(path, np.arange(start, start + 10))


def test_writers_at_once_lose_nothing(index_of: MakeIndex) -> None:
    out = index_of()
    spawn = multiprocessing.get_context("spawn")
    tasks = [(_add, BASE + 100 * i) for i in range(4)] + [(_delete, 10 * i) for i in range(3)]
    processes = [spawn.Process(target=function, args=(out, start)) for function, start in tasks]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    manifest = read_manifest(IndexPaths(out))
    assert (manifest.number, manifest.ntotal, manifest.next_id) == (7, BASE + 400, BASE + 400)
    ids = all_lists(out, 3000)[1]
    for row in ids:
        assert sorted(row[row >= 0].tolist()) == list(range(30, BASE + 400))


def test_a_commit_applies_to_what_another_committed(index_of: MakeIndex) -> None:
    out, seen = index_of(), []

    def change(newest: teravec.Manifest) -> teravec.Manifest:
        seen.append(newest.number)
        if len(seen) == 1:
            teravec.delete(out, [1])  # another writer, just before our commit
        return newest

    assert commit_version(IndexPaths(out), change).number == 2
    assert seen == [0, 1]


def test_older_releases_refuse_the_index(index_of: MakeIndex) -> None:
    out = index_of()
    first = json.loads((out / "manifest.json").read_text())
    assert first["version"] == 1
    teravec.delete(out, [1])
    # They expect version 1 of this file, and would go on to serve what was built.
    assert json.loads((out / "manifest.json").read_text())["version"] == 2
    for path in (out / "versions").iterdir():
        path.unlink()
    with pytest.raises(teravec.MissingFile, match="versions"):
        teravec.open(out)


def test_every_byte_of_a_version_counts(index_of: MakeIndex) -> None:
    out = index_of()
    teravec.delete(out, [1])
    path = out / "versions" / "0000000001.json"
    data = path.read_bytes()
    for at in range(0, len(data), 37):
        damaged = bytearray(data)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(teravec.TeravecError, match="0000000001"):
            teravec.open(out)
    path.write_bytes(data)
    (out / "versions" / "0000000002.json").write_bytes(data)
    with pytest.raises(teravec.ForeignFile, match="version 1 found, 2 expected"):
        teravec.open(out)


def test_vacuum_keeps_what_readers_may_use(index_of: MakeIndex) -> None:
    out = index_of()
    teravec.add(out, ROWS[BASE:])
    teravec.delete(out, [3])
    teravec.rollback(out, 0)
    assert teravec.vacuum(out).versions == ()  # all are younger than a week
    expected = all_lists(out)[1]
    removed = teravec.vacuum(out, older_than=timedelta(0))
    assert removed.versions == (0, 1, 2)
    assert removed.files == 3 + 2  # a segment and a delete set
    assert (all_lists(out)[1] == expected).all()
    teravec.verify(out)
    with pytest.raises(teravec.MissingFile):
        teravec.open(out, version=1)
    assert not list((out / "segments").glob("*.lists"))


@pytest.mark.parametrize("age", ["7", "seven days", "-1d", "1y", ""])
def test_ages_that_are_none(index_of: MakeIndex, age: str) -> None:
    with pytest.raises(teravec.InvalidArgument, match="a number with a unit"):
        teravec.vacuum(index_of(), older_than=age)


def test_a_calibration_ages(index_of: MakeIndex, tmp_path: Path) -> None:
    out = tmp_path / "calibrated"
    teravec.build(ROWS[:BASE], out, nlist=NLIST, codec="sq8")
    with teravec.open(out) as index:
        expected = index.effort(recall=0.8, k=10)
    teravec.add(out, ROWS[BASE:])
    with teravec.open(out) as index:
        assert index.effort(recall=0.8, k=10) == expected
        assert index.calibration is not None
        assert index.calibration_age == pytest.approx(1000 / 3000)
    assert teravec.info(out)["calibration"]["age"] == pytest.approx(1000 / 3000)


def test_calibrating_is_a_version(index_of: MakeIndex) -> None:
    out = index_of("sq8")
    teravec.add(out, ROWS[BASE:])
    with pytest.raises(teravec.InvalidArgument, match="rows were added"):
        teravec.calibrate(out, data=ROWS[:BASE])
    truth = all_lists(out)
    teravec.calibrate(out, QUERIES, truth=truth, ks=[10])
    manifest = teravec.versions(out)[-1]
    assert (manifest.number, manifest.what) == (2, "calibrate")
    with teravec.open(out) as index:
        assert index.calibration_age == 0
        assert index.effort(recall=0.8, k=10).nprobe < NLIST
    teravec.verify(out)
