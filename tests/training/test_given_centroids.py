"""Centroids that someone else computed: what they become, and what is refused."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import teravec
from teravec.cli.main import app
from teravec.model.model import Model
from teravec.storage.jsonfile import read_json
from teravec.storage.layout import IndexPaths
from tests.conftest import clustered, write_fbin

BASE = clustered(1500, 16)


def centroids(n: int = 12) -> np.ndarray:
    index = faiss.Kmeans(16, n, niter=3, seed=5, min_points_per_centroid=1)
    index.train(BASE)
    return np.asarray(index.centroids, np.float32)


def model_of(path: Path) -> Model:
    return Model.read(IndexPaths(path).model)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("transform", ["none", "rotation", "pca8"])
def test_they_are_the_models_after_the_transform(
    metric: str, transform: str, tmp_path: Path
) -> None:
    given = centroids() * 3
    teravec.train(BASE, tmp_path / "i", centroids=given, metric=metric, transform=transform)
    model = model_of(tmp_path / "i")
    expected = model.prepare(given)
    if metric == "cosine":
        expected /= np.linalg.norm(expected, axis=1)[:, None]
    assert model.nlist == 12
    distances = ((model.centroids[:, None] - expected[None]) ** 2).sum(-1)
    assert sorted(distances.argmin(1)) == list(range(12))  # in an order of their own
    assert distances.min(1).max() < 1e-9


def test_a_search_is_that_of_faiss_with_the_same_lists(tmp_path: Path) -> None:
    given = centroids()
    teravec.build(BASE, tmp_path / "i", centroids=given, codec="flat", calibrate=False)
    quantizer = faiss.IndexFlatL2(16)
    quantizer.add(given)
    index = faiss.IndexIVFFlat(quantizer, 16, 12)
    index.train(BASE)
    index.add(BASE)
    index.nprobe = 3
    expected = index.search(BASE[:50], 5)[1]
    with teravec.open(tmp_path / "i") as ours:
        assert (ours.search(BASE[:50], k=5, nprobe=3)[1] == expected).mean() > 0.99
    described = read_json(tmp_path / "i" / "model" / "model.json", "teravec-model", 1)
    assert described["given"][0]["fingerprint"]


def test_files_and_what_resumes(tmp_path: Path) -> None:
    given = centroids()
    np.save(tmp_path / "c.npy", given)
    np.save(tmp_path / "other.npy", given + 1)
    np.save(tmp_path / "x.npy", BASE)
    write_fbin(tmp_path / "c.fbin", given)
    column = pa.FixedSizeListArray.from_arrays(given.ravel(), 16)
    pq.write_table(pa.table({"v": column}), tmp_path / "c.parquet")
    run = CliRunner().invoke
    for name in ("c.npy", "c.fbin", "c.parquet"):
        out = ["--out", str(tmp_path / f"i-{name}"), "--centroids", str(tmp_path / name)]
        assert run(app, ["train", str(tmp_path / "x.npy"), *out]).exit_code == 0
        assert (model_of(tmp_path / f"i-{name}").centroids).shape == (12, 16)
    begun = ["build", str(tmp_path / "x.npy"), "--out", str(tmp_path / "i-c.npy")]
    assert run(app, begun).exit_code == 2
    wrong = run(app, [*begun, "--centroids", str(tmp_path / "other.npy")])
    assert wrong.exit_code == 2
    assert "was begun with centroids of c.npy" in wrong.stderr
    right = run(app, [*begun, "--centroids", str(tmp_path / "c.npy"), "--no-calibrate"])
    assert right.exit_code == 0


def test_what_is_refused(tmp_path: Path) -> None:
    given = centroids()
    twice, nan, zero = given.copy(), given.copy(), given.copy()
    twice[7] = twice[2]
    nan[3, 1] = np.nan
    zero[4] = 0
    for wrong, options, message in (
        (twice, {}, "row 2 .*row 7 .*same centroid"),
        (twice * [[2.0]] + 0, {"metric": "cosine"}, "same centroid"),
        (nan, {}, "centroids.* row 3"),
        (zero, {"metric": "cosine"}, "length 0"),
        (given[:, :8], {}, "8 dimensions found, 16 expected"),
        (given, {"nlist": 13}, "leave nlist out"),
        (given, {"weights": np.ones(len(BASE))}, "weights"),
    ):
        with pytest.raises(teravec.InvalidArgument, match=message):
            teravec.build(BASE, tmp_path / "i", centroids=wrong, **options)
        assert not (tmp_path / "i").exists()


def test_more_lists_than_k_means_would_allow(tmp_path: Path) -> None:
    teravec.build(BASE, tmp_path / "i", centroids=BASE[:1000], codec="sq8", calibrate=False)
    with teravec.open(tmp_path / "i") as index:
        assert index.nlist == 1000
        assert (index.search(BASE[:20], k=1, nprobe=4)[1][:, 0] == np.arange(20)).all()
