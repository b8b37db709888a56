"""Writing an index that plain ``faiss.read_index`` opens, without holding its lists.

Faiss writes the inverted lists last: sizes, then codes and ids of each list. The index is
therefore serialized with empty lists, and the real lists are streamed in their place.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, BinaryIO

import faiss
import numpy as np
import numpy.typing as npt

from teravec.errors import TeravecError
from teravec.kernels.metric import Metric
from teravec.model.transform import Transform

__all__ = ["ExportedIndex", "write_faiss_index"]

Int64 = npt.NDArray[np.int64]


class ExportedIndex:
    """A Faiss index without lists, with the transforms that come before the codes.

    Parameters
    ----------
    ivf : faiss.IndexIVF
        Trained, empty.
    metric : Metric
        Cosine adds a normalization in front.
    d : int
        Dimensions of the user's vectors.
    transform : Transform
    """

    def __init__(self, ivf: Any, metric: Metric, d: int, transform: Transform) -> None:
        self.ivf = ivf
        self._chain: list[Any] = []
        if metric is Metric.COSINE or transform.unit_before:
            self._chain.append(faiss.NormalizationTransform(d, 2.0))
        if (matrix := transform.matrix) is not None:
            linear = faiss.LinearTransform(d, len(matrix), True)
            faiss.copy_array_to_vector(np.ascontiguousarray(matrix.ravel()), linear.A)
            faiss.copy_array_to_vector(np.ascontiguousarray(transform.whole_offset), linear.b)
            linear.is_trained = True
            self._chain.append(linear)
        if transform.unit_after:
            self._chain.append(faiss.NormalizationTransform(ivf.d, 2.0))

    def serialize(self, ntotal: int) -> bytes:
        """Return the bytes of the index up to its inverted lists.

        Raises
        ------
        TeravecError
            This release of Faiss has another file layout.
        """
        ivf = self.ivf
        lists = faiss.ArrayInvertedLists(ivf.nlist, ivf.code_size)
        ivf.replace_invlists(lists, False)
        ivf.ntotal = ntotal
        index = ivf
        if self._chain:
            index = faiss.IndexPreTransform(ivf)
            for transform in reversed(self._chain):
                index.prepend_transform(transform)
            index.ntotal = ntotal
        writer = faiss.VectorIOWriter()
        faiss.write_index(index, writer)
        data = bytes(faiss.vector_to_array(writer.data))
        empty = struct.pack("<4sQQ4sQ", b"ilar", ivf.nlist, ivf.code_size, b"sprs", 0)
        if not data.endswith(empty):
            raise TeravecError(f"faiss {faiss.__version__} writes inverted lists in another way")
        return data[: -len(empty)]


def write_faiss_index(
    file: BinaryIO, index: ExportedIndex, sizes: Int64, lists: Iterable[tuple[bytes, bytes]]
) -> None:
    """Write the index and its lists.

    Parameters
    ----------
    file : binary file
    sizes : ndarray of shape (nlist,), int64
    lists : iterable of (codes, ids)
        Bytes of every list, in order; consumed one list at a time.
    """
    file.write(index.serialize(int(sizes.sum())))
    ivf = index.ivf
    file.write(struct.pack("<4sQQ4sQ", b"ilar", ivf.nlist, ivf.code_size, b"full", len(sizes)))
    file.write(sizes.astype("<u8").tobytes())
    for codes, ids in lists:
        file.write(codes)
        file.write(ids)
