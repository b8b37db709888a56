"""The modules for ann-benchmarks, big-ann-benchmarks and VectorDBBench, called as these call them.

Their own packages are not installed: small modules with the names that ours import take their
places. docs/integrations.md says how to run ours in theirs.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from tests.conftest import clustered

ROOT = Path(__file__).parents[2] / "integrations"
N, D, K = 2000, 8, 5
X = clustered(N + 20, D)
BASE, QUERIES = X[:N], X[N:]
CONFIGS = sorted(ROOT.rglob("config.y*ml"))


@contextmanager
def theirs(**modules: Any) -> Iterator[None]:
    """Put modules of these names (dots as two underscores) and their packages into sys.modules."""
    with pytest.MonkeyPatch.context() as patch:
        for name in modules:
            dotted = name.replace("__", ".")
            for end in [at for at, letter in enumerate(dotted) if letter == "."]:
                package = ModuleType(dotted[:end])
                package.__path__ = []
                patch.setitem(sys.modules, dotted[:end], package)
        for name, contents in modules.items():
            module = ModuleType(name.replace("__", "."))
            vars(module).update(contents)
            patch.setitem(sys.modules, module.__name__, module)
        yield


def ours(path: str, name: str) -> ModuleType:
    """Import one of our files under the name that it has in their tree."""
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # removed with its package's stand-in, or overwritten by the next
    spec.loader.exec_module(module)
    return module


def exact(queries: np.ndarray, rows: np.ndarray, k: int = K) -> np.ndarray:
    distances = ((queries[:, None] - BASE[rows][None]) ** 2).sum(axis=2)
    return rows[np.argsort(distances, axis=1)[:, :k]]


def share(found: Any, wanted: np.ndarray) -> float:
    pairs = zip(found, wanted, strict=True)
    return float(np.mean([len(set(map(int, a)) & set(b.tolist())) / len(b) for a, b in pairs]))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.parts[-3])
def test_configurations_name_what_there_is(path: Path) -> None:
    definitions: list[dict[str, Any]] = []
    for sets in yaml.safe_load(path.read_text()).values():
        named = sets["any"] if "any" in sets else list(sets.values())
        definitions += named
    assert definitions
    text = (path.parent / "module.py").read_text()
    for definition in definitions:
        assert f"class {definition['constructor']}" in text
        folder = definition["module"].removesuffix(".module").split(".")
        assert list(path.parent.parts[-len(folder) :]) == folder


def test_ann_benchmarks() -> None:
    class BaseANN:
        pass

    name = "ann_benchmarks.algorithms.teravec.module"
    with theirs(ann_benchmarks__algorithms__base__module={"BaseANN": BaseANN}):
        module = ours(f"ann-benchmarks/{name.replace('.', '/')}.py", name)
    algorithm = module.Teravec("angular", "flat")
    algorithm.fit(BASE)
    algorithm.set_query_arguments(1000)
    unit = BASE / np.linalg.norm(BASE, axis=1, keepdims=True)
    wanted = np.argsort(-QUERIES @ unit.T, axis=1)[:, :K]
    assert share([algorithm.query(q, K) for q in QUERIES], wanted) == 1
    algorithm.batch_query(QUERIES, K)
    assert share(algorithm.get_batch_results(), wanted) == 1
    assert algorithm.get_additional()["dist_comps"] == 2 * len(QUERIES) * N
    algorithm.set_query_arguments(0.8)
    assert "0.8" in algorithm.name
    assert share([algorithm.query(q, 10) for q in QUERIES], wanted) > 0.6
    algorithm.done()
    with pytest.raises(NotImplementedError, match="hamming"):
        module.Teravec("hamming", "flat")


class _BaseANN:
    def get_results(self) -> Any:
        return self.res  # type: ignore[attr-defined]


def _track(name: str) -> type:
    return type("Base", (_BaseANN,), {"track": lambda self: name})


class Tagged:
    """A data set of big-ann-benchmarks, in two batches, with tags."""

    def search_type(self) -> str:
        return "knn_filtered"

    def get_dataset_iterator(self, bs: int) -> Iterator[np.ndarray]:
        yield from (BASE[:1500], BASE[1500:])

    def get_dataset_metadata(self) -> Any:
        return Rows([[n % 3, 10 + n % 2] for n in range(N)])


class Rows:
    """What is asked of a sparse matrix: slices with indptr and indices, and rows."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.rows = rows
        self.indptr = np.cumsum([0, *map(len, rows)])
        self.indices = np.concatenate([np.asarray(row) for row in rows])

    def __getitem__(self, rows: slice) -> Rows:
        return Rows(self.rows[rows])

    def __iter__(self) -> Iterator[Rows]:
        return (Rows([row]) for row in self.rows)


def test_big_ann_benchmarks_filters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = "big-ann-benchmarks/neurips23"
    ood, filtered = (f"neurips23.{track}.teravec.module" for track in ("ood", "filter"))
    with theirs(
        benchmark__datasets={"DATASETS": {"set": Tagged}},
        neurips23__ood__base={"BaseOODANN": _track("ood")},
        neurips23__filter__base={"BaseFilterANN": _track("filter")},
        neurips23__ood__teravec__module={},
        neurips23__filter__teravec__module={},
    ):
        ours(f"{folder}/ood/teravec/module.py", ood)
        module = ours(f"{folder}/filter/teravec/module.py", filtered)
        algorithm = module.Teravec("euclidean", {"codec": "flat", "nlist": 16})
        assert not algorithm.load_index("set")
        algorithm.fit("set")
        algorithm.done()
        assert algorithm.load_index("set")
    assert (tmp_path / "data" / "indices" / "filter" / algorithm.name / "set").is_dir()
    algorithm.set_query_arguments({"nprobe": 16})
    algorithm.query(QUERIES, K)
    assert share(algorithm.get_results(), exact(QUERIES, np.arange(N))) == 1
    tags = [[[1], [2, 11], [11, 2], [0]][n % 4] for n in range(len(QUERIES))]
    algorithm.filtered_query(QUERIES, Rows(tags), K)
    for n, wanted in enumerate(tags):
        rows = [r for r in range(N) if set(wanted) <= {r % 3, 10 + r % 2}]
        found = algorithm.get_results()[n : n + 1]
        assert share(found, exact(QUERIES[n : n + 1], np.array(rows))) == 1
    radius = float(((QUERIES[0] - BASE) ** 2).sum(axis=1).min() * 4)
    algorithm.range_query(QUERIES[:1], radius)
    lims, _, ids = algorithm.get_range_results()
    assert set(ids.tolist()) == set(
        np.flatnonzero(((QUERIES[0] - BASE) ** 2).sum(axis=1) < radius).tolist()
    )
    assert lims.tolist() == [0, len(ids)]
    assert algorithm.get_additional()["dist_comps"] > 0
    algorithm.done()


def test_big_ann_benchmarks_streaming() -> None:
    with theirs(neurips23__streaming__base={"BaseStreamingANN": _track("stream")}):
        path = "big-ann-benchmarks/neurips23/streaming/teravec/module.py"
        module = ours(path, "neurips23.streaming.teravec")
    algorithm = module.Teravec("euclidean", {"codec": "flat"})
    algorithm.setup("float32", N, D)
    ids = np.arange(N, dtype=np.uint32)
    algorithm.insert(BASE[:1000], ids[:1000])
    algorithm.set_query_arguments({"nprobe": 1000})
    algorithm.insert(BASE[1000:], ids[1000:])
    algorithm.delete(ids[200:700])
    algorithm.query(QUERIES, K)
    kept = np.concatenate([np.arange(200), np.arange(700, N)])
    assert share(algorithm.get_results(), exact(QUERIES, kept)) == 1
    algorithm.replace(BASE[300:302], ids[:2])
    algorithm.query(BASE[300:302], 1)
    assert algorithm.get_results().ravel().tolist() == [0, 1]
    algorithm.done()


class MetricType(StrEnum):
    COSINE = "COSINE"
    L2 = "L2"
    IP = "IP"


class FilterOp(StrEnum):
    NumGE = "NumGE"
    StrEqual = "Label"
    NonFilter = "NonFilter"


def test_vectordbbench(tmp_path: Path) -> None:
    from pydantic import BaseModel

    class DBConfig(BaseModel):
        db_label: str = ""

    empty = {name: type(name, (), {}) for name in ("DBCaseConfig", "VectorDB")}
    clients = "vectordb_bench.backend.clients.teravec"
    with theirs(
        vectordb_bench__backend__filter={"Filter": SimpleNamespace, "FilterOp": FilterOp},
        vectordb_bench__backend__clients__api={
            **empty,
            "DBConfig": DBConfig,
            "MetricType": MetricType,
        },
        vectordb_bench__backend__clients__teravec__config={},
    ):
        folder = f"VectorDBBench/{clients.replace('.', '/')}"
        config = ours(f"{folder}/config.py", f"{clients}.config")
        module = ours(f"{folder}/teravec.py", f"{clients}.teravec")
    case = config.TeravecIndexConfig(metric_type=MetricType.L2, codec="flat", nprobe=1000)
    where = config.TeravecConfig(path=str(tmp_path)).to_dict()
    client = module.Teravec(D, where, case, drop_old=True, with_scalar_labels=True)
    labels = [f"label_{n % 4}p" for n in range(N)]
    with client.init():
        for start in (0, 1500):
            part = slice(start, min(start + 1500, N))
            rows = (BASE[part].tolist(), list(range(N))[part], labels[part])
            assert client.insert_embeddings(*rows) == (len(rows[0]), None)
        client.optimize()
        assert client.insert_embeddings([[9e3] * D], [N], ["label_9p"]) == (1, None)
        client.optimize()
        assert client.search_embedding([9e3] * D, k=1) == [N]
    cases: list[tuple[Any, Any]] = [
        (SimpleNamespace(type=FilterOp.NonFilter), np.arange(N)),
        (SimpleNamespace(type=FilterOp.NumGE, int_value=1900), np.arange(1900, N)),
        (SimpleNamespace(type=FilterOp.StrEqual, label_value="label_3p"), np.arange(3, N, 4)),
    ]
    again = module.Teravec(D, where, case, with_scalar_labels=True)
    with again.init():
        for given, rows_kept in cases:
            again.prepare_filter(given)
            found = [again.search_embedding(q.tolist(), k=K) for q in QUERIES]
            assert share(found, exact(QUERIES, rows_kept)) == 1
