"""A vector store of LangChain on an index (``pip install 'teravec[langchain]'``)."""

from __future__ import annotations

import math
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from teravec.api import build
from teravec.changing import add, delete, maintain, vacuum
from teravec.errors import InvalidArgument
from teravec.integrations.documents import VECTOR, DocumentColumns
from teravec.integrations.newest import NewestIndex
from teravec.storage.places import PlaceLike

__all__ = ["TeravecVectorStore"]

Float32 = npt.NDArray[np.float32]

_KEPT = "1d"  # how long versions are kept that were replaced
_BUDGET = "10s"


class TeravecVectorStore(VectorStore):  # type: ignore[misc]
    """Documents and their embeddings in an index, on disk or in an object store.

    The first documents that are added build the index; later ones are added to it, and replace
    documents of the same ids. Each call sees what every process has added before it. Threads and
    processes may share the index.

    An index that was built by ``teravec build --columns ...`` opens, too: ``text_column`` names its
    texts, and its other columns are the metadata.

    Parameters
    ----------
    embedding : Embeddings
        What makes vectors of texts.
    path : path-like or Store
        The index: a directory, or a URL of an object store.
    text_column : str
        The column of texts.
    metadata_columns : mapping of str to pyarrow.DataType or str, optional
        Keys of metadata whose values a filter may compare, as ``{"year": "int64"}``; for an index
        that does not exist yet. Every key may be asked for equality without that.
    metric : {"cosine", "l2", "ip"}
        For an index that does not exist yet.
    codec : str
        Likewise, as for ``teravec.build``. ``flat`` and ``fp16`` need no training; another codec
        is trained on the first documents that are added, so there should be thousands of them.
    build_options : mapping, optional
        More options of ``teravec.build``.
    recall, nprobe : optional
        How thorough searches are, as for ``Index.search``.
    memory, threads
        As for ``teravec.open``, and for additions.
    maintain : str or None
        After an addition, ``teravec.maintain`` goes on for at most this time, as "10s"; it mostly
        finds nothing to do. None: never; somebody else maintains the index.

    Examples
    --------
    ::

        store = TeravecVectorStore(embeddings, "/srv/documents", metadata_columns={"year": "int64"})
        store.add_documents(documents)
        store.similarity_search("whales", k=4, filter={"lang": "en", "year": {"$gte": 2020}})
    """

    def __init__(
        self,
        embedding: Embeddings,
        path: PlaceLike,
        *,
        text_column: str = "text",
        metadata_columns: Mapping[str, Any] | None = None,
        metric: str = "cosine",
        codec: str = "flat",
        build_options: Mapping[str, Any] | None = None,
        recall: float | None = None,
        nprobe: int | None = None,
        memory: str | int | None = None,
        threads: int | None = None,
        maintain: str | None = _BUDGET,
    ) -> None:
        self._embedding, self._text = embedding, text_column
        self._new_columns = DocumentColumns.of_new(text_column, metadata_columns)
        self._build_options = {"metric": metric, "codec": codec, **(build_options or {})}
        self._effort = {"recall": recall, "nprobe": nprobe}
        self._resources: dict[str, Any] = {"memory": memory, "threads": threads}
        self._maintain = maintain
        self._newest = NewestIndex(path, memory=memory, threads=threads)
        self._building = threading.Lock()

    @property
    def embeddings(self) -> Embeddings:
        """What makes vectors of texts."""
        return self._embedding

    def close(self) -> None:
        """Close the files of the index; the next call opens them again."""
        self._newest.close()

    # Changes

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Embed texts and add them; a text with an id that exists replaces that document.

        Parameters
        ----------
        texts : iterable of str
        metadatas : list of dict, optional
            Whatever JSON holds, one for each text.
        ids : list of str, optional
            Texts without an id get a UUID. Of texts with the same id, the last one is kept.

        Returns
        -------
        list of str
            The ids.

        Raises
        ------
        InvalidArgument
        """
        texts = list(texts)
        given = list(ids) if ids is not None else [None] * len(texts)
        metadatas = metadatas or [{}] * len(texts)
        for name, values in (("metadatas", metadatas), ("ids", given)):
            if len(values) != len(texts):
                raise InvalidArgument(f"{len(texts)} texts and {len(values)} {name} found")
        if not texts:
            return []
        named = [each or str(uuid.uuid4()) for each in given]
        last = sorted({each: at for at, each in enumerate(named)}.values())
        self._add(
            [named[at] for at in last], [texts[at] for at in last], [metadatas[at] for at in last]
        )
        return named

    def _add(self, ids: list[str], texts: list[str], metadatas: list[dict[str, Any]]) -> None:
        vectors = np.asarray(self._embedding.embed_documents(texts), np.float32)
        with self._building:  # of threads that add the first documents, one builds
            with self._newest.open() as index:
                exists = index is not None
                columns = self._new_columns if index is None else self._columns(index)
                rows = pa.array(ids) if index is None else _as_ids(ids, index)
            table = columns.table(rows, texts, metadatas, vectors)
            options: dict[str, Any] = {"id_column": columns.id, "vector_column": VECTOR}
            options |= self._resources
            if not exists:
                kept = {"columns": list(columns.schema.names)}
                build(table, self._newest.place, **{**self._build_options, **options, **kept})
                return
        add(self._newest.place, table, **options)
        if self._maintain is not None:
            found = maintain(self._newest.place, budget=self._maintain, **self._resources)
            if found.steps:
                vacuum(self._newest.place, older_than=_KEPT)

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents by id; ids that no document has are no error.

        Raises
        ------
        InvalidArgument
            No ids: to delete all documents, remove the index.
        """
        if ids is None:
            raise InvalidArgument("delete: ids expected; to delete all, remove the index")
        with self._newest.open() as index:
            numbers = None if index is None else _as_ids(ids, index)
        if ids and numbers is not None:
            texts = pa.types.is_string(numbers.type)
            delete(self._newest.place, ids if texts else numbers.to_numpy())
        return True

    # Documents

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return documents by id, in this order; ids that no document has are left out."""
        with self._newest.open() as index:
            if index is None or not ids:
                return []
            columns = self._columns(index)
            rows = index.get(_as_ids(ids, index), columns=columns.names)
        return [document for document, _ in _documents(rows, columns)]

    def similarity_search(
        self, query: str, k: int = 4, filter: Any = None, **kwargs: Any
    ) -> list[Document]:
        """Return the k documents nearest to a text; ``filter`` as for the search with scores."""
        return [found for found, _ in self.similarity_search_with_score(query, k, filter, **kwargs)]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: Any = None, **kwargs: Any
    ) -> list[Document]:
        """Return the k documents nearest to a vector."""
        scored = self.similarity_search_with_score_by_vector(embedding, k, filter, **kwargs)
        return [found for found, _ in scored]

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: Any = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the k documents nearest to a text, and how near they are.

        Parameters
        ----------
        query : str
        k : int
        filter : dict, or str or pyarrow.compute.Expression
            Conditions on the metadata, as ``{"lang": "en", "year": {"$gte": 2020}}``, with ``$eq
            $ne $in $nin $gt $gte $lt $lte $and $or $not``; or a filter on the index's columns.
        recall, nprobe : optional
            As for ``Index.search``, instead of the store's own.

        Returns
        -------
        list of (Document, float)
            Similarities, larger is nearer, for cosine and ip; squared distances for l2.
        """
        vector = self._embedding.embed_query(query)
        return self.similarity_search_with_score_by_vector(vector, k, filter, **kwargs)

    def similarity_search_with_score_by_vector(
        self, embedding: list[float], k: int = 4, filter: Any = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Do as ``similarity_search_with_score``, for a vector."""
        return [found for found, _ in self._nearest(embedding, k, filter, **kwargs)]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Any = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Return k documents near to a text and unlike each other.

        Parameters
        ----------
        fetch_k : int
            So many of the nearest are chosen from.
        lambda_mult : float
            1: as near as possible; 0: as unlike each other as possible.
        query, k, filter
            As for ``similarity_search_with_score``.
        """
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(
            vector, k, fetch_k, lambda_mult, filter, **kwargs
        )

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Any = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Do as ``max_marginal_relevance_search``, for a vector."""
        found = self._nearest(embedding, fetch_k, filter, vectors=True, **kwargs)
        vectors = [vector for _, vector in found]
        query = np.asarray(embedding, np.float32)
        chosen = maximal_marginal_relevance(query, vectors, lambda_mult, k)
        return [found[at][0][0] for at in chosen]

    def _nearest(
        self, embedding: Any, k: int, filter: Any, *, vectors: bool = False, **effort: Any
    ) -> list[tuple[tuple[Document, float], Any]]:
        with self._newest.open() as index:
            if index is None:
                return []
            columns = self._columns(index)
            chosen = effort if {"recall", "nprobe"} & set(effort) else self._effort
            rows = index.query(
                np.asarray(embedding, np.float32),
                k,
                columns=columns.names,
                filter=columns.filter(filter),
                vectors=vectors,
                **chosen,
            )
        values = rows["vector"].to_pylist() if vectors else [None] * rows.num_rows
        return list(zip(_documents(rows, columns), values, strict=True))

    def _columns(self, index: Any) -> DocumentColumns:
        return DocumentColumns.of_index(self._text, index)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        with self._newest.open() as index:
            metric = self._build_options["metric"] if index is None else index.metric
        if metric == "l2":
            return lambda score: float(self._euclidean_relevance_score_fn(math.sqrt(score)))
        return lambda score: max(0.0, min(1.0, score))

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> TeravecVectorStore:
        """Open a store and add texts to it; options as for the store, ``path`` among them."""
        if "path" not in kwargs:
            raise InvalidArgument("path expected: where the index lies, or is to be made")
        store = cls(embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store


def _as_ids(ids: Sequence[str], index: Any) -> Any:
    """Return ids as the index has them, an Arrow array: texts, or whole numbers."""
    if index.manifest.text_ids is not None:
        return pa.array(list(ids), pa.string())
    try:
        return pa.array([int(each) for each in ids], pa.int64())
    except (ValueError, OverflowError):
        raise InvalidArgument(
            f"ids of {index.where} are whole numbers; one of {', '.join(ids[:3])} is none"
        ) from None


def _documents(rows: Any, columns: DocumentColumns) -> list[tuple[Document, float]]:
    found = []
    for row in rows.to_pylist():
        metadata, text = columns.metadata_of(row), row[columns.text] or ""
        document = Document(id=str(row["id"]), page_content=text, metadata=metadata)
        found.append((document, row.get("distance", 0.0)))
    return found
