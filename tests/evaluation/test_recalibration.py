"""A changed index is calibrated again by searches alone: the truth of its known queries."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import teravec
from teravec.bars import Bars
from teravec.cli.main import app
from teravec.errors import CorruptFile, InvalidArgument, MissingFile
from teravec.evaluation.evaluation import recall_at
from teravec.index.calibration import calibration_content, read_kept
from teravec.index.erasure import find_ids
from teravec.index.known_queries import read_truth
from teravec.index.manifest import CalibrationEntry, Manifest, read_manifest
from teravec.index.neighbours import make_table, merge_neighbours, of_table, remove_rows
from teravec.index.versions import commit_version
from teravec.storage.arrays import describe_file
from teravec.storage.jsonfile import sealed_text
from teravec.storage.layout import IndexPaths
from tests.conftest import clustered

GOLDEN = Path(__file__).parents[1] / "golden"
ROWS = clustered(2600, 8, seed=3)
N, K = 1600, 5
IDS = 3 * np.arange(N)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kept") / "index"
    teravec.build(
        ROWS[:N], out, ids=IDS, nlist=32, niter=2, codec="flat", sample=1200, calibrate=False
    )
    teravec.calibrate(out, data=ROWS[:N], ids=IDS, nqueries=60, ks=(1, K))
    return out


@pytest.fixture
def index(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "index"))


def check_truth(index: Path, rows: dict[int, np.ndarray], k: int = K) -> float:
    """Compare the known neighbours with all rows; return the share of queries that are known."""
    paths = IndexPaths(index)
    manifest = read_manifest(paths)
    kept = read_kept(paths, manifest)
    assert kept is not None
    truth = read_truth(paths, manifest, kept)
    nq = len(truth.vectors)
    costs, ids, known = make_table(truth.records, nq, k)
    present = np.array(sorted(rows))
    vectors = np.stack([rows[id_] for id_ in present.tolist()]).astype(np.float64)
    for query in np.flatnonzero(known):
        squares = ((truth.vectors[query] - vectors) ** 2).sum(1)
        squares[present == truth.own[query]] = np.inf
        nearest = np.lexsort((present, squares))[:k]
        np.testing.assert_array_equal(ids[query], present[nearest])
        np.testing.assert_allclose(costs[query], squares[nearest], rtol=1e-5)
    return float(known.mean())


@pytest.mark.parametrize("seed", [0, 1])
def test_the_truth_follows_every_change(index: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = dict(zip(IDS.tolist(), ROWS[:N], strict=True))
    states = {}
    for step in range(12):
        if step % 4 == 3:
            teravec.compact(index, full=bool(step % 8 == 3))
        elif rng.random() < 0.5:
            gone = rng.choice(sorted(rows), 40, replace=False)
            teravec.delete(index, gone)
            for id_ in gone.tolist():
                del rows[id_]
        else:
            ids = rng.choice(4000, 60, replace=False)
            some = ROWS[rng.integers(N, len(ROWS), 60)]
            teravec.add(index, some, ids=ids)
            rows |= dict(zip(ids.tolist(), some, strict=True))
        assert check_truth(index, rows) > 0.8
        states[read_manifest(IndexPaths(index)).number] = dict(rows)
    teravec.rollback(index, 5)
    check_truth(index, states[5])
    teravec.verify(index)


def test_rows_numbered_at_the_commit_have_their_ids_in_the_truth(tmp_path: Path) -> None:
    out = tmp_path / "index"
    teravec.build(ROWS[:600], out, nlist=8, niter=2, codec="flat", sample=400)
    for start in range(600, 1000, 200):
        teravec.add(out, ROWS[start : start + 200])
    assert check_truth(out, dict(enumerate(ROWS[:1000])), 10) == 1.0


@pytest.mark.parametrize("codec", ["sq8", "rabitq2+sq8"])
def test_calibrating_again_takes_searches_alone(tmp_path: Path, codec: str) -> None:
    out, rows = tmp_path / "index", clustered(2700, 16)
    data = rows[:1500]
    teravec.build(data, out, nlist=24, niter=2, codec=codec, sample=1000, calibrate=False)
    before = teravec.calibrate(out, data=data, nqueries=200, ks=(10,))
    teravec.add(out, rows[1500:2500])
    teravec.delete(out, np.arange(0, 1500, 7))
    assert teravec.info(out)["calibration"]["age"] > 0.4
    made = teravec.calibrate(out, ks=(10,))
    assert made.origin == before.origin
    assert made.queries > 0.8 * before.queries
    assert teravec.info(out)["calibration"]["age"] == 0
    alive = np.setdiff1d(np.arange(2500), np.arange(0, 1500, 7))
    squares = ((rows[2500:, None] - rows[alive]) ** 2).sum(2)
    true = alive[np.argsort(squares, axis=1)[:, :10]]
    with teravec.open(out) as opened:
        for asked in (0.8, 0.9):
            found = opened.search(rows[2500:], 10, recall=asked)[1]
            assert recall_at(found, true, 10) > asked - 0.03
    teravec.verify(out)


def test_maintenance_calibrates_what_has_changed(index: Path) -> None:
    assert not [s for s in teravec.maintain(index).steps if s.what == "calibrate"]
    teravec.add(index, ROWS[N:], ids=10_000 + np.arange(len(ROWS) - N))
    (step,) = [s for s in teravec.maintain(index).steps if s.what == "calibrate"]
    assert "of the rows changed" in step.why
    assert step.version == read_manifest(IndexPaths(index)).number
    assert not teravec.maintain(index).steps


def test_a_calibration_of_another_model_is_not_believed(
    index: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a rebalance: twice the lists, a word in log and info, and maintain measures."""
    paths = IndexPaths(index)
    before = teravec.calibrate(index)
    teravec.delete(index, IDS[:1])
    with teravec.open(index) as opened:
        usual = opened.effort(recall=0.7, k=K).typical
    path = index / "calibration-other.json"
    other = calibration_content(replace(before, model="0" * 16, known=None))
    path.write_bytes(sealed_text(other))

    def change(newest: Manifest) -> Manifest:
        entry = CalibrationEntry(path.name, **describe_file(path), measured=0, model="0" * 16)
        return replace(newest, calibration=entry)

    commit_version(paths, change)
    with teravec.open(index) as opened:
        assert opened.effort(recall=0.7, k=K).typical == 2 * usual
    assert "measures again" in caplog.text
    assert "lists split or joined" in CliRunner().invoke(app, ["info", str(index)]).output
    assert "calibrate" in [step.what for step in teravec.maintain(index).steps]
    with teravec.open(index) as opened:
        assert opened.effort(recall=0.7, k=K).typical == usual


def test_an_index_that_keeps_no_queries_says_so(tmp_path: Path) -> None:
    for name in ("format-1/l2-sq8", "versions-1/l2-sq8"):
        index = Path(shutil.copytree(GOLDEN / name, tmp_path / name))
        with pytest.raises(
            InvalidArgument, match=r"keeps no queries .* they are kept from then on"
        ):
            teravec.calibrate(index)
        result = CliRunner().invoke(app, ["calibrate", str(index)])
        assert result.exit_code == 2
    index = tmp_path / "format-1/l2-sq8"
    made = teravec.calibrate(index, data=GOLDEN / "format-1/base.npy", nqueries=100, ks=[10])
    assert teravec.calibrate(index, ks=[10]).points == made.points
    teravec.vacuum(index, older_than="0s")
    teravec.verify(index)
    assert len(list((index / "known").iterdir())) == 2


def test_too_few_true_neighbours(index: Path) -> None:
    teravec.delete(index, IDS[5:])
    with pytest.raises(InvalidArgument, match="enough true neighbours"):
        teravec.calibrate(index)


def test_damage_is_found(index: Path) -> None:
    for path in sorted((index / "known").iterdir()):
        data = path.read_bytes()
        for damaged in (data[:-1], data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], b""):
            path.write_bytes(damaged)
            for act in (teravec.verify, teravec.calibrate):
                with pytest.raises(CorruptFile, match=path.name):
                    act(index)
        path.unlink()
        with pytest.raises(MissingFile, match=path.name):
            teravec.calibrate(index)
        with teravec.open(index) as opened:
            assert opened.search(ROWS[:2], K, recall=0.5)[1].min() >= 0
        path.write_bytes(data)
    teravec.verify(index)


def test_nothing_of_a_deleted_row_is_kept_after_a_purge(index: Path) -> None:
    paths = IndexPaths(index)
    kept = read_kept(paths, read_manifest(paths))
    assert kept is not None
    own = read_truth(paths, read_manifest(paths), kept).own[:7]
    teravec.delete(index, own)
    teravec.compact(index, full=True)
    assert any("known queries" in place for place in find_ids(paths, own, Bars(quiet=True)))
    teravec.compact(index, purge=True)
    assert not find_ids(paths, own, Bars(quiet=True))
    left = read_manifest(paths).known
    assert left is not None
    assert left.queries.count == 60 - 7
    assert len(list((index / "known").iterdir())) == 2
    rows = dict(zip(IDS.tolist(), ROWS[:N], strict=True))
    assert check_truth(index, {i: v for i, v in rows.items() if i not in own}) > 0.8


@given(
    seed=st.integers(0, 10**6),
    groups=st.integers(1, 4),
    m=st.integers(1, 6),
    removed=st.integers(0, 10),
)
def test_merging_neighbours(seed: int, groups: int, m: int, removed: int) -> None:
    """What a merge calls known is what all rows together give."""
    rng = np.random.default_rng(seed)
    n, nq, k = 20, 3, 3
    costs = rng.permuted(np.tile(np.arange(n, dtype=np.float64), (nq, 1)), axis=1)
    parts = []
    for ids in np.array_split(rng.permutation(n), groups):
        order = np.argsort(costs[:, ids], axis=1)[:, :m]
        near = np.take_along_axis(costs[:, ids], order, axis=1)
        parts.append(of_table(near, ids[order], complete=len(ids) <= m))
    gone = np.sort(rng.choice(n, removed, replace=False))
    merged = merge_neighbours(parts, nq)
    merged = remove_rows(merged, np.isin(merged["id"], gone))
    again = merge_neighbours([merged], nq)
    np.testing.assert_array_equal(again, merged)
    found, ids, known = make_table(merged, nq, k)
    left = np.setdiff1d(np.arange(n), gone)
    nearest = left[np.argsort(costs[:, left], axis=1)[:, :k]]
    np.testing.assert_array_equal(ids[known], nearest[known])
    np.testing.assert_array_equal(found[known], np.take_along_axis(costs, nearest, 1)[known])
    if groups == 1 and m == 6:
        assert known.all() or removed
