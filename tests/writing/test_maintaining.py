"""Maintenance does what reading makes worth it, and nothing else; a budget cuts it off anywhere."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import timedelta

import numpy as np
import pytest

import teravec
from teravec.engines.deadline import Deadline, TimeIsOver
from teravec.engines.resources import Resources
from teravec.index.pending import list_pending
from teravec.progress import Bar, NoProgress
from teravec.storage.layout import IndexPaths
from teravec.writing.maintaining import maintain_index
from tests.writing.conftest import BASE, ROWS, MakeIndex
from tests.writing.test_adding import all_lists, brute_force


def test_nothing_to_do(index_of: MakeIndex) -> None:
    out = index_of()
    found = teravec.maintain(out, budget="10min")
    assert (found.version, found.runs, found.deleted, found.steps) == (0, 1, 0.0, ())
    teravec.add(out, ROWS[BASE : BASE + 10])  # one run more, and it is small
    assert teravec.maintain(out).steps == ()


def test_few_runs_stay_after_any_additions(index_of: MakeIndex) -> None:
    out = index_of()
    for start in range(BASE, 3000, 50):
        teravec.add(out, ROWS[start : start + 50])
        found = teravec.maintain(out, memory="64MiB")
        assert found.runs <= 4
        for step in found.steps:
            assert (step.what, step.left, step.version) == ("compact", "", found.version)
    assert (all_lists(out)[1] == brute_force(np.arange(3000))).all()


def test_a_spent_budget_is_gone_on_with(index_of: MakeIndex) -> None:
    out = index_of("rabitq1+sq8")
    for start in range(BASE, 2500, 100):
        teravec.add(out, ROWS[start : start + 100])
    before, version = all_lists(out), teravec.versions(out)[-1].number
    (step,) = teravec.maintain(out, budget=timedelta(0)).steps
    assert (step.version, step.left) == (None, "the budget is spent")
    (begun,) = list_pending(IndexPaths(out))
    teravec.delete(out, [5])  # others go on
    found = teravec.maintain(out)
    assert found.steps[0].version == found.version == version + 2
    assert not list_pending(IndexPaths(out))
    assert all(begun.owns(segment.file) for segment in teravec.versions(out)[-1].segments)
    teravec.rollback(out, version)
    for mine, theirs in zip(all_lists(out), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)


class Stages:
    """Remembers the stages."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Bar]:
        self.stages.append(name)
        return NoProgress().stage(name, total, unit)


def test_stages_pass_through_a_deadline() -> None:
    inner = Stages()
    deadline = Deadline(inner, 1000)
    with deadline.stage("compact", 3, "bytes") as bar:
        bar.advance(3)
    assert inner.stages == ["compact"]
    assert 0 < deadline.left_s <= 1000
    over = Deadline(inner, 0)
    with pytest.raises(TimeIsOver), over.stage("count", 3, "ids"):
        pass
    assert inner.stages == ["compact"]
    assert over.left_s == 0


def test_what_others_overtake_is_left(index_of: MakeIndex) -> None:
    out = index_of()
    for start in range(BASE, 2500, 100):
        teravec.add(out, ROWS[start : start + 100])

    class Overtaking(NoProgress):
        def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Bar]:
            if name == "compact":
                teravec.rollback(out, 1)
            return super().stage(name, total, unit)

    with Resources(progress=Overtaking()) as resources:
        (step,) = maintain_index(IndexPaths(out), resources).steps
    assert step.version is None
    assert "rolled back meanwhile" in step.left


def test_drift_is_rebalanced(index_of: MakeIndex) -> None:
    out = index_of("sq8")
    rng = np.random.default_rng(0)
    shape = (1500, ROWS.shape[1])
    rows = ROWS[7] + 0.3 * ROWS.std() * rng.standard_normal(shape)
    teravec.add(out, rows.astype(np.float32))
    with teravec.open(out) as index:
        largest = int(index.list_sizes.max())
    found = teravec.maintain(out)
    assert [step.what for step in found.steps] == ["rebalance", "compact"]
    assert "vectors in a list" in found.steps[0].why
    with teravec.open(out) as index:
        assert index.list_sizes.max() < largest / 3
    assert teravec.maintain(out).steps == ()
