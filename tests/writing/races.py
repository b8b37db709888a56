"""A process that changes an index beside others, and what each version must hold."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import teravec
from teravec.errors import OutputExists

D, NLIST, IDS = 4, 4, 1000
_STEPS = 128  # of one worker at most, for tokens

State = dict[int, int]
"""The token of each id's row."""


@dataclass(frozen=True)
class Op:
    """What one worker does in one step, by its numbers alone.

    A row holds its token, so a search tells which operation wrote it.
    """

    seed: int
    worker: int
    step: int

    @property
    def _rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.worker, self.step])

    @property
    def kind(self) -> str:
        return str(self._rng.choice(["add", "add", "add", "delete", "compact"]))

    @property
    def ids(self) -> np.ndarray:
        rng = self._rng
        rng.random(3)
        few = IDS if self.kind == "add" and rng.random() < 0.7 else int(rng.integers(1, IDS // 2))
        return np.sort(rng.choice(IDS, few, replace=False))

    @property
    def token(self) -> int:
        return 1 + self.worker * _STEPS + self.step

    @classmethod
    def of_token(cls, seed: int, token: int) -> Op:
        return cls(seed, *divmod(token - 1, _STEPS))

    def run(self, path: Path) -> int | None:
        """Do it; return the version."""
        if self.kind == "add":
            rows = np.zeros((len(self.ids), D), np.float32)
            rows[:, 0] = self.token
            return teravec.add(path, rows, ids=self.ids, threads=1).number
        if self.kind == "delete":
            return teravec.delete(path, self.ids).number
        try:
            compacted = teravec.compact(path, full=self.step % 2 == 0, threads=1)
        except OutputExists:  # another one does it
            return None
        return None if compacted is None else compacted.number

    def applied(self, state: State) -> State:
        """The state after it."""
        if self.kind == "add":
            return state | dict.fromkeys(self.ids.tolist(), self.token)
        if self.kind == "delete":
            gone = set(self.ids.tolist())
            return {key: token for key, token in state.items() if key not in gone}
        return state


def held(index: teravec.Index) -> State:
    """Every row of the version that is open; an id that has two is an error."""
    zero = np.zeros((1, D), np.float32)
    distances, ids = index.search(zero, max(1, min(index.ntotal, 20_000)), index.nlist)
    found = ids[0] >= 0
    names = ids[0][found].tolist()
    assert len(set(names)) == len(names), "an id has two rows"
    tokens = np.sqrt(distances[0][found]).round().astype(int)
    return dict(zip(names, tokens.tolist(), strict=True))


def make(path: Path) -> None:
    """Build an index of rows that no operation writes."""
    rows = np.random.default_rng(0).normal(size=(200, D)).astype(np.float32)
    ids = np.arange(10 * IDS, 10 * IDS + 200)
    teravec.build(rows, path, ids=ids, nlist=NLIST, codec="flat", calibrate=False, threads=1)
    teravec.delete(path, ids)


def read_log(path: Path) -> Iterator[tuple[Op, int | None]]:
    """Read the operations of one worker, and their versions; None where it was not told."""
    lines = path.read_text().splitlines() if path.exists() else []
    told: dict[int, int | None] = {}
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:  # cut off by a kill
            continue
        told[entry["step"]] = entry.get("version", told.get(entry["step"]))
        seed, worker = entry["seed"], entry["worker"]
        assert "error" not in entry, entry["error"]
    for step, version in sorted(told.items()):
        yield Op(seed, worker, step), version


def check_versions(path: Path, logs: list[Path], seed: int) -> State:
    """Compare each version with the one before and the operation that made it; return the last."""
    told = [entry for log in logs for entry in read_log(log)]
    of_version = {version: op for op, version in told if version is not None}
    silent = [op for op, version in told if version is None and op.kind == "delete"]
    state: State = {}
    with teravec.open(path, version=1) as index:
        assert held(index) == {}
    for manifest in teravec.versions(path)[2:]:
        with teravec.open(path, version=manifest.number) as index:
            found = held(index)
        tokens = set(found.values()) - set(state.values())
        op = of_version.get(manifest.number)
        if op is None and manifest.what.startswith("add"):
            # Its worker was killed before it told. The same rows may have been added before.
            fitting = [op for op, _ in told if op.kind == "add" and op.applied(state) == found]
            assert fitting, f"version {manifest.number}: {manifest.what}: {sorted(tokens)}"
            op = fitting[0]
        elif op is None and manifest.what.startswith("delete"):
            fitting = [op for op in silent if op.applied(state) == found]
            assert fitting, f"version {manifest.number}: {manifest.what} by nobody"
            op = fitting[0]
        expected = state if op is None else op.applied(state)
        assert found == expected, f"version {manifest.number}: {manifest.what} by {op}"
        state = found
    return state


def main() -> None:
    """Do the steps of one worker, from the first that its log does not tell the end of."""
    parser = argparse.ArgumentParser()
    for name in ("path", "log"):
        parser.add_argument(name, type=Path)
    for name in ("seed", "worker", "steps"):
        parser.add_argument(name, type=int)
    given = parser.parse_args()
    done = {op.step for op, version in read_log(given.log) if version is not None}
    begun = {op.step for op, _ in read_log(given.log)}
    with given.log.open("a") as log:

        def tell(**entry: object) -> None:
            log.write(json.dumps(entry) + "\n")
            log.flush()
            os.fsync(log.fileno())

        for step in range(given.steps):
            op = Op(given.seed, given.worker, step)
            if step in done or (step in begun and step + 1 in begun):
                continue
            numbers = {"seed": op.seed, "worker": op.worker, "step": step}
            tell(**numbers)
            try:
                tell(**numbers, version=op.run(given.path))
            except BaseException as error:
                tell(**numbers, error=f"{op.kind}: {type(error).__name__}: {error}")
                raise


if __name__ == "__main__":
    main()
