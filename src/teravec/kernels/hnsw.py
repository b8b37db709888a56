"""HNSW over the centroids: the coarse quantizer for many lists.

References
----------
Malkov, Yashunin, Efficient and robust approximate nearest neighbor search using
Hierarchical Navigable Small World graphs, 2018.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from teravec.kernels.faiss_kernels import plain_faiss
from teravec.kernels.faiss_threads import faiss_threads

__all__ = ["build_hnsw", "load_hnsw", "save_hnsw", "search_hnsw"]

_NEIGHBORS = 32  # the original pipeline's HNSW32
_EF_CONSTRUCTION = 80


def build_hnsw(centroids: npt.NDArray[np.float32]) -> Any:
    """Build the graph over centroids of shape (nlist, d), by squared L2.

    It is built on one thread and by plain kernels. Otherwise the graph would depend on the threads'
    timing and on the processor, but a resumed build must give the same bytes as an undisturbed one.
    """
    index = faiss.IndexHNSWFlat(centroids.shape[1], _NEIGHBORS)
    index.hnsw.efConstruction = _EF_CONSTRUCTION
    with faiss_threads(1), plain_faiss():
        index.add(centroids)
    return index


def save_hnsw(index: Any) -> bytes:
    """Return the graph without its vectors, in Faiss's format."""
    writer = faiss.VectorIOWriter()
    faiss.write_index(index, writer, faiss.IO_FLAG_SKIP_STORAGE)
    return bytes(faiss.vector_to_array(writer.data))


def load_hnsw(data: bytes, quantizer: Any) -> Any:
    """Load a graph of ``save_hnsw`` over a flat index's vectors, and keep that index alive."""
    reader = faiss.VectorIOReader()
    faiss.copy_array_to_vector(np.frombuffer(data, np.uint8), reader.data)
    index = faiss.read_index(reader, faiss.IO_FLAG_SKIP_STORAGE)
    index.storage, index.own_fields = quantizer, False
    index.referenced_objects = [quantizer]
    return index


def search_hnsw(
    index: Any, queries: npt.NDArray[np.float32], nprobe: int, threads: int
) -> npt.NDArray[np.int64]:
    """Find roughly the nprobe nearest centroids of each query, best first; int64 (nq, nprobe).

    -1 fills the row if the graph reached fewer.
    """
    # The beam must be wider than the result, so it is twice nprobe.
    parameters = faiss.SearchParametersHNSW(efSearch=max(64, 2 * nprobe))
    with faiss_threads(threads):
        _, list_nos = index.search(queries, nprobe, params=parameters)
    return np.asarray(list_nos, np.int64)
