"""Groups of near duplicates: those of a plain union over all pairs, resumed and by command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import teravec
from teravec.bulk.duplicates import Forest
from teravec.bulk.parts import SealedParts
from teravec.cli.main import app
from teravec.errors import InvalidArgument, InvalidSource, MemoryLimitTooSmall

N, D = 600, 8
NUMBERS = st.integers(0, 19)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    """Unit vectors: some are copies of others with a little noise, in chains."""
    rng = np.random.default_rng(3)
    made = rng.standard_normal((N, D)).astype(np.float32)
    for _ in range(200):
        one, other = rng.integers(0, N, 2)
        made[one] = made[other] + 0.02 * rng.standard_normal(D)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return np.random.default_rng(4).permutation(N).astype(np.int64) * 7


@pytest.fixture(scope="module")
def index(x: np.ndarray, ids: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("duplicates") / "index"
    teravec.build(x, out, ids=ids, nlist=8, metric="cosine", codec="flat", calibrate=False)
    return out


def expected_groups(x: np.ndarray, ids: np.ndarray, threshold: float) -> dict[int, int]:
    """Id of the first row of each row's group, of rows in groups, by propagation."""
    near, first = x @ x.T > threshold, np.arange(len(x))
    while True:
        lowest = np.where(near, first[None, :], len(x)).min(axis=1)
        if np.array_equal(lowest, first):
            break
        first = np.minimum(first, lowest)
    sizes = np.bincount(first, minlength=len(x))
    return {int(ids[i]): int(ids[first[i]]) for i in range(len(x)) if sizes[first[i]] > 1}


def read(out: Path) -> tuple[dict[int, int], set[int]]:
    table = pq.read_table(out).to_pydict()
    rows = zip(table["id"], table["kept"], strict=True)
    return dict(zip(table["id"], table["group"], strict=True)), {id_ for id_, kept in rows if kept}


def test_groups_are_those_of_all_pairs(
    index: Path, x: np.ndarray, ids: np.ndarray, tmp_path: Path
) -> None:
    out = tmp_path / "groups.parquet"
    found = teravec.duplicates(index, x, 0.99, ids=ids, out=out, nprobe=8)
    expected = expected_groups(x, ids, 0.99)
    groups, kept = read(out)
    assert groups == expected
    assert kept == set(expected.values())
    assert found.rows == N
    assert (found.groups, found.duplicates) == (len(kept), len(expected) - len(kept))
    assert len(set(ids.tolist()) - (set(groups) - kept)) == N - found.duplicates
    assert not list(tmp_path.glob("*partial*"))


def test_a_killed_search_goes_on(
    index: Path, x: np.ndarray, ids: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "groups.parquet", tmp_path / "whole.parquet"
    how: dict[str, Any] = {"ids": ids, "nprobe": 8}
    teravec.duplicates(index, x, 0.99, out=whole, **how)
    add, added = SealedParts.add, list[int]()

    def adding(self: SealedParts, start: int, found: Any) -> None:
        add(self, start, found)
        added.append(start)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SealedParts, "add", adding)
        with pytest.raises(KeyboardInterrupt):
            teravec.duplicates(index, x, 0.99, out=out, **how)
    assert added
    assert not out.exists()
    teravec.duplicates(index, x, 0.99, out=out, **how)
    assert out.read_bytes() == whole.read_bytes()


def test_without_duplicates_the_output_is_empty(
    index: Path, x: np.ndarray, ids: np.ndarray, tmp_path: Path
) -> None:
    out = tmp_path / "none.parquet"
    found = teravec.duplicates(index, x, 1.5, ids=ids, out=out, nprobe=2)
    assert (found.groups, found.duplicates, found.pairs) == (0, 0, 0)
    assert read(out) == ({}, set())


def test_by_command_with_row_numbers(x: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", x)
    base, out, index = (str(tmp_path / name) for name in ("x.npy", "g.parquet", "index"))
    teravec.build(base, index, nlist=4, codec="flat", calibrate=False)
    command = ["duplicates", index, base, "--threshold", "0.02", "--out", out, "--nprobe", "4"]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    expected = expected_groups(x, np.arange(N), 0.99)  # |a - b|^2 = 2 - 2 a.b
    assert read(Path(out))[0] == expected
    assert json.loads(result.stdout)["groups"] == len(set(expected.values()))


def test_what_does_not_fit(index: Path, x: np.ndarray, ids: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / "g.parquet"
    with pytest.raises(InvalidArgument, match=r"\.parquet expected"):
        teravec.duplicates(index, x, 0.9, ids=ids, out=tmp_path / "g.csv")
    with pytest.raises(InvalidArgument, match="threshold"):
        teravec.duplicates(index, x, float("nan"), ids=ids, out=out)
    with pytest.raises(InvalidArgument, match="give its ids as ids="):
        teravec.duplicates(index, x, 0.9, out=out)
    with pytest.raises(InvalidArgument, match="expected"):
        teravec.duplicates(index, x[:, :4], 0.9, ids=ids, out=out)
    with pytest.raises((InvalidSource, InvalidArgument), match="id"):
        teravec.duplicates(index, x[:2], 0.9, ids=[7, 7], out=out)
    with pytest.raises(MemoryLimitTooSmall):
        teravec.duplicates(index, x, 0.9, ids=ids, out=out, memory=1000)
    assert not out.exists()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=12), max_size=4))
def test_a_forest_joins_as_sets_do(batches: list[list[tuple[int, int]]]) -> None:
    forest, groups = Forest(20), [{i} for i in range(20)]
    for pairs in batches:
        array = np.array(pairs, np.int64).reshape(-1, 2)
        forest.join(array[:, 0], array[:, 1])
        for one, other in pairs:
            joined = groups[one] | groups[other]
            for member in joined:
                groups[member] = joined
    assert forest.roots(np.arange(20)).tolist() == [min(group) for group in groups]
