"""Exact first: flat codec and nprobe = nlist is brute force, however the index was cut."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import teravec
from teravec.index.manifest import read_manifest
from teravec.index.opened import OpenedIndex
from teravec.model.model import Model
from teravec.search.index import Index
from teravec.search.memory_shares import MemoryShares
from teravec.sources import open_source
from teravec.storage.layout import IndexPaths
from teravec.storage.local_store import LocalStore
from tests.conftest import RealSet, clustered

METRICS = ("l2", "ip", "cosine")


def brute_force(
    base: np.ndarray, queries: np.ndarray, k: int, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Exact neighbours in float64: distances (nq, k), best first, and row numbers."""
    xb, xq = base.astype(np.float64), queries.astype(np.float64)
    if metric == "cosine":
        xb = xb / np.maximum(np.linalg.norm(xb, axis=1, keepdims=True), 1e-300)
        xq = xq / np.maximum(np.linalg.norm(xq, axis=1, keepdims=True), 1e-300)
    dots = xq @ xb.T
    cost = (xq**2).sum(1)[:, None] + (xb**2).sum(1) - 2 * dots if metric == "l2" else -dots
    ids = np.argsort(cost, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(cost, ids, axis=1)
    return (best if metric == "l2" else -best), ids


def assert_same_neighbors(
    found: tuple[np.ndarray, np.ndarray], true: tuple[np.ndarray, np.ndarray], scale: float
) -> None:
    """Distances agree, and so do ids wherever no tie within rounding could swap them."""
    tolerance = 2e-6 * scale
    np.testing.assert_allclose(found[0], true[0], rtol=1e-5, atol=tolerance)
    gaps = np.abs(np.diff(true[0], axis=1)) > 4 * tolerance + 1e-5 * np.abs(true[0][:, 1:])
    clear = np.ones(true[1].shape, bool)
    clear[:, 1:] &= gaps
    clear[:, :-1] &= gaps
    clear[:, -1] = False  # the one after the last may be as near
    assert (found[1] == true[1])[clear].all()
    assert clear.mean() > 0.3


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", ["sift", "minilm"])
def test_flat_is_brute_force_on_real_sets(
    name: str, metric: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    real: RealSet = request.getfixturevalue(name)
    source, queries = open_source(real.base), open_source(real.query).read(0, 40)
    base = source.read(0, source.ntotal)
    teravec.build(
        real.base,
        tmp_path / "i",
        nlist=64,
        codec="flat",
        metric=metric,
        niter=2,
        shards=3,
        slices=2,
        sample=6400,
        calibrate=False,
    )
    with teravec.open(tmp_path / "i", memory="256MiB") as index:
        found = index.search(queries, k=20, nprobe=64)
    true = brute_force(base, queries, 20, metric)
    assert_same_neighbors(found, true, float(np.abs(true[0]).max()))


def faiss_twin(model: Model, vectors: np.ndarray, nprobe: int) -> faiss.IndexIVF:
    """One Faiss index with the same model, holding all vectors in row order."""
    ivf = model.empty_ivf()
    lists = faiss.ArrayInvertedLists(ivf.nlist, ivf.code_size)
    ivf.replace_invlists(lists, False)
    ivf.referenced_objects.append(lists)
    prepared = np.ascontiguousarray(model.prepare(vectors))
    list_nos = model.assigner(2).assign(prepared, threads=2)[0].astype(np.int64)
    ids = np.arange(len(vectors))
    ivf.add_core(
        len(prepared), faiss.swig_ptr(prepared), faiss.swig_ptr(ids), faiss.swig_ptr(list_nos)
    )
    ivf.nprobe = nprobe
    return ivf


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("codec", ["flat", "sq6", "pq8"])
def test_any_cut_equals_one_faiss_index(codec: str, metric: str, tmp_path: Path) -> None:
    base, queries = clustered(6000, 32), clustered(60, 32, seed=1)
    np.save(tmp_path / "x.npy", base)
    twin = None
    seals: dict[int, set[tuple[str, ...]]] = {}
    cuts = [(1, 1), (3, 2), (17, 5)] if codec == "pq8" else product((1, 3, 17), (1, 2, 5))
    for shards, slices in cuts:
        root = tmp_path / f"{shards}-{slices}"
        teravec.build(
            tmp_path / "x.npy",
            root,
            nlist=40,
            codec=codec,
            metric=metric,
            niter=3,
            shards=shards,
            slices=slices,
            transform="rotation" if codec == "sq6" else None,
            calibrate=False,
        )
        seals.setdefault(slices, set()).add(
            tuple(entry.checksum for entry in read_manifest(IndexPaths(root)).slices)
        )
        if twin is None:
            model = Model.read(root / "model")
            twin = faiss_twin(model, base, nprobe=9)
            expected = twin.search(np.ascontiguousarray(model.prepare(queries)), 10)
        with teravec.open(root) as index:
            distances, ids = index.search(queries, k=10, nprobe=9)
            assert len(index.manifest.slices) == slices
        # Faiss adds in another order, so it may swap two that are within rounding.
        assert_same_neighbors((distances, ids), expected, scale=float(np.abs(expected[0]).max()))
    # Not only the results: the bytes of a slice do not depend on the shards.
    assert all(len(found) == 1 for found in seals.values())


@pytest.fixture(scope="module")
def flat_index(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """An index of 3,000 distinct vectors, with the vectors."""
    folder = tmp_path_factory.mktemp("flat")
    base = clustered(3000, 16)
    np.save(folder / "x.npy", base)
    teravec.build(folder / "x.npy", folder / "i", nlist=20, codec="flat", shards=2, slices=3)
    return folder / "i", base


@pytest.fixture(scope="module")
def tied_index(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """An index of 60 vectors, each 50 times: most distances are equal to others."""
    folder = tmp_path_factory.mktemp("tied")
    base = np.random.default_rng(2).permutation(np.repeat(clustered(60, 16), 50, axis=0))
    np.save(folder / "x.npy", base)
    teravec.build(folder / "x.npy", folder / "i", nlist=20, codec="flat", shards=2, slices=3)
    return folder / "i", base


@pytest.mark.parametrize("fixture", ["flat_index", "tied_index"])
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    nq=st.integers(0, 30),
    k=st.integers(1, 300),
    nprobe=st.integers(1, 20),
    chunk=st.sampled_from([3000, 50_000, 1 << 20]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 5),
    cache=st.sampled_from([0, 20_000, 1 << 20]),
    direct=st.booleans(),
)
def test_results_do_not_depend_on_memory_or_threads(
    request: pytest.FixtureRequest,
    fixture: str,
    nq: int,
    k: int,
    nprobe: int,
    chunk: int,
    threads: int,
    seed: int,
    cache: int,
    direct: bool,
) -> None:
    root, _ = request.getfixturevalue(fixture)
    queries = clustered(nq, 16, seed)
    with teravec.open(root, threads=1) as index:
        expected = index.search(queries, k, nprobe)
        expected_range = index.range_search(queries, 35.0, nprobe)
    opened = OpenedIndex(LocalStore(root, direct=direct))
    shares = MemoryShares(100_000, cache, 0, chunk, 1 << 20)
    with Index(opened, shares=shares, threads=threads) as index:
        for _ in range(3):  # the second and third find some lists in the cache
            for one, other in zip(expected, index.search(queries, k, nprobe), strict=True):
                np.testing.assert_array_equal(one, other)
        found_range = index.range_search(queries, 35.0, nprobe)
    for one, other in zip(expected_range, found_range, strict=True):
        np.testing.assert_array_equal(one, other)


def test_of_equal_distances_the_lowest_places_are_found(
    tied_index: tuple[Path, np.ndarray],
) -> None:
    root, base = tied_index
    exact = ((base[:40, None].astype(np.float64) - base[None]) ** 2).sum(2)
    with teravec.open(root) as index:
        distances, ids = index.search(base[:40], k=70, nprobe=20)
    assert (distances[:, :50] == 0).all()
    # Copies are in one list, in the order of their rows, which are the ids.
    np.testing.assert_array_equal(ids[:, :50], np.argsort(exact, axis=1, kind="stable")[:, :50])
    for row, found in enumerate(ids):
        of_second = np.flatnonzero(exact[row] == exact[row, found[50]])
        np.testing.assert_array_equal(found[50:], of_second[:20])


def test_range_search_is_brute_force(flat_index: tuple[Path, np.ndarray]) -> None:
    root, base = flat_index
    queries = clustered(25, 16, seed=3)
    exact = ((queries[:, None].astype(np.float64) - base[None]) ** 2).sum(2)
    radius = float(np.quantile(exact, 0.02))
    with teravec.open(root) as index:
        lims, distances, ids = index.range_search(queries, radius, nprobe=20)
    assert lims[-1] == len(ids) > 100
    for i, row in enumerate(exact):
        part = slice(lims[i], lims[i + 1])
        assert set(ids[part]) == set(np.flatnonzero(row < radius))
        np.testing.assert_allclose(distances[part], row[ids[part]], rtol=1e-4)
        assert (np.diff(distances[part]) >= 0).all()


def test_ids_come_from_the_column_that_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    base = clustered(500, 8)
    ids = np.random.default_rng(0).permutation(10**12 + np.arange(500))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(base.ravel()), 8)
    pq.write_table(pa.table({"key": ids, "v": vectors}), tmp_path / "x.parquet")
    teravec.build(tmp_path / "x.parquet", tmp_path / "i", nlist=4, codec="flat", id_column="key")
    with teravec.open(tmp_path / "i") as index:
        _, found = index.search(base[:50], k=1, nprobe=4)
    np.testing.assert_array_equal(found[:, 0], ids[:50])


def test_many_copies_of_one_vector(tmp_path: Path) -> None:
    base = clustered(2000, 16)
    base[500:1500] = base[0]
    np.save(tmp_path / "x.npy", base)
    teravec.build(tmp_path / "x.npy", tmp_path / "i", nlist=16, codec="flat")
    with teravec.open(tmp_path / "i") as index:
        distances, ids = index.search(base[:1], k=50, nprobe=16)
        assert (index.list_sizes > 0).all()
    assert (distances == 0).all()
    assert len(set(ids[0])) == 50
    assert set(ids[0]) <= {0, *range(500, 1500)}
