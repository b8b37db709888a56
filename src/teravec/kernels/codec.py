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

``fp16-residual`` encodes the residual; ``sq8-vector``, ``pqM-vector`` and so on the vector itself.
Faiss's indexes have these kinds too (``by_residual``), and imported codes stay as they are.

``rabitq1+FINE`` and ``rabitq2+FINE`` have two stages. A search scans sketches of 1 or 2 bits a
dimension (``teravec.kernels.sketch``), and reads the FINE code, of any other codec above, only for
the candidates that remain.

References
----------
Jegou, Douze, Schmid, Product Quantization for Nearest Neighbor Search, 2011 (pq).
Gao, Long, RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound, 2024.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from teravec.arguments import similar, text
from teravec.errors import InvalidArgument, InvalidSource, shown
from teravec.kernels.faiss_kernels import plain_faiss
from teravec.kernels.faiss_threads import faiss_threads
from teravec.kernels.metric import Metric
from teravec.kernels.product_codes import ProductCodes, train_product
from teravec.kernels.sketch import sketch_size

__all__ = [
    "Codec",
    "code_bytes",
    "decode",
    "empty_ivf",
    "encode",
    "flat_quantizer",
    "quantizer_vectors",
    "residuals_of",
    "train_codec",
]

Float32 = npt.NDArray[np.float32]

_SCALAR = {
    "sq8": faiss.ScalarQuantizer.QT_8bit,
    "sq6": faiss.ScalarQuantizer.QT_6bit,
    "sq4": faiss.ScalarQuantizer.QT_4bit,
    "fp16": faiss.ScalarQuantizer.QT_fp16,
}
_LARGEST_HALF = float(np.finfo(np.float16).max)
_RESIDUAL, _VECTOR = "-residual", "-vector"
_SPREAD = 39  # training vectors per centroid of a product quantizer; Faiss's own minimum


@dataclass(frozen=True)
class Codec:
    """A parsed codec name.

    Parameters
    ----------
    name : str
        Canonical, as in ``pq32x8`` or ``rabitq1+sq6``.
    kind : {"flat", "scalar", "pq", "rabitq"}
        With two stages, ``kind``, ``m`` and ``bits`` are those of the fine code.
    m : int
        Sub-quantizers (pq), else 0.
    bits : int
        Bits a sub-quantizer (pq) or a dimension (rabitq), else 0.
    sketch_bits : int
        Bits a dimension of the sketch in front of the fine code; 0: one stage.
    residual : bool
        Whether the code is of the vector's residual to its list's centroid, not of the vector.
    """

    name: str
    kind: str
    m: int = 0
    bits: int = 0
    sketch_bits: int = 0
    residual: bool = False

    @classmethod
    def parse(cls, name: str) -> Codec:
        """Parse a codec's name; raises InvalidArgument."""
        given, name = name, text(name, "codec").lower()
        first, plus, fine_name = name.partition("+")
        if plus and fine_name and (match := re.fullmatch(r"rabitq([12])", first)):
            fine = cls.parse(fine_name)
            if fine.kind != "rabitq" and not fine.sketch_bits and not fine.is_variant:
                return replace(fine, name=f"{first}+{fine.name}", sketch_bits=int(match[1]))
        if name == "flat":
            return cls(name, "flat")
        if name in _SCALAR:
            return cls(name, "scalar", residual=name != "fp16")
        if match := re.fullmatch(r"pq(\d{1,9})(?:x(\d{1,2}))?", name, re.ASCII):
            m, bits = int(match[1]), int(match[2] or 8)
            if m >= 1 and 4 <= bits <= 12:
                return cls(f"pq{m}x{bits}", "pq", m, bits, residual=True)
        if match := re.fullmatch(r"rabitq(\d?)", name, re.ASCII):
            bits = int(match[1] or 1)
            if 1 <= bits <= 8:
                return cls(f"rabitq{bits}", "rabitq", bits=bits, residual=True)
        if match := re.fullmatch(rf"(fp16|sq\d|pq[\dx]+)({_RESIDUAL}|{_VECTOR})", name):
            usual, residual = cls.parse(match[1]), match[2] == _RESIDUAL
            if usual.residual != residual:
                return replace(usual, name=usual.name + match[2], residual=residual)
            return usual
        raise InvalidArgument(
            f"unknown codec {shown(given)}; one of flat, fp16, sq8, sq6, sq4, pqM or pqMxB (M "
            "sub-quantizers of B = 4 to 12 bits), rabitq1 to rabitq8, or rabitq1+ or rabitq2+ "
            f"and one of the others expected{_codec_hint(name)}"
        )

    @classmethod
    def of(cls, name: str, *, residual: bool) -> Codec:
        """Return the codec of a usual name that encodes residuals, or vectors.

        ``flat`` always encodes vectors and ``rabitq`` residuals.
        """
        usual = cls.parse(name)
        if usual.residual == residual or usual.kind not in ("scalar", "pq"):
            return usual
        return cls.parse(name + (_RESIDUAL if residual else _VECTOR))

    @property
    def is_variant(self) -> bool:
        """Whether it encodes residuals where the usual codec encodes vectors, or vice versa."""
        return self.name.endswith((_RESIDUAL, _VECTOR))

    @property
    def usual_name(self) -> str:
        """The name of the fine code, without what a variant appends."""
        return self.fine_name.removesuffix(_RESIDUAL).removesuffix(_VECTOR)

    def check_dimension(self, d: int) -> None:
        """Raise InvalidArgument if the codec cannot encode d dimensions."""
        if self.kind != "pq" or d % self.m == 0:
            return
        bits = "" if self.bits == 8 else f"x{self.bits}"
        fitting = [f"{_two_stages(self.name)}pq{m}{bits}" for m in _near_divisors(d, self.m)]
        names = " or ".join([", ".join(fitting[:-1]), fitting[-1]] if fitting[1:] else fitting)
        verb = "fit" if fitting[1:] else "fits"
        raise InvalidArgument(
            f"codec {self.name} needs a dimension divisible by {self.m}; found {d}: {names} "
            f"{verb} {d}"
        )

    @property
    def training_parts(self) -> int:
        """Number of parts that ``train_codec`` trains in turn; 0 if nothing is trained."""
        if self.kind == "scalar":
            return int(self.usual_name != "fp16")
        return self.m

    @property
    def min_training_vectors(self) -> int:
        """Vectors needed to train the codec's own parameters."""
        return _SPREAD << self.bits if self.kind == "pq" else 1

    @property
    def wants_rotation(self) -> bool:
        """Whether the codec's error bound assumes randomly rotated vectors."""
        return self.kind == "rabitq" or self.sketch_bits > 0

    @property
    def fine_name(self) -> str:
        """The name of the fine code, or of the only code."""
        return self.name.rpartition("+")[2]

    @property
    def largest(self) -> float:
        """The largest value of a vector whose code can hold it."""
        if self.usual_name != "fp16":
            return math.inf
        return _LARGEST_HALF / 2 if self.residual else _LARGEST_HALF  # less a centroid's value

    def check_values(self, vectors: Float32, place_of: Callable[[int], str]) -> None:
        """Refuse prepared vectors (n, d) that codes cannot hold; ``place_of`` names a row."""
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
        """Bytes of a sketch of d dimensions; 0 if there is one stage."""
        return sketch_size(d, self.sketch_bits) if self.sketch_bits else 0


_OTHER_NAMES = {
    "float32": "flat",
    "f32": "flat",
    "none": "flat",
    "raw": "flat",
    "float16": "fp16",
    "f16": "fp16",
    "half": "fp16",
    "sqfp16": "fp16",
    "int8": "sq8",
    "uint8": "sq8",
    "sq": "sq8",
    "scalar": "sq8",
    "8bit": "sq8",
    "int4": "sq4",
    "4bit": "sq4",
    "rq": "rabitq1",
    "binary": "rabitq1",
    "bq": "rabitq1",
    "rbq": "rabitq1",
}


def _codec_hint(name: str) -> str:
    """Suggest what an unknown codec name is likely to mean."""
    if "," in name or name.startswith("ivf"):
        codec = name.rpartition(",")[2]
        lists = re.match(r"ivf(\d+)", name)
        shown_codec = f"codec {codec}" if not codec.startswith("ivf") else "a codec alone"
        nlist = f"and nlist {lists[1]} for" if lists else "for"
        return f": give {shown_codec}, {nlist} a factory text's lists"
    if name in _OTHER_NAMES:
        return f": {name!r} is {_OTHER_NAMES[name]!r} here"
    if re.fullmatch(r"o?pq(x\d+)?", name):
        return ": say the sub-quantizers, as pq16 for 16 bytes a vector"
    if match := re.fullmatch(r"opq(\d+)\w*", name):
        return f": give codec pq{match[1]} and transform rotation"
    if match := re.match(r"pq(\d+)", name):
        return f": from 1 sub-quantizer, of 4 to 12 bits, as pq{max(1, int(match[1][:9]))}x8"
    if re.match(r"rabitq.*\+", name):
        return ": a finer code stands behind the +, as in rabitq1+sq8 or rabitq2+sq6"
    if close := similar(name, ("flat", *_SCALAR, *(f"rabitq{bits}" for bits in range(1, 9)))):
        return f": did you mean {close!r}?"
    return ""


def _two_stages(name: str) -> str:
    """Return the name's sketch part with its plus, if it has one."""
    return "".join(name.rpartition("+")[:2])


def _near_divisors(d: int, m: int) -> list[int]:
    """Return divisors of d near m, two below and one above; powers of two are preferred."""
    divisors = [n for n in range(1, d + 1) if d % n == 0]
    even = [n for n in divisors if n & (n - 1) == 0]
    chosen = even if even[-1] > m and len(even) > 2 else divisors
    above = next((at for at, n in enumerate(chosen) if n > m), len(chosen))
    return chosen[max(0, above - 2) : above + 1]


def flat_quantizer(centroids: Float32, metric: Metric) -> Any:
    """Make a Faiss flat index of the centroids (nlist, d): the exact coarse quantizer."""
    kind = faiss.METRIC_INNER_PRODUCT if metric.larger_is_closer else faiss.METRIC_L2
    quantizer = faiss.IndexFlat(centroids.shape[1], kind)
    quantizer.add(centroids)
    return quantizer


def quantizer_vectors(quantizer: Any) -> Float32:
    """Return a view of a flat quantizer's vectors, (nlist, d), valid while the quantizer lives."""
    flat = faiss.rev_swig_ptr(quantizer.get_xb(), quantizer.ntotal * quantizer.d)
    vectors: Float32 = flat.reshape(quantizer.ntotal, quantizer.d)
    return vectors


def empty_ivf(
    codec: Codec, quantizer: Any, metric: Metric, parameters: Float32 | None = None
) -> Any:
    """Make an IVF index of the fine codes, without lists, trained if ``parameters`` are given.

    Parameters
    ----------
    codec : Codec
    quantizer : faiss.Index
        The coarse quantizer; the caller keeps it alive as long as the result.
    metric : Metric
    parameters : ndarray of float32, optional
        From ``train_codec``.
    """
    d, nlist = quantizer.d, quantizer.ntotal
    kind = faiss.METRIC_INNER_PRODUCT if metric.larger_is_closer else faiss.METRIC_L2
    ivf: Any
    if codec.kind == "flat":
        ivf = faiss.IndexIVFFlat(quantizer, d, nlist, kind, False)
    elif codec.kind == "scalar":
        ivf = faiss.IndexIVFScalarQuantizer(
            quantizer, d, nlist, _SCALAR[codec.usual_name], kind, codec.residual, False
        )
    elif codec.kind == "pq":
        ivf = faiss.IndexIVFPQ(quantizer, d, nlist, codec.m, codec.bits, kind, False)
        ivf.by_residual = codec.residual
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
    advance: Callable[[int], None] = lambda _: None,
) -> Float32:
    """Train a codec's parameters on vectors and the lists they fall in.

    Parameters
    ----------
    vectors : ndarray of shape (n, d), float32
    list_nos : ndarray of shape (n,), int32
    advance : callable
        Called with 1 after each of the ``training_parts``.

    Returns
    -------
    ndarray of float32
        Scalar quantizer: minimum and range of each dimension, (2 d,). Product quantizer:
        its centroids, (M * 2^bits * d / M,). Empty for codecs without parameters.
    """
    ivf = empty_ivf(codec, quantizer, metric)
    with faiss_threads(threads):
        if not codec.training_parts:
            return np.empty(0, np.float32)
        encoded = residuals_of(quantizer, vectors, list_nos) if codec.residual else vectors
        if codec.kind == "pq":
            return train_product(encoded, codec.m, codec.bits, threads, advance)
        ivf.sq.train(encoded)
        advance(1)
        return np.asarray(faiss.vector_to_array(ivf.sq.trained), np.float32)


def residuals_of(quantizer: Any, vectors: Float32, list_nos: npt.NDArray[np.int32]) -> Float32:
    """Return vectors (n, d) less the centroids of their lists (n,)."""
    residuals = np.empty_like(vectors)
    keys = list_nos.astype(np.int64)
    quantizer.compute_residual_n(
        len(vectors), faiss.swig_ptr(vectors), faiss.swig_ptr(residuals), faiss.swig_ptr(keys)
    )
    return residuals


def encode(
    ivf: Any, vectors: Float32, list_nos: npt.NDArray[np.int32], threads: int
) -> npt.NDArray[np.uint8]:
    """Encode vectors (n, d) in their lists (n,) as uint8 of shape (n, code_size)."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    if isinstance(ivf, faiss.IndexIVFPQ):
        if ivf.by_residual:
            vectors = residuals_of(ivf.quantizer, vectors, list_nos)
        return _product_codes(ivf.pq).encode(vectors, threads)
    codes = np.zeros((len(vectors), ivf.code_size), np.uint8)
    keys = list_nos.astype(np.int64)
    # The codes of RaBitQ depend on sums of floats, whose order depends on the kernels.
    plain = plain_faiss() if isinstance(ivf, faiss.IndexIVFRaBitQ) else nullcontext()
    with faiss_threads(threads), plain:
        ivf.encode_vectors(
            len(vectors), faiss.swig_ptr(vectors), faiss.swig_ptr(keys), faiss.swig_ptr(codes)
        )
    return codes


def _product_codes(pq: Any) -> ProductCodes:
    centroids = np.asarray(faiss.vector_to_array(pq.centroids), np.float32)
    return ProductCodes(centroids.reshape(pq.M, pq.ksub, pq.dsub), pq.nbits)


def decode(ivf: Any, codes: npt.NDArray[np.uint8], list_nos: npt.NDArray[np.int64]) -> Float32:
    """Decode codes (n, code_size) in their lists (n,) to vectors (n, d)."""
    vectors = np.empty((len(codes), ivf.d), np.float32)
    codes, list_nos = np.ascontiguousarray(codes), np.ascontiguousarray(list_nos, np.int64)
    with faiss_threads(1):
        ivf.decode_vectors(
            len(codes), faiss.swig_ptr(codes), faiss.swig_ptr(list_nos), faiss.swig_ptr(vectors)
        )
    return vectors


def code_bytes(codec: Codec, d: int) -> int:
    """Return the bytes of a code of d dimensions (sketch and fine code), without an index."""
    return codec.sketch_size(d) + _fine_bytes(codec, d)


def _fine_bytes(codec: Codec, d: int) -> int:
    """Faiss's own ``code_size``."""
    if codec.kind == "flat":
        return 4 * d
    if codec.kind == "scalar":
        bits = {"fp16": 16, "sq8": 8, "sq6": 6, "sq4": 4}[codec.usual_name]
        return (bits * d + 7) // 8
    if codec.kind == "pq":
        return (codec.m * codec.bits + 7) // 8
    sign = (d + 7) // 8
    return sign + 8 if codec.bits == 1 else sign + ((codec.bits - 1) * d + 7) // 8 + 20
