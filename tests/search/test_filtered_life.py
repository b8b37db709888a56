"""Filters over an index that changes: the rows that pass are those of a dictionary beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import teravec
from teravec.filters.bind import bind
from teravec.filters.evaluate import passing_rows
from teravec.filters.filter import parse_filter
from tests.conftest import clustered

D, K = 8, 7
POOL = clustered(1500, D, 4)
QUERIES = POOL[::300] + np.float32(0.05)
QUESTIONS = (
    "n < 40",
    "n in (3, 5, 900) or lang is null",
    "not (lang = 'en' and 't1' in tags)",
    "'t2' in tags and price between 10 and 30.5",
)
STEPS = st.sampled_from(["add", "replace", "delete", "compact", "rebalance"])


def rows_of(ids: np.ndarray, seed: int) -> pa.Table:
    """Draw rows with these ids."""
    rng = np.random.default_rng(seed)
    vectors = POOL[rng.integers(0, len(POOL), len(ids))]
    vectors = vectors + rng.standard_normal(vectors.shape, np.float32) * np.float32(0.01)
    return pa.table(
        {
            "id": ids,
            "v": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), D),
            "n": pa.array(rng.integers(0, 1000, len(ids)), pa.int16()),
            "lang": pa.array(np.array(["de", "en", None], object)[rng.integers(0, 3, len(ids))]),
            "price": np.round(rng.gamma(2, 10, len(ids)), 1),
            "tags": [[f"t{j}" for j in range(k)] for k in rng.integers(0, 5, len(ids)).tolist()],
        }
    )


@dataclass
class Beside:
    """An index, and its rows by id."""

    path: Path
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    schema: Any = None

    def put(self, table: pa.Table) -> None:
        self.schema = table.schema
        self.rows.update((row["id"], row) for row in table.to_pylist())

    def change(self, step: str, seed: int, filterable: str | None) -> None:
        rng, ids = np.random.default_rng(seed), np.array(sorted(self.rows))
        if step in ("add", "replace"):
            new = np.arange(ids.max() + 1, ids.max() + 81)
            chosen = new if step == "add" else np.sort(rng.choice(ids, 40, replace=False))
            table = rows_of(chosen, seed)
            teravec.add(self.path, table, vector_column="v", filterable=filterable)
            self.put(table)
        elif step == "delete":
            gone = rng.choice(ids, 30, replace=False)
            teravec.delete(self.path, gone)
            for each in gone.tolist():
                del self.rows[each]
        elif step == "compact":
            teravec.compact(self.path, full=True)
        else:
            teravec.rebalance(self.path, max_list_bytes="4KiB")

    def check(self, metric: str, *, exact: bool) -> None:
        table = pa.Table.from_pylist(list(self.rows.values()), self.schema)
        vectors = np.array(table["v"].to_pylist(), np.float32)
        products = QUERIES @ vectors.T
        costs = -products if metric == "ip" else (vectors**2).sum(1) - 2 * products
        with teravec.open(self.path) as index:
            for text in QUESTIONS:
                bound = bind(parse_filter(text), table.schema)
                columns = {name: table[name].combine_chunks() for name in table.column_names}
                rows = np.flatnonzero(passing_rows(bound, columns))
                most = min(K, len(rows))
                distances, ids = index.search(QUERIES, K, index.nlist, filter=text)
                assert (ids[:, most:] == -1).all()
                passing = table["id"].to_numpy()[rows]
                assert np.isin(ids[:, :most], passing).all(), text
                if exact:
                    nearest = np.sort(costs[:, rows], 1)[:, :most]
                    squares = 0 if metric == "ip" else (QUERIES**2).sum(1)[:, None]
                    found = distances[:, :most] * (-1 if metric == "ip" else 1)
                    np.testing.assert_allclose(found, nearest + squares, rtol=1e-3, atol=1e-3)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["flat", "flat", "rabitq2+sq8"]),
    st.sampled_from(["l2", "ip"]),
    st.sampled_from([None, "lang", "n,tags", "price,tags,lang,n"]),
    st.lists(st.tuples(STEPS, st.sampled_from([None, "price", "lang,n"])), min_size=2, max_size=5),
    st.integers(0, 1000),
)
def test_after_any_changes(
    tmp_path_factory: pytest.TempPathFactory,
    codec: str,
    metric: str,
    filterable: str | None,
    steps: list[tuple[str, str | None]],
    seed: int,
) -> None:
    beside = Beside(tmp_path_factory.mktemp("life") / "index")
    first = rows_of(np.arange(400), seed)
    options: dict[str, Any] = {"nlist": 8, "codec": codec, "metric": metric, "calibrate": False}
    options |= {"id_column": "id", "vector_column": "v", "columns": "all"}
    teravec.build(first, beside.path, filterable=filterable, **options)
    beside.put(first)
    for number, (step, more) in enumerate(steps):
        beside.change(step, seed + number + 1, more)
        beside.check(metric, exact=codec == "flat")
    teravec.verify(beside.path)
