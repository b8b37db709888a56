"""Vacuum at any moment of another change: what nobody has committed yet is not removed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import teravec
from teravec.index.calibration import read_kept
from teravec.index.manifest import read_manifest
from teravec.index.pending import list_pending
from teravec.storage.layout import IndexPaths
from teravec.storage.local_store import LocalStore
from tests.conftest import clustered

ROWS = clustered(1700, 8, seed=3)
BASE = 1200


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index that keeps queries, with added and deleted rows and a crowded list."""
    out = tmp_path_factory.mktemp("changed") / "index"
    teravec.build(ROWS[:BASE], out, nlist=16, niter=2, codec="sq8", sample=800, calibrate=False)
    teravec.calibrate(out, data=ROWS[:BASE], nqueries=60, ks=(1, 5))
    teravec.delete(out, np.arange(0, 200))
    crowd = ROWS[5] + 0.01 * clustered(400, 8, seed=4)
    teravec.add(out, crowd.astype(np.float32))
    return out


@contextmanager
def vacuuming(out: Path, patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Vacuum before and after each file that the body writes; yield the files' names."""
    seen: list[str] = []
    busy: list[bool] = []

    def vacuum(name: str) -> None:
        if not busy and (out / "manifest.json").exists():
            busy.append(True)
            teravec.vacuum(out, older_than="0s")
            busy.clear()
            seen.append(name)

    publish, create = LocalStore.publish, LocalStore.create

    @contextmanager
    def publish_vacuumed(self: LocalStore, name: str, *args: Any, **given: Any) -> Iterator[Any]:
        vacuum(name)
        with publish(self, name, *args, **given) as writer:
            yield writer
        vacuum(name)

    def create_vacuumed(self: LocalStore, name: str, data: bytes) -> None:
        vacuum(name)
        create(self, name, data)
        vacuum(name)

    with patch.context() as here:
        here.setattr(LocalStore, "publish", publish_vacuumed)
        here.setattr(LocalStore, "create", create_vacuumed)
        yield seen


def rebalance_and_calibrate(out: Path) -> None:
    assert {"rebalance", "calibrate"} <= {step.what for step in teravec.maintain(out).steps}


def give_data(out: Path) -> None:
    teravec.calibrate(out, ROWS[-40:], truth=_truth(out), ks=(1, 5))


def _truth(out: Path) -> tuple[np.ndarray, np.ndarray]:
    with teravec.open(out) as index:
        return index.search(ROWS[-40:], 20, nprobe=index.nlist)


CHANGES: dict[str, Callable[[Path], object]] = {
    "add": lambda out: teravec.add(out, ROWS[BASE : BASE + 100]),
    "delete": lambda out: teravec.delete(out, [300]),
    "compact": lambda out: teravec.compact(out, full=True),
    "maintain": rebalance_and_calibrate,
    "calibrate again": lambda out: teravec.calibrate(out, ks=(1, 5)),
    "calibrate with a truth": give_data,
    "erase": lambda out: teravec.compact(out, purge=True),
    "roll back": lambda out: teravec.rollback(out, teravec.versions(out)[0].number),
}


@pytest.mark.parametrize("name", CHANGES)
def test_vacuum_at_each_step_of_a_change(
    changed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    out = Path(shutil.copytree(changed, tmp_path / "index"))
    before = read_manifest(IndexPaths(out)).number
    with vacuuming(out, monkeypatch) as steps:
        CHANGES[name](out)
    paths = IndexPaths(out)
    manifest = read_manifest(paths)
    assert manifest.number > before
    assert any(step.startswith("versions/") for step in steps)
    teravec.verify(out)
    assert read_kept(paths, manifest) is not None
    if name not in ("roll back", "erase"):
        teravec.calibrate(out, ks=(1, 5))
    assert not list_pending(paths)
    teravec.vacuum(out, older_than="0s")
    with teravec.open(out) as index:
        assert index.search(ROWS[:5], 5, nprobe=index.nlist)[1].min() >= 0


def test_vacuum_while_a_build_is_calibrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "index"
    with vacuuming(out, monkeypatch) as steps:
        teravec.build(ROWS[:BASE], out, nlist=16, niter=2, codec="sq8", sample=800)
    assert any(step.startswith("known/queries") for step in steps)
    teravec.verify(out)
    teravec.add(out, ROWS[BASE:])
    teravec.calibrate(out, ks=(1, 10))


def test_vacuum_at_each_step_of_a_copy(
    changed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(changed, tmp_path / "index"))
    target = tmp_path / "target"
    teravec.copy(out, target, version=teravec.versions(out)[0].number)
    with vacuuming(target, monkeypatch) as steps:
        teravec.copy(out, target)
    assert any(step.startswith("segments/") for step in steps)
    assert read_manifest(IndexPaths(target)).number == read_manifest(IndexPaths(out)).number
    teravec.verify(target)
    assert not list_pending(IndexPaths(target))
