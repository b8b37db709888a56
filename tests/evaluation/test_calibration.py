"""A recall that is asked for: what is measured, what is promised, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import teravec
from teravec.bulk.results import Neighbors, read_neighbors
from teravec.cli.main import app
from teravec.errors import (
    CorruptFile,
    ForeignFile,
    InvalidArgument,
    InvalidSource,
    StorageError,
    TeravecError,
)
from teravec.evaluation.evaluation import evaluate, recall_at
from teravec.evaluation.measuring import (
    KnownQueries,
    choose_radii,
    estimate_ratio,
    find_true_costs,
    remove_own,
    search_known,
)
from teravec.evaluation.sealing import begin_calibration, write_calibration
from teravec.evaluation.truth import Truth
from teravec.index.calibration import Calibration, Measured, read_calibration
from teravec.index.manifest import read_manifest
from teravec.kernels.metric import Metric
from teravec.kernels.sketch import Candidates
from teravec.search.effort import Effort
from teravec.sources import open_source
from teravec.storage.layout import IndexPaths
from tests.conftest import RealSet, clustered, write_fbin

N, D = 6000, 12
FRESH = clustered(N + 400, D)[N:]  # not in the base, and drawn with it


def point(nprobe: int, recall: float, prune: float = 0.1, error: float = 0.0) -> Measured:
    return Measured(nprobe, prune, nprobe, 10.0 * nprobe, (recall,), (error,), (recall,), (error,))


def curve(*points: Measured, radius: float = 2.0) -> Calibration:
    return Calibration("m", ("s",), 100, "given", (10,), (radius,), points)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated")
    base = write_fbin(folder / "x.fbin", clustered(N + 400, D)[:N])
    write_fbin(folder / "q.fbin", FRESH)
    teravec.build(base, folder / "index", nlist=64, codec="sq8", slices=2, memory="256MiB")
    return folder / "index"


@pytest.fixture
def index(built: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(built, tmp_path / "i"))


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_inverting_by_hand() -> None:
    made = curve(point(1, 0.2), point(4, 0.6), point(16, 0.8), point(16, 0.9, prune=0.0))
    assert made.probing_for(0.1, 10) == (1, 0.1)
    assert made.probing_for(0.6, 10) == (4, 0.1)
    assert made.probing_for(0.7, 10) == (8, 0.1)  # half the way, in log(nprobe)
    nprobe, prune = made.probing_for(0.85, 3)
    assert nprobe == 16
    assert prune == pytest.approx(0.05)
    with pytest.raises(InvalidArgument, match=r"at most 0.9000 can be .* finer codec"):
        made.probing_for(0.91, 10)
    with pytest.raises(InvalidArgument, match="give nprobe, or calibrate with more codes"):
        curve(point(1, 0.2), point(2, 0.5), point(4, 0.7)).probing_for(0.8, 10)
    for recall in (0.0, 1.5, -1, float("nan")):
        with pytest.raises(InvalidArgument, match="between 0 and 1"):
            made.probing_for(recall, 10)
    with pytest.raises(InvalidArgument, match="at most 10 measured"):
        made.probing_for(0.5, 11)


def test_a_promise_is_less_than_what_was_measured() -> None:
    exact = curve(point(1, 0.2), point(4, 0.6), point(16, 0.9))
    doubtful = curve(point(1, 0.2), point(4, 0.6, error=0.02), point(16, 0.9, error=0.02))
    assert doubtful.probing_for(0.7, 10)[0] > exact.probing_for(0.7, 10)[0]
    with pytest.raises(InvalidArgument, match=r"0\.8671"):
        doubtful.probing_for(0.88, 10)
    # Chance may make a curve fall; effort does not.
    assert curve(point(1, 0.5), point(2, 0.4), point(4, 0.8)).probing_for(0.65, 10)[0] == 3


def test_radii_are_chosen_from_narrow_to_wide() -> None:
    made = replace(
        curve(point(1, 0.5), point(2, 0.9)),
        radii=(1.0, 2.0),
        points=tuple(
            replace(p, radius_recall=(r, r / 2), radius_error=(0, 0))
            for p, r in ((point(1, 0), 0.4), (point(4, 0), 0.8))
        ),
    )
    assert made.probing_within(0.4, 0.5, Metric.L2)[0] == 1
    assert made.probing_within(0.4, 1.5, Metric.L2)[0] == 4
    with pytest.raises(InvalidArgument, match="widest measured is 2"):
        made.probing_within(0.4, 2.5, Metric.L2)
    similar = replace(made, radii=(0.9, 0.5))
    assert similar.probing_within(0.4, 0.95, Metric.COSINE)[0] == 1
    assert similar.probing_within(0.4, 0.6, Metric.COSINE)[0] == 4
    with pytest.raises(InvalidArgument, match="widest"):
        similar.probing_within(0.4, 0.4, Metric.COSINE)


def test_what_was_found_is_matched_with_the_truth() -> None:
    true = np.array([[7, 3, 9], [3, 4, 5]])
    known = Truth(true, np.array([[1.0, 2, 3], [4, 5, 6]]))
    found = np.array([[3, 8, 9, -1], [9, 5, 100, 3]])
    expected = [[2, np.inf, 3, np.inf], [np.inf, 6, np.inf, 4]]
    assert find_true_costs(found, known).tolist() == expected


def test_a_query_is_no_neighbour_of_its_own() -> None:
    ids = np.array([[5, 1, 2], [0, 6, 3], [8, 9, 1]])
    costs, left = remove_own(ids * 10.0, ids, np.array([5, 6, 7]))
    assert left.tolist() == [[1, 2], [0, 3], [8, 9]]  # the last had itself not among its best
    assert costs.tolist() == [[10, 20], [0, 30], [80, 90]]


@pytest.mark.parametrize(("metric", "k"), [("ip", 1), ("cosine", 1), ("l2", 10)])
def test_held_out_queries_in_two_stages_are_searched_as_fresh_ones_are(
    tmp_path: Path, metric: str, k: int
) -> None:
    """A search for k + 1 would keep, and refine, more than one for k of the other vectors."""
    rng = np.random.default_rng(8)
    lengths = np.exp(rng.normal(size=(4000, 1)))
    x = (rng.normal(size=(4000, 4)) * lengths @ rng.normal(size=(4, 24))).astype(np.float32)
    base = write_fbin(tmp_path / "x.fbin", x)
    out = tmp_path / "i"
    teravec.build(base, out, nlist=16, codec="rabitq1+sq8", metric=metric, calibrate=False)
    own = np.arange(200)
    anything = np.zeros((200, 1))
    known = KnownQueries(x[own], own, Truth(anything.astype(np.int64), anything), "held out")
    effort = Effort(16)
    with teravec.open(out) as opened:
        found, _ = search_known(opened, known, effort, k)
        more, ids = opened.search_at(known.vectors, k + 1, effort)
        # The same from all candidates, of which every one is refined to know its id.
        wanted = opened.steps.nearest_lists(known.vectors, effort)
        every = opened.steps.sketch_lists(*wanted, opened.ntotal)
        expected = np.empty((200, k), np.float32)
        for query in own:
            prepared, entries = wanted[0][[query]], every.entries[query]
            _, names = opened.steps.refine(
                prepared, np.zeros(4000, np.int64), entries["place"].copy()
            )
            others = entries[names != query]
            others = others[np.lexsort((others["place"], others["estimate"]))]
            kept = Candidates.none(1, opened.steps.candidates_kept(k))
            kept.entries[0], kept.counts[:] = others[: kept.capacity], kept.capacity
            distances, _ = opened.steps.refine(prepared, *kept.worth_refining(k))
            nearest = np.sort(distances if metric == "l2" else -distances)[:k]
            expected[query] = nearest if metric == "l2" else -nearest
    np.testing.assert_array_equal(found, expected)
    with_one_more, _ = remove_own(more, ids, own)
    assert metric == "l2" or (found != with_one_more).any()


def test_ratio_and_radii() -> None:
    share, error = estimate_ratio(np.array([1, 4]), np.array([2, 4]))
    assert share == 5 / 6
    assert error == pytest.approx(np.sqrt(8 / 9) / 6)
    assert estimate_ratio(np.zeros(2, int), np.zeros(2, int)) == (0.0, 0.0)
    costs = np.sort(np.random.default_rng(0).random((200, 30)), axis=1)
    for bound in choose_radii(costs, (1, 10, 30)):
        assert (costs[:, -1] < bound).mean() <= 0.05


def test_a_build_calibrates_itself_on_what_it_was_not_trained_on(built: Path) -> None:
    with teravec.open(built) as opened:
        made = opened.calibration
    assert made is not None
    assert (made.origin, made.queries, made.ks) == ("held out", 1000, (1, 10, 100))
    assert all(a.codes < b.codes for a, b in zip(made.points[2:], made.points[3:], strict=False))
    assert made.points[-1].recall[1] > 0.95


@pytest.mark.parametrize("asked", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("k", [1, 7, 100])
def test_fresh_queries_get_the_recall_asked_for(built: Path, asked: float, k: int) -> None:
    with teravec.open(built) as opened:
        _, found = opened.search(FRESH, k, recall=asked)
        exact = clustered(N + 400, D)[:N].astype(np.float64)
        true = np.argsort(((FRESH[:, None] - exact) ** 2).sum(2), axis=1)[:, :k]
        assert recall_at(found, true, k) >= asked - 0.02
        by_nprobe = opened.search_at(FRESH, k, opened.effort(recall=asked, k=k))
    np.testing.assert_array_equal(found, by_nprobe[1])


def test_range_search_finds_the_share_asked_for(built: Path) -> None:
    exact = clustered(N + 400, D)[:N].astype(np.float64)
    squares = ((FRESH[:, None] - exact) ** 2).sum(2)
    with teravec.open(built) as opened:
        assert opened.calibration is not None
        for radius in opened.calibration.radii:
            lims, _, ids = opened.range_search(FRESH, radius, recall=0.9)
            inside = squares < radius
            hits = sum(inside[i, ids[a:b]].sum() for i, (a, b) in enumerate(pairwise(lims)))
            assert hits / inside.sum() >= 0.87
        with pytest.raises(InvalidArgument, match="widest"):
            opened.range_search(FRESH, 1e9, recall=0.9)
        # Nobody asked for a recall: then there is a default.
        assert len(opened.range_search(FRESH[:2], 1e9)[2])


def test_what_is_asked_for(built: Path, index: Path) -> None:
    with teravec.open(built) as opened:
        assert opened.effort(nprobe=5) == Effort(5)
        assert opened.effort(k=10) == opened.effort(recall=0.9, k=10)
        assert opened.effort(k=101) == Effort(16)  # not calibrated, not asked for
        with pytest.raises(InvalidArgument, match="one expected"):
            opened.search(FRESH, 10, 5, recall=0.9)
        default = opened.search(FRESH, 10)[1]
        np.testing.assert_array_equal(default, opened.search(FRESH, 10, recall=0.9)[1])
    (index / "calibration.json").unlink()
    with teravec.open(index) as opened:
        assert opened.calibration is None
        assert opened.effort() == Effort(16)
        with pytest.raises(InvalidArgument, match="not calibrated"):
            opened.search(FRESH, 10, recall=0.9)
    teravec.verify(index)


def test_bytes_do_not_depend_on_memory_or_threads(built: Path, index: Path) -> None:
    before = (index / "calibration.json").read_bytes()
    for memory, threads in (("64MiB", 1), ("1GiB", 3)):
        (index / "calibration.json").unlink()
        data = built.with_name("x.fbin")
        teravec.calibrate(index, data=data, memory=memory, threads=threads)
        assert (index / "calibration.json").read_bytes() == before
    assert not (index / "calibration.partial").exists()


def test_a_build_that_was_killed_before_it_calibrated_does_so(built: Path, index: Path) -> None:
    before = (index / "calibration.json").read_bytes()
    options = ["--nlist", "64", "--codec", "sq8", "--slices", "2", "-q"]
    for damage in (None, b"{}", before[:-1]):
        (index / "calibration.json").unlink()
        if damage is not None:
            (index / "calibration.json").write_bytes(damage)
        code, output = run("build", built.with_name("x.fbin"), "--out", index, *options)
        assert code == 0, output
        assert (index / "calibration.json").read_bytes() == before


def test_every_byte_flipped(index: Path) -> None:
    path, manifest = index / "calibration.json", read_manifest(IndexPaths(index))
    data = path.read_bytes()
    for at in range(0, len(data), 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x15]) + data[at + 1 :])
        with pytest.raises(CorruptFile, match=r"calibration\.json"):
            read_calibration(IndexPaths(index), manifest)
    with pytest.raises(CorruptFile, match=r"calibration\.json"):
        teravec.verify(index)
    with teravec.open(index) as opened:
        assert opened.search(FRESH[:3], 5, 8)[1].min() >= 0  # by nprobe, as before
        with pytest.raises(CorruptFile, match=r"calibration\.json"):
            opened.search(FRESH[:3], 5, recall=0.5)


def test_anothers_calibration_is_refused(index: Path) -> None:
    paths = IndexPaths(index)
    made = read_calibration(paths, read_manifest(paths))
    assert made is not None
    for other in (replace(made, model="0" * 16), replace(made, slices=made.slices[:1])):
        with begin_calibration(paths, read_manifest(paths)) as pending:
            write_calibration(pending, other, None)
        with pytest.raises(ForeignFile, match="calibrate again"):
            teravec.verify(index)
        code, output = run("search", index, index.parent / "q.npy", "--recall", "0.9")
        assert (code, "teravec: " in output) == (2, True)  # the queries are missing
        with teravec.open(index) as opened, pytest.raises(ForeignFile):
            opened.search(FRESH[:2], 3)


def test_the_users_own_queries(built: Path, index: Path, tmp_path: Path) -> None:
    data, queries = built.with_name("x.fbin"), built.with_name("q.fbin")
    made = teravec.calibrate(index, queries, data=data, ks=(1, 20))
    assert (made.origin, made.queries, made.ks) == ("given", 400, (1, 20))
    code, output = run("groundtruth", data, queries, "--out", tmp_path / "gt.bin", "-k", "20", "-q")
    assert code == 0, output
    same = teravec.calibrate(index, FRESH, truth=tmp_path / "gt.bin", ks=(1, 20))
    assert same == made
    ids = read_neighbors(tmp_path / "gt.bin").ids
    np.save(tmp_path / "gt.npy", ids)
    without = teravec.calibrate(index, FRESH, truth=tmp_path / "gt.npy", ks=(1, 20))
    assert without.radii == ()
    assert [p.recall for p in without.points] == [p.recall for p in made.points]


def test_what_cannot_be_calibrated(built: Path, index: Path, tmp_path: Path) -> None:
    data, other = built.with_name("x.fbin"), write_fbin(tmp_path / "y.fbin", clustered(99, D))
    truth = tmp_path / "gt.npy"
    np.save(truth, np.zeros((3, 4), np.int64))
    before = (index / "calibration.json").read_bytes()
    refused: list[tuple[type[TeravecError], dict[str, object]]] = [
        (InvalidArgument, {"truth": truth}),
        (InvalidArgument, {"data": data, "truth": truth, "queries": FRESH}),
        (InvalidArgument, {"truth": truth, "queries": FRESH}),
        (InvalidArgument, {"truth": truth, "queries": FRESH[:3], "ks": (5,)}),
        (InvalidArgument, {"data": other}),
        (InvalidArgument, {"data": data, "nqueries": 0}),
        (InvalidArgument, {"data": data, "ks": ()}),
        (InvalidArgument, {"data": data, "ks": (N,)}),
        (InvalidArgument, {"data": data, "codes": 0}),
        (InvalidArgument, {"data": data, "queries": FRESH[:, :3]}),
        (InvalidSource, {"data": tmp_path / "none.fbin"}),
        (InvalidSource, {"truth": tmp_path / "none.npy", "queries": FRESH}),
    ]
    for error, arguments in refused:
        with pytest.raises(error):
            teravec.calibrate(index, **arguments)  # type: ignore[arg-type]
    assert (index / "calibration.json").read_bytes() == before


def test_commands(built: Path, index: Path, tmp_path: Path) -> None:
    data, queries, truth = built.with_name("x.fbin"), built.with_name("q.fbin"), tmp_path / "t.bin"
    assert run("groundtruth", data, queries, "--out", truth, "-k", "10", "-q")[0] == 0
    code, output = run("eval", index, queries, truth, "--recall", "0.8,0.9", "--json")
    assert code == 0, output
    for result, asked in zip(json.loads(output)["results"], (0.8, 0.9), strict=True):
        assert result["asked"] == asked
        assert result["recall"] >= asked - 0.02
        assert result["lists_per_query"] < result["nprobe"]
    out = tmp_path / "found.npz"
    assert run("search", index, queries, "--recall", "0.9", "--out", out)[0] == 0
    assert run("range-search", index, queries, "--radius", "4", "--recall", "0.5", "--out", out)[
        0
    ] in (0, 2)
    for command in ("search", "range-search"):
        extra = ["--radius", "4"] if command == "range-search" else []
        both = run(command, index, queries, *extra, "--recall", "0.9", "--nprobe", "4")
        assert both[0] == 2
        assert "one expected" in both[1]
    mixed = run("eval", index, queries, truth, "--recall", "0.9", "--nprobe", "4,8", "--json")[1]
    assert [result["asked"] for result in json.loads(mixed)["results"]] == [None, None, 0.9]
    assert run("eval", index, queries, truth, "--recall", "high")[0] == 2
    code, output = run("search", index, queries, "--recall", "0.9999999")
    assert code == 2
    assert "out of reach" in output
    assert "recall@10" in run("info", index)[1]
    code, output = run("calibrate", index, "--data", data, "--queries", "50", "-k", "5", "--json")
    assert code == 0, output
    content = json.loads(output)
    assert (content["queries"], content["ks"]) == (50, [5])
    assert json.loads(run("info", index, "--json")[1])["calibration"]["queries"] == 50
    bare = ["--nlist", "64", "--no-calibrate", "-q"]
    assert run("build", data, "--out", tmp_path / "bare", *bare)[0] == 0
    assert not (tmp_path / "bare" / "calibration.json").exists()
    assert "no; teravec calibrate" in run("info", tmp_path / "bare")[1]


@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_similarities_and_ids_of_a_column(metric: str, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    base, fresh = clustered(3400, 16)[:3000], clustered(3400, 16)[3000:]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(base.ravel()), 16)
    ids = np.random.default_rng(0).permutation(10**10 + np.arange(3000))
    pq.write_table(pa.table({"key": ids, "v": vectors}), tmp_path / "x.parquet")
    teravec.build(
        tmp_path / "x.parquet",
        tmp_path / "i",
        nlist=32,
        metric=metric,
        codec="flat",
        id_column="key",
        memory="256MiB",
    )
    with teravec.open(tmp_path / "i") as opened:
        assert opened.calibration is not None
        assert opened.calibration.origin == "held out"
        true = opened.search(fresh, 10, opened.nlist)[1]
        assert recall_at(opened.search(fresh, 10, recall=0.9)[1], true, 10) >= 0.87
        assert list(opened.calibration.radii) == sorted(opened.calibration.radii, reverse=True)


def test_a_source_too_small_to_leave_any_out(tmp_path: Path) -> None:
    for n in (1, 2, 50):
        base = write_fbin(tmp_path / f"{n}.fbin", clustered(n, 4))
        teravec.build(base, tmp_path / str(n), nlist=1, codec="flat")
        with teravec.open(tmp_path / str(n)) as opened:
            made = opened.calibration
            assert (made is None) == (n == 1)
            if made is not None:
                assert (made.origin, made.queries) == ("source", n)
                recall = 0.9 if n == 50 else None  # of two queries, nothing much can be said
                found = opened.search(clustered(n, 4), 1, recall=recall)[1]
                assert found[:, 0].tolist() == list(range(n))


@pytest.mark.parametrize("name", ["sift", "minilm"])
def test_real_sets_give_the_recall_asked_for(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    real: RealSet = request.getfixturevalue(name)
    options = {"nlist": 256, "niter": 4, "sample": 10_000}
    teravec.build(real.base, tmp_path / "i", codec="sq8", **options)  # type: ignore[arg-type]
    queries = open_source(real.query).read(0, 1000)
    truth = read_neighbors(real.truth)
    assert truth.distances is not None
    first = Neighbors(truth.ids[:1000], truth.distances[:1000])
    with teravec.open(tmp_path / "i", memory="1GiB") as opened:
        for result in evaluate(opened, queries, first, 10, [], recalls=[0.8, 0.9]):
            assert result.asked is not None
            # 0.01 for what 1,000 queries of ours cannot tell.
            assert result.asked - 0.01 <= result.recall < result.asked + 0.04


def test_a_few_queries_that_find_everything_promise_little(tmp_path: Path) -> None:
    index, base = tmp_path / "i", write_fbin(tmp_path / "x.fbin", clustered(N + 400, D)[:N])
    teravec.build(base, index, nlist=16, niter=2, codec="flat", calibrate=False)
    for n, most in ((1, 0.2), (20, 0.93), (100, 0.985)):
        made = teravec.calibrate(index, FRESH[:n], data=base, ks=(1,), codes=N)
        assert made.points[-1].recall == (1.0,)
        with pytest.raises(InvalidArgument, match=r"1.0000 was found: .* with more queries"):
            made.probing_for(most, 1)
        assert made.probing_for(most - 0.1, 1)


def test_an_index_that_may_not_be_written_is_told_before_the_work(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (index / "calibration.json").read_bytes()
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(StorageError, match=r"calibration.json: .* no permission to write"):
        teravec.calibrate(index, FRESH, data=index.parent / "never looked at.fbin")
    assert (index / "calibration.json").read_bytes() == before
