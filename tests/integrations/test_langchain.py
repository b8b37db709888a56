"""The vector store of LangChain beyond LangChain's own suite; run where LangChain is installed."""

from __future__ import annotations

import datetime
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import teravec
from teravec.errors import InvalidArgument

pytest.importorskip("langchain_core")

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from teravec.integrations.langchain import TeravecVectorStore

EMBEDDING = DeterministicFakeEmbedding(size=8)
TEXTS = [f"text {n}" for n in range(60)]
METADATA = [
    {
        "n": n,
        "half": n / 2,
        "lang": ("en", "de", "fr")[n % 3],
        "tags": [f"t{n % 2}", f"u{n % 5}"],
        "even": n % 2 == 0,
        "day": str(datetime.date(2024, 1, 1) + datetime.timedelta(n)),
        "nested": {"of": [n, None]},
        **({"rare": None if n == 7 else 'it\'s "so" \u00fc' * 40} if n in (7, 8) else {}),
    }
    for n in range(60)
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("langchain") / "index"


@pytest.fixture(scope="module")
def store(path: Path) -> TeravecVectorStore:
    columns: dict[str, Any] = {"n": "int64", "day": pa.date32()}
    store = TeravecVectorStore(EMBEDDING, path, metadata_columns=columns, memory="256MiB")
    store.add_texts(TEXTS[:20], METADATA[:20], ids=[str(n) for n in range(20)])
    store.add_texts(TEXTS[20:], METADATA[20:], ids=[str(n) for n in range(20, 60)])
    return store


def numbers(found: list[Document]) -> set[int]:
    return {int(document.id or -1) for document in found}


def all_with(wanted: Any) -> set[int]:
    return {n for n, metadata in enumerate(METADATA) if wanted(metadata)}


def test_another_store_of_the_same_path_has_all(store: TeravecVectorStore, path: Path) -> None:
    other = TeravecVectorStore(EMBEDDING, path)
    (found,) = other.similarity_search(TEXTS[33], k=1)
    assert found == Document(id="33", page_content=TEXTS[33], metadata=METADATA[33])


CASES: list[tuple[Any, Any]] = [
    ({"lang": "en"}, lambda m: m["lang"] == "en"),
    ({"lang": {"$ne": "en"}}, lambda m: m["lang"] != "en"),
    ({"lang": {"$in": ["en", "fr"]}}, lambda m: m["lang"] != "de"),
    ({"lang": {"$nin": ["en", "fr"]}}, lambda m: m["lang"] == "de"),
    ({"tags": "t1", "lang": "de"}, lambda m: "t1" in m["tags"] and m["lang"] == "de"),
    ({"even": True}, lambda m: m["even"]),
    ({"half": 3}, lambda m: m["half"] == 3),
    ({"half": {"$in": [1.5, 2]}}, lambda m: m["half"] in (1.5, 2)),
    ({"n": 5}, lambda m: m["n"] == 5),
    ({"n": {"$gte": 5, "$lt": 9.5}}, lambda m: 5 <= m["n"] < 9.5),
    ({"n": {"$in": [1, 2, 99]}}, lambda m: m["n"] in (1, 2)),
    ({"n": {"$ne": 1}, "lang": "de"}, lambda m: m["n"] != 1 and m["lang"] == "de"),
    ({"day": {"$gt": datetime.date(2024, 2, 20)}}, lambda m: m["day"] > "2024-02-20"),
    ({"day": "2024-01-03"}, lambda m: m["day"] == "2024-01-03"),
    ({"$or": [{"n": 3}, {"lang": "fr"}]}, lambda m: m["n"] == 3 or m["lang"] == "fr"),
    ({"$not": {"even": True, "lang": "fr"}}, lambda m: not m["even"] or m["lang"] != "fr"),
    ({"$and": [{"even": True}, {"n": {"$lt": 9}}]}, lambda m: m["even"] and m["n"] < 9),
    ({"rare": None}, lambda m: m.get("rare", 0) is None),
    ({"rare": METADATA[8]["rare"]}, lambda m: m["n"] == 8),
    ({"rare": {"$ne": METADATA[8]["rare"]}}, lambda m: m["n"] != 8),
    ("n > 50 or 'lang=\"fr\"' in terms", lambda m: m["n"] > 50 or m["lang"] == "fr"),
    (pa.compute.field("n") < 4, lambda m: m["n"] < 4),
    ({}, lambda m: True),
]  # fmt: skip


@pytest.mark.parametrize(("given", "wanted"), CASES)
def test_filters(store: TeravecVectorStore, given: Any, wanted: Any) -> None:
    found = store.similarity_search("whatever", k=60, filter=given)
    assert numbers(found) == all_with(wanted)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"half": {"$gt": 3}}, "metadata_columns"),
        ({"n": {"$near": 3}}, r"\$near.*\$eq"),
        ({"n": {}}, "no operator"),
        ({"$or": []}, "a list of conditions"),
        ({"$and": {"n": 3}}, "a list of conditions"),
        ({"$where": "1"}, r"\$where"),
        ({"lang": {"$in": []}}, "a list of values"),
        ({"nested": ["x"]}, "text or a number"),
        ({"n": object()}, "text, a number"),
        ({"n": "many"}, "n"),
        (["n"], "filter"),
        ("nothing = 3", "nothing"),
    ],
)
def test_wrong_filters(store: TeravecVectorStore, given: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        store.similarity_search("whatever", filter=given)


def test_scores_and_relevance(store: TeravecVectorStore) -> None:
    query = np.asarray(EMBEDDING.embed_query("a question"))
    vectors = np.asarray(EMBEDDING.embed_documents(TEXTS))
    cosine = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    best = np.argsort(-cosine)[:5]
    scored = store.similarity_search_with_score("a question", k=5)
    assert [int(document.id or -1) for document, _ in scored] == best.tolist()
    np.testing.assert_allclose([score for _, score in scored], cosine[best], atol=1e-5)
    relevant = store.similarity_search_with_relevance_scores("a question", k=3)
    np.testing.assert_allclose([score for _, score in relevant], cosine[best[:3]], atol=1e-5)
    assert store.similarity_search_by_vector(query.tolist(), k=5) == [found for found, _ in scored]


def test_marginal_relevance_is_that_of_langchain(store: TeravecVectorStore) -> None:
    from langchain_core.vectorstores import InMemoryVectorStore

    memory = InMemoryVectorStore(EMBEDDING)
    memory.add_texts(TEXTS, METADATA, ids=[str(n) for n in range(60)])
    for options in ({"lambda_mult": 0.1}, {"fetch_k": 4}, {"k": 30, "fetch_k": 30}):
        ours = store.max_marginal_relevance_search("a question", **options)
        theirs = memory.max_marginal_relevance_search("a question", **options)
        assert [found.id for found in ours] == [found.id for found in theirs]
    some = store.max_marginal_relevance_search("a question", k=3, filter={"lang": "fr"})
    assert {found.metadata["lang"] for found in some} == {"fr"}
    retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 2})
    assert len(retriever.invoke("a question")) == 2


def test_an_index_that_was_built_elsewhere(tmp_path: Path) -> None:
    vectors = np.asarray(EMBEDDING.embed_documents(TEXTS), np.float32)
    table = pa.table(
        {
            "key": pa.array(range(100, 160)),
            "body": TEXTS,
            "rank": pa.array([n if n % 2 else None for n in range(60)], pa.int64()),
            "tags": [m["tags"] for m in METADATA],
            "vector": list(vectors),
        }
    )
    teravec.build(
        table,
        tmp_path / "i",
        id_column="key",
        vector_column="vector",
        columns=["body", "rank", "tags"],
        codec="flat",
    )
    with pytest.raises(InvalidArgument, match=r"no column 'text'.* body, rank, tags"):
        TeravecVectorStore(EMBEDDING, tmp_path / "i").similarity_search("x")
    store = TeravecVectorStore(EMBEDDING, tmp_path / "i", text_column="body", metric="l2")
    (found,) = store.similarity_search(TEXTS[3], k=1)
    assert found == Document(
        id="103", page_content=TEXTS[3], metadata={"rank": 3, "tags": ["t1", "u3"]}
    )
    conditions = {"rank": {"$gte": 50}, "tags": {"$in": ["u1", "u2"]}}
    some = store.similarity_search("x", k=60, filter=conditions)
    assert numbers(some) == {151, 157}
    assert len(store.similarity_search("x", k=60, filter={"rank": {"$nin": [1, 3]}})) == 58
    store.add_texts(["new"], [{"rank": 7, "other": 1}], ids=["500"])
    assert store.get_by_ids(["500", "9"])[0].metadata == {"rank": 7}
    store.delete(["500", "9"])
    assert store.get_by_ids(["500"]) == []
    (near,) = store.similarity_search_with_relevance_scores(TEXTS[3], k=1)
    assert near[1] == pytest.approx(1)
    for wrong in (lambda: store.add_texts(["x"]), lambda: store.delete(["x"])):
        with pytest.raises(InvalidArgument, match="whole numbers"):
            wrong()
    with pytest.raises(InvalidArgument, match="'lang' is no column"):
        store.similarity_search("x", filter={"lang": "en"})


def test_wrong_additions(store: TeravecVectorStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="2 texts and 1 metadatas"):
        store.add_texts(["a", "b"], [{}])
    with pytest.raises(InvalidArgument, match="2 texts and 1 ids"):
        store.add_texts(["a", "b"], ids=["1"])
    with pytest.raises(InvalidArgument, match="document 1 is no JSON"):
        store.add_texts(["a", "b"], [{}, {"at": datetime.date(2024, 1, 1)}])
    with pytest.raises(InvalidArgument, match="'n' of type int64"):
        store.add_texts(["a"], [{"n": "many"}])
    with pytest.raises(InvalidArgument, match="ids expected"):
        store.delete()
    with pytest.raises(InvalidArgument, match="'text' is a column of the store"):
        TeravecVectorStore(EMBEDDING, tmp_path, metadata_columns={"text": "string"})
    with pytest.raises(InvalidArgument, match="'n' of type 'number'"):
        TeravecVectorStore(EMBEDDING, tmp_path, metadata_columns={"n": "number"})
    with pytest.raises(InvalidArgument, match="path expected"):
        TeravecVectorStore.from_texts(["a"], EMBEDDING)


def test_an_id_twice_and_none(tmp_path: Path) -> None:
    store = TeravecVectorStore.from_texts([], EMBEDDING, path=tmp_path / "i")
    assert store.get_by_ids(["1"]) == []
    assert store.max_marginal_relevance_search("x") == []
    documents = [Document("first", id="1"), Document("second"), Document("last", id="1")]
    first, second, last = store.add_documents(documents)
    assert first == last == "1"
    assert {each.page_content for each in store.similarity_search("x")} == {"second", "last"}
    assert store.get_by_ids([second])[0].page_content == "second"


def test_threads_add_and_search_at_once(tmp_path: Path) -> None:
    store = TeravecVectorStore(EMBEDDING, tmp_path / "i", maintain=None)

    def work(n: int) -> None:
        store.add_texts([f"{n} a", f"{n} b"], ids=[f"{n}a", f"{n}b"])
        (found,) = store.similarity_search(f"{n} b", k=1)
        assert found.id == f"{n}b"

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    assert len(store.similarity_search("x", k=100)) == 16


def test_additions_are_maintained(tmp_path: Path) -> None:
    store = TeravecVectorStore(EMBEDDING, tmp_path / "i")
    for n in range(12):
        store.add_texts([f"text {n}"], ids=[str(n % 10)])
    with teravec.open(tmp_path / "i") as index:
        assert len(index.manifest.segments) < 10
    assert numbers(store.similarity_search("x", k=20)) == set(range(10))


def test_two_stores_of_a_path_see_each_others_changes(
    store: TeravecVectorStore, path: Path
) -> None:
    other = TeravecVectorStore(EMBEDDING, path, maintain=None)
    other.add_texts(["from elsewhere"], [{"n": 1000}], ids=["1000"])
    (found,) = store.similarity_search("from elsewhere", k=1)
    assert found.id == "1000"
    store.delete(["1000"])
    assert other.get_by_ids(["1000"]) == []
