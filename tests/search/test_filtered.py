"""Searches under a filter: against brute force over the rows that pass, and at a recall."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import teravec
from teravec.errors import InvalidArgument, MemoryLimitTooSmall
from teravec.filters.bind import bind
from teravec.filters.filter import parse_filter
from teravec.index.opened import OpenedIndex
from teravec.search.passing import find_passing
from tests.conftest import clustered
from tests.search.test_exact import METRICS, assert_same_neighbors, brute_force

N, D, K = 3000, 12, 10
LANGUAGES = np.array(["de", "en", "fr", None], object)
FILTERS = st.sampled_from(
    [
        "lang = 'en'",
        "lang is null",
        "lang <> 'en' and n < 900",
        "not (lang in ('de', 'fr') or n between 100 and 2000)",
        "price < 0.002",
        "n = 77",
        "n > 100000",
        "'t1' in tags and price >= 0.5",
        "n >= 0",
    ]
)


def columns_of(n: int, *, seed: int = 3) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "n": pa.array(np.arange(n), pa.int32()),
            "price": rng.random(n),
            "lang": pa.array(LANGUAGES[rng.integers(0, 4, n)], pa.string()),
            "tags": [[f"t{j}" for j in range(i % 4)] if i % 5 else None for i in range(n)],
        }
    )


BASE = clustered(N, D, 1)
QUERIES = clustered(N, D, 1)[:8] + np.float32(0.1)
TABLE = columns_of(N)


def passing(table: pa.Table, text: str) -> np.ndarray:
    """Rows that pass by pyarrow's own evaluation of the same condition, written by hand."""
    row = {name: table[name] for name in table.column_names}
    lang, n, price = row["lang"], row["n"], row["price"]
    by_hand = {
        "lang = 'en'": lambda: pc.equal(lang, "en"),
        "lang is null": lambda: pc.is_null(lang),
        "lang <> 'en' and n < 900": lambda: pc.and_kleene(
            pc.not_equal(lang, "en"), pc.less(n, 900)
        ),
        "not (lang in ('de', 'fr') or n between 100 and 2000)": lambda: pc.invert(
            pc.or_kleene(
                pc.or_kleene(pc.equal(lang, "de"), pc.equal(lang, "fr")),
                pc.and_(pc.greater_equal(n, 100), pc.less_equal(n, 2000)),
            )
        ),
        "price < 0.002": lambda: pc.less(price, 0.002),
        "n = 77": lambda: pc.equal(n, 77),
        "n > 100000": lambda: pc.greater(n, 100000),
        "'t1' in tags and price >= 0.5": lambda: pc.and_(
            pa.array([t is not None and "t1" in t for t in row["tags"].to_pylist()]),
            pc.greater_equal(price, 0.5).combine_chunks(),
        ),
        "n >= 0": lambda: pc.greater_equal(n, 0),
    }
    found = pc.fill_null(by_hand[text](), False)
    return np.flatnonzero(np.asarray(found))


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("filtered")
    made = {}
    options: dict[str, Any] = {"nlist": 40, "codec": "flat", "calibrate": False}
    options |= {"columns": "all", "attributes": TABLE}
    for metric in METRICS:
        made[metric] = root / metric
        teravec.build(BASE, made[metric], metric=metric, **options)
    for metric, names in (("l2", "lang,tags,price,n"), ("ip", "lang,n")):
        made[f"{metric}, {names}"] = root / names
        teravec.build(BASE, root / names, metric=metric, filterable=names, **options)
    return made


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(METRICS), FILTERS, st.integers(1, 30), st.sampled_from([1, 3, 40]))
def test_as_brute_force_over_the_rows_that_pass(
    indexes: dict[str, Path], metric: str, text: str, k: int, nprobe: int
) -> None:
    rows = passing(TABLE, text)
    with teravec.open(indexes[metric]) as index:
        distances, ids = index.search(QUERIES, k, nprobe, filter=text)
        alone = [index.search(query, k, nprobe, filter=text)[1] for query in QUERIES[:2]]
    assert np.array_equal(alone, ids[:2])  # whatever else is in the batch
    most = min(k, len(rows))
    assert (ids[:, most:] == -1).all()
    assert np.isin(ids[:, :most], rows).all()  # never fewer than k, and none that does not pass
    for name, path in indexes.items():
        if name.startswith(f"{metric}, "):  # with inverted files
            with teravec.open(path) as index:
                other = index.search(QUERIES, k, nprobe, filter=text)
            np.testing.assert_array_equal(other[0], distances)
            np.testing.assert_array_equal(other[1], ids)
    if nprobe == 40 and most:
        true, at = brute_force(BASE[rows], QUERIES, most, metric)
        np.testing.assert_allclose(distances[:, :most], true, rtol=1e-4, atol=1e-4)
        if most > 3:
            found = distances[:, :most], ids[:, :most]
            assert_same_neighbors(found, (true, rows[at]), float((BASE**2).sum(1).max()))


@pytest.mark.parametrize("codec", ["sq8", "rabitq2+sq8", "pq6"])
def test_after_additions_deletions_and_a_compaction(tmp_path: Path, codec: str) -> None:
    path, rng = tmp_path / "index", np.random.default_rng(5)
    options: dict[str, Any] = {"nlist": 30, "codec": codec, "calibrate": False}
    options["filterable"] = "lang"
    teravec.build(BASE[:2000], path, columns="all", attributes=TABLE.slice(0, 2000), **options)
    teravec.add(path, BASE[2000:2600], attributes=TABLE.slice(2000, 600), filterable="price")
    teravec.add(path, BASE[2600:], attributes=TABLE.slice(2600))
    gone = np.sort(rng.choice(N, 700, replace=False))
    teravec.delete(path, gone)
    expected = None
    for _ in range(2):
        with teravec.open(path) as index:
            for text in ("lang = 'en'", "price < 0.002", "n = 77", "n >= 0"):
                rows = np.setdiff1d(passing(TABLE, text), gone)
                most = min(K, len(rows))
                _, ids = index.search(QUERIES, K, 1, filter=text)
                assert np.isin(ids[:, :most], rows).all()
                assert (ids[:, most:] == -1).all()
            found = index.search(QUERIES, K, 30, filter="lang = 'en'")
            everything = index.search(QUERIES, N - len(gone), 30)
            lims, near, at = index.range_search(QUERIES, 30.0, 30, filter="lang = 'en'")
        kept = np.isin(everything[1], passing(TABLE, "lang = 'en'"))
        if codec == "sq8":  # in two stages, fewer candidates may compete for the finer codes
            first = [ids[mine][:K] for ids, mine in zip(everything[1], kept, strict=True)]
            assert np.array_equal(found[1], first)
            inside = kept & (everything[0] < 30.0)
            assert np.array_equal(np.diff(lims), inside.sum(1))
            assert np.array_equal(at, everything[1][inside])
            np.testing.assert_allclose(near, everything[0][inside], rtol=1e-5)
            expected = found if expected is None else expected
            assert np.array_equal(found[1], expected[1])
        teravec.compact(path, full=True)
    teravec.verify(path)
    with teravec.open(path) as index:
        inverted = index.steps.opened.inverted_files[0]
        assert inverted is not None
        assert list(inverted.columns) == ["price", "lang"]


def test_recall_is_kept_under_filters_of_all_kinds(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    centers = rng.standard_normal((200, 24))
    drawn = centers[rng.integers(0, 200, 12_040)] + 0.8 * rng.standard_normal((12_040, 24))
    base, queries = drawn[40:].astype(np.float32), drawn[:40].astype(np.float32)
    centre = queries.mean(0)
    region = ((base - centre) ** 2).sum(1)
    table = pa.table({"any": rng.random(len(base)), "region": region})
    path = tmp_path / "index"
    teravec.build(base, path, nlist=128, niter=3, codec="sq8", columns="all", attributes=table)
    costs = (base**2).sum(1) - 2 * queries @ base.T
    shares = (0.5, 0.1, 0.01, 0.001)
    with teravec.open(path) as index:
        for share in shares:
            near, far = np.quantile(region, [share, 1 - share]).tolist()
            for text, mask in (
                (f"any < {share}", table["any"].to_numpy() < share),
                (f"region <= {near!r}", region <= near),
                (f"region >= {far!r}", region >= far),
            ):
                rows = np.flatnonzero(mask)
                true = rows[np.argsort(costs[:, rows], 1)[:, :K]]
                _, ids = index.search(queries, K, recall=0.9, filter=text)
                found = [np.isin(a, b).mean() for a, b in zip(true, ids, strict=True)]
                assert np.mean(found) >= 0.88, (text, np.mean(found))
        told = index.explain(queries, K, recall=0.9, filter="any < 0.5")
        assert told["plan"] == "nearest lists"
        assert told["passing"] == int((table["any"].to_numpy() < 0.5).sum())
        assert told["visited"] < 64
        told = index.explain(queries, K, recall=0.9, filter="any < 0.0003")
        assert told["plan"] == "compare all"
        assert told["visited"] == told["matching_lists"] <= 12


def test_rows_of_voided_runs_do_not_pass(indexes: dict[str, Path]) -> None:
    bound = bind(parse_filter("n >= 0"), TABLE.schema)
    with OpenedIndex(indexes["l2"]) as opened:
        sizes = opened.runs.sizes.copy()
        sizes[[0, 7, 39]] = 0  # as after a rebalancing: their rows are still in the files
        opened.runs = replace(opened.runs, sizes=sizes, list_sizes=sizes)
        found = find_passing(opened, bound, 1 << 20)
        assert np.array_equal(found.list_counts, sizes)
        mask = found.mask(np.arange(40), None)
        assert np.unpackbits(mask.bits).sum() == sizes.sum()


def test_errors(indexes: dict[str, Path], tmp_path: Path) -> None:
    with teravec.open(indexes["l2"]) as index:
        with pytest.raises(InvalidArgument, match="columns: lang, n, price, tags"):
            index.search(QUERIES, filter="language = 'en'", nprobe=3)
        with pytest.raises(InvalidArgument, match="is not calibrated"):
            index.search(QUERIES, filter="n = 3", recall=0.9)
        bound = bind(parse_filter("n = 3"), TABLE.schema)
        with pytest.raises(MemoryLimitTooSmall, match="a filter over"):
            find_passing(index.steps.opened, bound, 100)
    teravec.build(BASE, tmp_path / "bare", nlist=8, calibrate=False)
    with (
        teravec.open(tmp_path / "bare") as index,
        pytest.raises(InvalidArgument, match="keeps no columns to filter by"),
    ):
        index.search(QUERIES, filter="n = 3", nprobe=3)
