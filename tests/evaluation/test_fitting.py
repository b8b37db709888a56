"""A truth is counted by distance, and one that does not fit is refused or doubted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import teravec
from teravec.bulk.results import Neighbors, read_neighbors, write_neighbors
from teravec.errors import InvalidArgument
from teravec.evaluation.evaluation import evaluate
from teravec.evaluation.fitting import fit_truth
from teravec.search.index import Index
from tests.conftest import clustered

N, D, K = 4000, 12, 10
X, QUERIES = clustered(N + 60, D, seed=3)[:N], clustered(N + 60, D, seed=3)[N:]


def exact(x: np.ndarray, q: np.ndarray, metric: str = "l2", k: int = K) -> Neighbors:
    """True neighbours by brute force, of vectors that tie those of largest ids."""
    x, q = x.astype(np.float64), q.astype(np.float64)
    if metric == "cosine":
        x, q = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, q))
    costs = ((q[:, None] - x) ** 2).sum(2) if metric == "l2" else -q @ x.T
    ids = np.stack([np.lexsort((-np.arange(len(x)), row))[:k] for row in costs])
    distances = np.take_along_axis(costs, ids, 1) * (1 if metric == "l2" else -1)
    return Neighbors(ids, distances.astype(np.float32))


def built(folder: Path, x: np.ndarray, **options: object) -> Path:
    np.save(folder / "x.npy", x)
    settings: dict[str, object] = {"nlist": 16, "niter": 3, "codec": "flat", **options}
    teravec.build(folder / "x.npy", folder / "i", calibrate=False, **settings)  # type: ignore[arg-type]
    return folder / "i"


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with teravec.open(built(tmp_path_factory.mktemp("flat"), X)) as opened:
        yield opened


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    root = built(tmp_path_factory.mktemp("sq8"), X, codec="sq8", metric="cosine")
    with teravec.open(root) as opened:
        yield opened


def recall(index: Index, queries: np.ndarray, truth: Neighbors, k: int = K) -> float:
    return evaluate(index, queries, truth, k, [index.nlist])[0].recall


def integers(n: int, d: int, high: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, high, (n, d)).astype(np.float32)


@pytest.mark.parametrize("codec", ["flat", "fp16", "sq8", "rabitq2+sq8"])
@pytest.mark.parametrize("extension", [".bin", ".npz", ".parquet"])
def test_ties_count_by_distance(codec: str, extension: str, tmp_path: Path) -> None:
    x = integers(2500, 5, 3)  # 243 vectors, each some ten times
    q = x[:40].copy()
    path = tmp_path / f"t{extension}"
    truth = exact(x, q)
    assert truth.distances is not None
    write_neighbors(path, truth.distances, truth.ids)
    with teravec.open(built(tmp_path, x, codec=codec)) as index:
        _, found = index.search(q, K, index.nlist)
        assert np.mean(found == truth.ids) < 0.2
        assert recall(index, q, read_neighbors(path)) > 0.999


@pytest.mark.parametrize("codec", ["flat", "sq8"])
@pytest.mark.parametrize("extension", [".ivecs", ".ibin", ".npy"])
def test_copies_count_without_distances(codec: str, extension: str, tmp_path: Path) -> None:
    x = np.repeat(clustered(50, 8), 40, axis=0)  # 40 copies of each
    q = (x[::40] + 0.01).astype(np.float32)
    truth = exact(x, q)
    assert truth.distances is not None
    write_neighbors(tmp_path / f"t{extension}", truth.distances, truth.ids)
    with teravec.open(built(tmp_path, x, codec=codec)) as index:
        assert not np.isin(index.search(q, K, index.nlist)[1], truth.ids).any()
        assert recall(index, q, read_neighbors(tmp_path / f"t{extension}")) == 1


def test_near_misses_of_a_coarse_codec_are_misses(tmp_path: Path) -> None:
    with teravec.open(built(tmp_path, X, codec="sq4")) as index:
        truth = exact(X, QUERIES)
        _, ids = index.search(QUERIES, K, index.nlist)
        by_id = np.mean([len(set(a) & set(b)) / K for a, b in zip(ids, truth.ids, strict=True)])
        assert by_id < 0.95
        assert recall(index, QUERIES, truth) == pytest.approx(by_id)


STORED: dict[str, dict[str, Callable[[np.ndarray], np.ndarray]]] = {
    "l2": {"squared": lambda d: d, "roots": np.sqrt, "negated": lambda d: -d},
    "cosine": {
        "similarity": lambda d: d,
        "negated": lambda d: -d,
        "distance": lambda d: 1 - d,
        "squared": lambda d: 2 - 2 * d,
        "root": lambda d: np.sqrt(np.maximum(2 - 2 * d, 0)),
    },
}


@pytest.mark.parametrize(("metric", "stored"), [(m, s) for m in STORED for s in STORED[m]])
def test_distances_are_understood(flat: Index, coarse: Index, metric: str, stored: str) -> None:
    index = flat if metric == "l2" else coarse
    truth = exact(X, QUERIES, metric)
    assert truth.distances is not None
    kept = Neighbors(truth.ids, STORED[metric][stored](truth.distances).astype(np.float32))
    fitted = fit_truth(index, QUERIES, kept, K)
    assert fitted.truth.comparable
    assert fitted.doubts == ()
    sign = 1 if metric == "l2" else -1
    np.testing.assert_allclose(fitted.truth.costs, sign * truth.distances, rtol=1e-3, atol=1e-4)


def test_rows_in_another_order_of_columns(flat: Index) -> None:
    truth = exact(X, QUERIES)
    assert truth.distances is not None
    order = np.random.default_rng(0).permutation(K)
    mixed = Neighbors(truth.ids[:, order], truth.distances[:, order])
    assert recall(flat, QUERIES, mixed, 3) == 1


def test_distances_on_another_scale_order_alone(flat: Index) -> None:
    truth = exact(X, QUERIES)
    assert truth.distances is not None
    fitted = fit_truth(flat, QUERIES, Neighbors(truth.ids, np.exp(truth.distances / 99)), K)
    assert not fitted.truth.comparable
    assert "used for that alone" in fitted.doubts[0]


def test_distances_that_contradict_are_doubted(
    flat: Index, caplog: pytest.LogCaptureFixture
) -> None:
    truth = exact(X, QUERIES)
    rng = np.random.default_rng(0)
    wrong = Neighbors(truth.ids, rng.random(truth.ids.shape, np.float32) * 7)
    assert recall(flat, QUERIES, wrong) == 1  # by id
    assert "contradict" in caplog.text


@pytest.mark.parametrize(
    ("ids", "why"),
    [
        (lambda t: t + 1, "count from 1"),
        (lambda t: t[np.random.default_rng(0).permutation(len(t))], "another order"),
        (lambda t: (t * 7919 + 13) % N, "other vectors"),
        (lambda t: t + N, "not of the vectors"),
        (lambda t: np.full_like(t, -1), "every id is -1"),
        (lambda t: t - 5000, "0 or more"),
        (lambda t: t[:-3], "57 queries"),
        (lambda t: QUERIES[:, :K].view(np.int32).astype(np.int64) & 0x7FFFFFFF, "float32 vectors"),
    ],
)
@pytest.mark.parametrize("with_distances", [False, True])
def test_ids_that_do_not_fit_are_refused(
    flat: Index, coarse: Index, ids: object, why: str, with_distances: bool
) -> None:
    for index, metric in ((flat, "l2"), (coarse, "cosine")):
        truth = exact(X, QUERIES, metric)
        wrong = ids(truth.ids)  # type: ignore[operator]
        distances = truth.distances if with_distances and len(wrong) == len(QUERIES) else None
        with pytest.raises(InvalidArgument, match=why):
            fit_truth(index, QUERIES, Neighbors(wrong, distances), K)


def test_another_metric_is_doubted(flat: Index, coarse: Index) -> None:
    stretched = X * np.linspace(0.2, 3, N, dtype=np.float32)[:, None]
    for index, metric in ((flat, "ip"), (coarse, "l2")):
        other = exact(stretched if metric == "l2" else X, QUERIES, metric)
        for truth in (other, Neighbors(other.ids)):
            try:
                assert fit_truth(index, QUERIES, truth, K).doubts
            except InvalidArgument as error:
                assert "other vectors" in str(error)  # noqa: PT017


def test_rows_with_fewer_neighbours_and_with_one_twice(flat: Index) -> None:
    truth = exact(X, QUERIES)
    ids = truth.ids.copy()
    ids[0, 4:] = -1
    ids[1] = -1
    ids[2, 3] = ids[2, 2]  # counts once
    ids[3, :2] = -1  # what is missing may stand anywhere
    assert recall(flat, QUERIES, Neighbors(ids)) == 1
    with pytest.raises(InvalidArgument, match=r"k is 11; 1 to 10"):
        fit_truth(flat, QUERIES, truth, 11)


def test_truth_of_row_numbers_for_an_index_with_an_id_column(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = np.random.default_rng(4).permutation(N) * 3
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), D)
    pq.write_table(pa.table({"key": ids, "v": vectors}), tmp_path / "x.parquet")
    teravec.build(tmp_path / "x.parquet", tmp_path / "i", nlist=16, id_column="key")
    before = (tmp_path / "i" / "calibration.json").read_bytes()
    rows = exact(X, QUERIES)
    assert rows.distances is not None
    write_neighbors(tmp_path / "rows.bin", rows.distances, rows.ids)
    write_neighbors(tmp_path / "right.bin", rows.distances, ids[rows.ids])
    with pytest.raises(InvalidArgument, match=r"--id-column key"):
        teravec.calibrate(tmp_path / "i", QUERIES, truth=tmp_path / "rows.bin", ks=(1, 10))
    assert (tmp_path / "i" / "calibration.json").read_bytes() == before
    made = teravec.calibrate(tmp_path / "i", QUERIES, truth=tmp_path / "right.bin", ks=(1, 10))
    assert made.points[-1].recall[1] > 0.97


def test_a_doubtful_truth_never_replaces_a_calibration(tmp_path: Path) -> None:
    root = built(tmp_path, X)
    teravec.calibrate(root, data=tmp_path / "x.npy")
    before = (root / "calibration.json").read_bytes()
    other = exact(X, QUERIES, "ip")
    np.save(tmp_path / "t.npy", other.ids)
    with pytest.raises(InvalidArgument):
        teravec.calibrate(root, QUERIES, truth=tmp_path / "t.npy", ks=(10,))
    assert (root / "calibration.json").read_bytes() == before
