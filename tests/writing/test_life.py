"""A life of an index beside a dictionary: any changes leave what the dictionary holds."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import teravec
from tests.conftest import clustered

D, NLIST, NAMES = 4, 5, 60
VECTORS = clustered(400, D, seed=1)
CROWD = (VECTORS[3] + 0.01 * VECTORS[:NAMES]).astype(np.float32)
QUERIES = clustered(4, D, seed=2)

some_ids = st.lists(st.integers(0, NAMES - 1), min_size=1, max_size=12, unique=True)
Held = dict[int, npt.NDArray[np.float32]]


class Life(RuleBasedStateMachine):
    """Versions and what each holds; flat codes and all lists, so searches are exact."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "index"
        self.states: dict[int, Held] = {}
        self.newest = 0

    @initialize(metric=st.sampled_from(["l2", "ip"]))
    def build(self, metric: str) -> None:
        ids = np.arange(0, NAMES, 2)
        rows = VECTORS[: len(ids)]
        teravec.build(
            rows, self.path, ids=ids, nlist=NLIST, codec="flat", metric=metric, calibrate=False
        )
        self.metric = metric
        self.states[0] = dict(zip(ids.tolist(), rows, strict=True))
        self.index = teravec.open(self.path)

    def _commit(self, manifest: teravec.Manifest | None, held: Held) -> None:
        if manifest is not None:
            assert manifest.number == self.newest + 1
            self.newest = manifest.number
            self.states[self.newest] = held

    @property
    def held(self) -> Held:
        return dict(self.states[self.newest])

    @rule(ids=some_ids, start=st.integers(0, 300), crowded=st.booleans())
    def upsert(self, ids: list[int], start: int, crowded: bool) -> None:
        rows = CROWD[ids] if crowded else VECTORS[start : start + len(ids)]
        manifest = teravec.add(self.path, rows, ids=ids)
        self._commit(manifest, self.held | dict(zip(ids, rows, strict=True)))

    @rule(ids=some_ids)
    def delete(self, ids: list[int]) -> None:
        held = {name: row for name, row in self.held.items() if name not in ids}
        self._commit(teravec.delete(self.path, ids), held)

    @rule(full=st.booleans())
    def compact(self, full: bool) -> None:
        self._commit(teravec.compact(self.path, full=full), self.held)

    @rule(cap=st.sampled_from([None, 150, 400]))
    def rebalance(self, cap: int | None) -> None:
        self._commit(teravec.rebalance(self.path, max_list_bytes=cap), self.held)

    @rule(back=st.integers(1, 4))
    def roll_back(self, back: int) -> None:
        number = self.newest - back
        if number in self.states:
            self._commit(teravec.rollback(self.path, number), dict(self.states[number]))

    @rule()
    def vacuum(self) -> None:
        for number in teravec.vacuum(self.path, older_than=timedelta(0)).versions:
            del self.states[number]
        teravec.verify(self.path)

    @rule()
    def reopen(self) -> None:
        self.index.close()
        self.index = teravec.open(self.path)

    @invariant()
    def holds_what_the_dictionary_holds(self) -> None:
        if not self.states:
            return
        self.index.refresh()
        assert self.index.manifest.number == self.newest
        held = self.states[self.newest]
        _, found = self.index.search(QUERIES, NAMES + 5, nprobe=self.index.nlist)
        distances, _ = self.index.search(QUERIES, max(1, len(held)), nprobe=self.index.nlist)
        names = np.array(sorted(held), np.int64)
        vectors = np.array([held[name] for name in names.tolist()], np.float64).reshape(-1, D)
        squares = ((QUERIES[:, None] - vectors[None]) ** 2).sum(-1)
        products = -(QUERIES.astype(np.float64) @ vectors.T)
        expected = np.sort(squares if self.metric == "l2" else products, axis=1)
        for row, ids in enumerate(found):
            assert sorted(ids[ids >= 0].tolist()) == names.tolist()
            mine = distances[row][: len(names)] * (1 if self.metric == "l2" else -1)
            np.testing.assert_allclose(mine, expected[row], rtol=1e-4, atol=1e-4)

    def teardown(self) -> None:
        if self.states:
            self.index.close()
        self.folder.cleanup()


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=8,
    stateful_step_count=8,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
