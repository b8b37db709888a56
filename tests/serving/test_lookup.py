"""Vectors by the index's ids, of the files that it was built from, and of no others."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import teravec
from teravec.errors import InvalidArgument, MemoryLimitTooSmall
from teravec.serving.server.lookup import VectorLookup
from teravec.serving.wire.security import Address
from tests.conftest import clustered
from tests.serving.conftest import Launch

N, D = 700, 8
X = clustered(N, D)
LARGE = (1 << 60) + np.random.default_rng(2).permutation(N)  # neighbours differ below 2^53
ASCENDING = np.arange(N) + 10**6


def table(path: Path, ids: np.ndarray, x: np.ndarray = X) -> Path:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), D)
    other = pa.FixedSizeListArray.from_arrays(pa.array((x[::-1] * 2).ravel()), D)
    pq.write_table(pa.table({"uid": ids, "b": other, "a": vectors}), path, row_group_size=99)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lookup")
    twice = ASCENDING.copy()
    twice[[5, 600]] = 42
    np.save(root / "x.npy", X)
    np.save(root / "y.npy", X + 1)
    for name, ids in (("large", LARGE), ("ascending", ASCENDING), ("twice", twice)):
        data = table(root / f"{name}.parquet", ids)
        teravec.build(
            data,
            root / name,
            nlist=4,
            codec="flat",
            id_column="uid",
            vector_column="a",
            calibrate=False,
        )
    teravec.build(root / "x.npy", root / "rows", nlist=4, codec="flat", calibrate=False)
    return root


def test_ids_of_a_column(root: Path) -> None:
    for name, ids in (("large", LARGE), ("ascending", ASCENDING)):
        lookup = VectorLookup(str(root / f"{name}.parquet"), root / name)
        asked = [int(ids[row]) for row in (0, 699, 3, 3)]
        np.testing.assert_array_equal(lookup.vectors(asked), X[[0, 699, 3, 3]])
        for strange in (0, 699, int(ids.max()) + 1, int(ids.min()) - 1):
            with pytest.raises(InvalidArgument, match=f"id {strange} asked for"):
                lookup.vectors([asked[0], strange])


def test_of_an_id_that_two_rows_have_the_first_is_meant(root: Path) -> None:
    lookup = VectorLookup(str(root / "twice.parquet"), root / "twice")
    np.testing.assert_array_equal(lookup.vectors([42]), X[[5]])


def test_memory_for_a_table_of_ids_is_limited(root: Path) -> None:
    with pytest.raises(MemoryLimitTooSmall, match="700 ids"):
        VectorLookup(str(root / "large.parquet"), root / "large", 700 * 8)
    VectorLookup(str(root / "ascending.parquet"), root / "ascending", 700 * 8)  # needs none


@pytest.mark.parametrize(
    ("index", "vectors", "why"),
    [
        ("rows", "y.npy", "not built"),
        ("rows", "large.parquet", "vector columns"),
        ("large", "x.npy", "column 'uid'"),
        ("large", "ascending.parquet", "not built"),
        ("large", "rows/model/centroids.npy", "column 'uid'"),
    ],
)
def test_other_files_are_refused(
    root: Path, serve: Launch, index: str, vectors: str, why: str
) -> None:
    with pytest.raises(InvalidArgument, match=why):
        VectorLookup(str(root / vectors), root / index)
    with pytest.raises(InvalidArgument, match=why):
        serve(root / index, vectors=str(root / vectors))


def test_another_index_may_be_served_by_now(root: Path) -> None:
    from teravec.index.manifest import read_manifest
    from teravec.storage.layout import IndexPaths

    lookup = VectorLookup(str(root / "x.npy"), root / "rows")
    lookup.check(read_manifest(IndexPaths(root / "rows")))
    with pytest.raises(InvalidArgument, match="other vectors"):
        lookup.check(read_manifest(IndexPaths(root / "large")))


def test_ids_above_2_to_53_are_whole(root: Path, serve: Launch) -> None:
    server = serve(
        root / "large", http=Address("127.0.0.1", 0), vectors=str(root / "large.parquet")
    )
    url, asked = f"http://{server.http_address}/search", [int(i) for i in LARGE[:3]]
    with httpx.Client() as client:
        for ids in (asked, [str(i) for i in asked]):
            body = {"ids": ids, "k": 2, "nprobe": 4}
            answer = client.post(url, json=body)
            assert [r["ids"][0] for r in json.loads(answer.text)["results"]] == asked
            told = client.post(url, json={**body, "string_ids": True}).json()["results"]
            assert [r["ids"][0] for r in told] == [str(i) for i in asked]
            assert [r["distances"][0] for r in told] == [0.0] * 3
        for bad in ("17x", "-1", "", "9" * 19, "9" * 20, 1.5, None, True):
            refused = client.post(url, json={"ids": [bad], "k": 2, "nprobe": 4})
            assert refused.status_code == 422, bad


def test_the_console_keeps_ids_as_text() -> None:
    from importlib.resources import files

    script = (files("teravec.serving.http") / "console" / "console.js").read_text()
    assert "string_ids: true" in script
    ids_of_a_query = script[script.index('startsWith("#")') :].split("}")[0]
    assert "Number" not in ids_of_a_query.replace("JavaScript's numbers", "")
