"""Codecs: how a vector becomes ``code_size`` bytes, as Faiss's IVF indexes store it.

========= ============================================ ==========================
name      code                                          bytes for d dimensions
========= ============================================ ==========================
flat      float32                                       4 d
fp16      float16                                       2 d
sq8 6 4   scalar quantizer of the residual              d, 6 d / 8, d / 2
pqM       product quantizer of the residual, 8 bits     M
pqMxB     the same with B bits a sub-quantizer          M B / 8
rabitqB   B bits a dimension and correction factors     about B d / 8 + 8 or more
========= ============================================ ==========================

``rabitq1+FINE`` and ``rabitq2+FINE`` have two stages: a sketch of 1 or 2 bits a dimension
(``teravec.kernels.sketch``) that a search scans, and a code of any other codec above, which it
reads for the candidates that the sketch leaves.

References
----------
Jegou, Douze, Schmid, Product Quantization for Nearest Neighbor Search, 2011 (pq).
Gao, Long, RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound, 2024.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument, InvalidSource
from teravec.kernels.faiss_threads import faiss_threads
from teravec.kernels.metric import Metric
from teravec.kernels.sketch import sketch_size

__all__ = [
    "Codec", "code_bytes", "decode", "empty_ivf", "encode", "flat_quantizer", "quantizer_vectors",
    "residuals_of", "train_codec",
]  # fmt: skip

Float32 = npt.NDArray[np.float32]

_SCALAR = {
    "sq8": faiss.ScalarQuantizer.QT_8bit,
    "sq6": faiss.ScalarQuantizer.QT_6bit,
    "sq4": faiss.ScalarQuantizer.QT_4bit,
    "fp16": faiss.ScalarQuantizer.QT_fp16,
}
_LARGEST_HALF = float(np.finfo(np.float16).max)
_SPREAD = 39  # training vectors a centroid of a product quantizer, Faiss's own minimum


@dataclass(frozen=True)
class Codec:
    """A codec's name taken apart.

    Parameters
    ----------
    name : str
        Canonical, as in ``pq32x8`` or ``rabitq1+sq6``.
    kind : {"flat", "scalar", "pq", "rabitq"}
        Of the fine code, where there are two stages; likewise m and bits.
    m : int
        Sub-quantizers (pq), else 0.
    bits : int
        Bits a sub-quantizer (pq) or a dimension (rabitq), else 0.
    sketch_bits : int
        Bits a dimension of the sketch in front of the fine code; 0: one stage.
    """

    name: str
    kind: str
    m: int = 0
    bits: int = 0
    sketch_bits: int = 0

    @classmethod
    def parse(cls, name: str) -> Codec:
        """The codec of this name, or InvalidArgument."""
        name = str(name).lower()
        first, plus, fine_name = name.partition("+")
        if plus and (match := re.fullmatch(r"rabitq([12])", first)):
            fine = cls.parse(fine_name)
            if fine.kind != "rabitq" and not fine.sketch_bits:
                return replace(fine, name=f"{first}+{fine.name}", sketch_bits=int(match[1]))
        if name == "flat":
            return cls(name, "flat")
        if name in _SCALAR:
            return cls(name, "scalar")
        if match := re.fullmatch(r"pq(\d+)(?:x(\d+))?", name):
            m, bits = int(match[1]), int(match[2] or 8)
            if m >= 1 and 4 <= bits <= 12:
                return cls(f"pq{m}x{bits}", "pq", m, bits)
        if match := re.fullmatch(r"rabitq(\d?)", name):
            bits = int(match[1] or 1)
            if 1 <= bits <= 8:
                return cls(f"rabitq{bits}", "rabitq", bits=bits)
        raise InvalidArgument(
            f"unknown codec {name!r}; one of flat, fp16, sq8, sq6, sq4, pqM or pqMxB "
            "(M sub-quantizers of B = 4 to 12 bits), rabitq1 to rabitq8, or rabitq1+ or rabitq2+ "
            "and one of the others expected"
        )

    def check_dimension(self, d: int) -> None:
        """Raise InvalidArgument where the codec cannot encode d dimensions."""
        if self.kind == "pq" and d % self.m:
            raise InvalidArgument(
                f"codec {self.name} needs a dimension divisible by {self.m}; found {d}"
            )

    @property
    def min_training_vectors(self) -> int:
        """Vectors needed to train the codec's own parameters."""
        return _SPREAD << self.bits if self.kind == "pq" else 1

    @property
    def wants_rotation(self) -> bool:
        """Whether the codec's error bound supposes randomly rotated vectors."""
        return self.kind == "rabitq" or self.sketch_bits > 0

    @property
    def fine_name(self) -> str:
        """The name of the fine code, or of the only one."""
        return self.name.rpartition("+")[2]

    @property
    def largest(self) -> float:
        """The largest value that a code can hold."""
        return _LARGEST_HALF if self.fine_name == "fp16" else math.inf

    def check_values(self, vectors: Float32, place_of: Callable[[int], str]) -> None:
        """Refuse prepared vectors (n, d) that codes cannot hold; ``place_of`` names one."""
        if math.isinf(self.largest) or not vectors.size:
            return
        if max(float(vectors.max()), -float(vectors.min())) > self.largest:
            row, dimension = np.argwhere(np.abs(vectors) > self.largest)[0].tolist()
            raise InvalidSource(
                f"{place_of(row)} has {vectors[row, dimension]:.6g} in dimension {dimension} where "
                f"it is encoded, at most {self.largest:,.0f} expected, as codec {self.name} holds; "
                "scale all vectors and queries, or choose another codec (sq8, flat)"
            )

    def sketch_size(self, d: int) -> int:
        """Bytes of the sketch of d dimensions; 0 where there is one stage."""
        return sketch_size(d, self.sketch_bits) if self.sketch_bits else 0


def flat_quantizer(centroids: Float32, metric: Metric) -> Any:
    """A Faiss flat index holding the centroids (nlist, d): the exact coarse quantizer."""
    kind = faiss.METRIC_INNER_PRODUCT if metric.larger_is_closer else faiss.METRIC_L2
    quantizer = faiss.IndexFlat(centroids.shape[1], kind)
    quantizer.add(centroids)
    return quantizer


def quantizer_vectors(quantizer: Any) -> Float32:
    """The vectors of a flat quantizer, (nlist, d): a view, valid while the quantizer lives."""
    flat = faiss.rev_swig_ptr(quantizer.get_xb(), quantizer.ntotal * quantizer.d)
    vectors: Float32 = flat.reshape(quantizer.ntotal, quantizer.d)
    return vectors


def empty_ivf(
    codec: Codec, quantizer: Any, metric: Metric, parameters: Float32 | None = None
) -> Any:
    """An IVF index of the fine codes, without lists, trained if ``parameters`` are given.

    Parameters
    ----------
    codec : Codec
    quantizer : faiss.Index
        The coarse quantizer; the caller keeps it alive as long as the result.
    metric : Metric
    parameters : ndarray of float32, optional
        What ``train_codec`` returned.
    """
    d, nlist = quantizer.d, quantizer.ntotal
    kind = faiss.METRIC_INNER_PRODUCT if metric.larger_is_closer else faiss.METRIC_L2
    ivf: Any
    if codec.kind == "flat":
        ivf = faiss.IndexIVFFlat(quantizer, d, nlist, kind, False)
    elif codec.kind == "scalar":
        ivf = faiss.IndexIVFScalarQuantizer(
            quantizer, d, nlist, _SCALAR[codec.fine_name], kind, codec.fine_name != "fp16", False
        )
    elif codec.kind == "pq":
        ivf = faiss.IndexIVFPQ(quantizer, d, nlist, codec.m, codec.bits, kind, False)
        ivf.use_precomputed_table = -1  # it would take nlist * M * 2^bits floats of memory
    else:
        ivf = faiss.IndexIVFRaBitQ(quantizer, d, nlist, kind, False, codec.bits)
        ivf.qb = 0  # queries in full precision
    ivf.referenced_objects = [quantizer]
    if parameters is not None:
        _set_parameters(codec, ivf, parameters)
        ivf.is_trained = True
    return ivf


def _set_parameters(codec: Codec, ivf: Any, parameters: Float32) -> None:
    flat = np.ascontiguousarray(parameters.ravel(), np.float32)
    if codec.kind == "scalar":
        faiss.copy_array_to_vector(flat, ivf.sq.trained)
    elif codec.kind == "pq":
        faiss.copy_array_to_vector(flat, ivf.pq.centroids)


def train_codec(
    codec: Codec,
    quantizer: Any,
    metric: Metric,
    vectors: Float32,
    list_nos: npt.NDArray[np.int32],
    threads: int,
) -> Float32:
    """Train a codec's parameters on vectors and the lists they fall in.

    Parameters
    ----------
    vectors : ndarray of shape (n, d), float32
    list_nos : ndarray of shape (n,), int32

    Returns
    -------
    ndarray of float32
        Scalar quantizer: minimum and range of each dimension, (2 d,). Product quantizer:
        its centroids, (M * 2^bits * d / M,). Empty for codecs without parameters.
    """
    ivf = empty_ivf(codec, quantizer, metric)
    with faiss_threads(threads):
        if codec.kind == "scalar" and codec.fine_name != "fp16":
            residuals = residuals_of(quantizer, vectors, list_nos)
            ivf.sq.train(residuals)
            return np.asarray(faiss.vector_to_array(ivf.sq.trained), np.float32)
        if codec.kind == "pq":
            residuals = residuals_of(quantizer, vectors, list_nos)
            ivf.pq.cp.min_points_per_centroid = 1  # a small sample is the user's, who asked for it
            ivf.pq.train(residuals)
            return np.asarray(faiss.vector_to_array(ivf.pq.centroids), np.float32)
    return np.empty(0, np.float32)


def residuals_of(quantizer: Any, vectors: Float32, list_nos: npt.NDArray[np.int32]) -> Float32:
    """Vectors (n, d) less the centroids of their lists (n,)."""
    residuals = np.empty_like(vectors)
    keys = list_nos.astype(np.int64)
    quantizer.compute_residual_n(
        len(vectors), faiss.swig_ptr(vectors), faiss.swig_ptr(residuals), faiss.swig_ptr(keys)
    )
    return residuals


def encode(
    ivf: Any, vectors: Float32, list_nos: npt.NDArray[np.int32], threads: int
) -> npt.NDArray[np.uint8]:
    """Codes of vectors (n, d) in their lists (n,), uint8 of shape (n, code_size)."""
    codes = np.zeros((len(vectors), ivf.code_size), np.uint8)
    keys = list_nos.astype(np.int64)
    vectors = np.ascontiguousarray(vectors, np.float32)
    with faiss_threads(threads):
        ivf.encode_vectors(
            len(vectors), faiss.swig_ptr(vectors), faiss.swig_ptr(keys), faiss.swig_ptr(codes)
        )
    return codes


def decode(ivf: Any, codes: npt.NDArray[np.uint8], list_nos: npt.NDArray[np.int64]) -> Float32:
    """Vectors (n, d) of codes (n, code_size) in their lists (n,): the inverse of ``encode``."""
    vectors = np.empty((len(codes), ivf.d), np.float32)
    codes, list_nos = np.ascontiguousarray(codes), np.ascontiguousarray(list_nos, np.int64)
    with faiss_threads(1):
        ivf.decode_vectors(
            len(codes), faiss.swig_ptr(codes), faiss.swig_ptr(list_nos), faiss.swig_ptr(vectors)
        )
    return vectors


def code_bytes(codec: Codec, d: int) -> int:
    """Bytes of a code of d dimensions, sketch and fine code, without an index."""
    return codec.sketch_size(d) + _fine_bytes(codec, d)


def _fine_bytes(codec: Codec, d: int) -> int:
    """Faiss's own ``code_size``."""
    if codec.kind == "flat":
        return 4 * d
    if codec.kind == "scalar":
        bits = {"fp16": 16, "sq8": 8, "sq6": 6, "sq4": 4}[codec.fine_name]
        return (bits * d + 7) // 8
    if codec.kind == "pq":
        return (codec.m * codec.bits + 7) // 8
    sign = (d + 7) // 8
    return sign + 8 if codec.bits == 1 else sign + ((codec.bits - 1) * d + 7) // 8 + 20
