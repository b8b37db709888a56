"""The model: an empty trained index in memory."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.engines.options import CPU
from teravec.errors import CorruptFile, InvalidArgument
from teravec.kernels.assignment import CentroidAssigner
from teravec.kernels.clipping import ScalarRange
from teravec.kernels.codec import (
    Codec,
    decode,
    empty_ivf,
    encode,
    flat_quantizer,
    quantizer_vectors,
    residuals_of,
)
from teravec.kernels.compiled_scanner import CompiledScanner
from teravec.kernels.faiss_scanner import FaissScanner
from teravec.kernels.fine_codes import FineCodes
from teravec.kernels.hnsw import load_hnsw, search_hnsw
from teravec.kernels.metric import Metric, normalized
from teravec.kernels.nearest import ExactQuantizer
from teravec.kernels.sketch import encode_sketches
from teravec.model.description import ModelDescription
from teravec.model.transform import Transform
from teravec.storage.arrays import read_array, read_file
from teravec.storage.local_store import AnyPath

__all__ = ["Model", "read_used"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


class Model:
    """A trained model in memory: transform, centroids, coarse quantizer, codec.

    Attributes
    ----------
    description : ModelDescription
    metric : Metric
    codec : Codec
    centroids : ndarray of shape (nlist, d_index), float32
        A view of the one copy that the Faiss quantizer holds.
    used : ndarray of int64, optional
        The lists that vectors can be in, ascending; None if all are. A rebalance leaves the numbers
        of joined lists unused: neither a query nor a vector gets such a list.
    """

    def __init__(
        self,
        description: ModelDescription,
        transform: Transform,
        centroids: Float32,
        parameters: Float32,
        graph: bytes | None,
        used: Int64 | None = None,
    ) -> None:
        self.description = description
        self.metric, self.codec = Metric(description.metric), Codec.parse(description.codec)
        self.transform, self._parameters = transform, parameters
        self._quantizer = flat_quantizer(centroids, self.metric)
        self.centroids, self.used = quantizer_vectors(self._quantizer), used
        probed = self._quantizer
        if used is not None:
            probed = flat_quantizer(self.centroids[used], self.metric)
        self._probed = quantizer_vectors(probed)
        self._probed_quantizer = probed
        self._graph = None if graph is None else load_hnsw(graph, probed)

    @classmethod
    def read(cls, directory: AnyPath, description: ModelDescription | None = None) -> Model:
        """Read and verify the model in ``directory``, whose description may have been read.

        Raises
        ------
        MissingFile, CorruptFile
        """
        description = description or ModelDescription.read(directory)
        files, d, d_index = description.files, description.d, description.d_index
        centroids = read_array(
            directory / "centroids.npy", files["centroids.npy"], (description.nlist, d_index)
        )
        parameters = read_array(directory / "codec.npy", files["codec.npy"])
        packed = None
        if "transform.npy" in files:
            path = directory / "transform.npy"
            packed = read_array(path, files["transform.npy"])
            if packed.shape not in ((d_index, d + 1), (d_index + 1, d + 1)):
                raise CorruptFile(f"{path}: shape {packed.shape} found, {d_index, d + 1} expected")
        graph = None
        if "quantizer.hnsw" in files:
            path = directory / "quantizer.hnsw"
            graph = read_file(path, files["quantizer.hnsw"])
        used = read_used(directory, description) if "used.npy" in files else None
        transform = Transform.unpack(packed, d_index, description.transform)
        return cls(description, transform, centroids, parameters, graph, used)

    @property
    def d(self) -> int:
        """Dimensions of the user's vectors."""
        return self.description.d

    @property
    def nlist(self) -> int:
        """Inverted lists."""
        return self.description.nlist

    @property
    def code_size(self) -> int:
        """Bytes of a vector's code, both stages together in a two-stage codec."""
        return self.description.code_size

    @property
    def sketch_size(self) -> int:
        """Bytes of a sketch; 0 in a one-stage codec."""
        return self.description.sketch_size

    @property
    def tag(self) -> int:
        """The checksum as a number, as in the header of list files."""
        return self.description.tag

    @property
    def memory_bytes(self) -> int:
        """Approximate memory of the model."""
        return self.description.memory_bytes

    @cached_property
    def _exact(self) -> ExactQuantizer:
        return ExactQuantizer(self._probed, self.metric)

    def make_ready(self) -> None:
        """Lay the centroids out for queries now instead of at the first query."""
        if self._graph is None:
            _ = self._exact

    def prepare(self, vectors: Float32, threads: int = 1) -> Float32:
        """Normalize and transform the user's vectors (n, d) to (n, d_index).

        Encoding and searching both start from prepared vectors.

        Raises
        ------
        InvalidArgument
            Wrong number of dimensions.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.d:
            raise InvalidArgument(f"vectors of shape {vectors.shape} found, (n, {self.d}) expected")
        vectors = np.ascontiguousarray(vectors, np.float32)
        if self.metric is Metric.COSINE:
            vectors = normalized(vectors)
        return self.transform.apply(vectors, threads)

    def nearest_lists(self, queries: Float32, nprobe: int, threads: int) -> tuple[Int64, Float32]:
        """Find the nprobe lists to visit for each prepared query.

        Returns
        -------
        list_nos : ndarray of shape (nq, nprobe), int64, best first; -1 for none
        distances : ndarray of the same shape, float32
            Squared distance to the centroid (l2), or inner product with it.
        """
        if self.used is None:
            return self._nearest_probed(queries, nprobe, threads)
        found, near = self._nearest_probed(queries, min(nprobe, len(self.used)), threads)
        list_nos = np.full((len(queries), nprobe), -1, np.int64)
        distances = np.full(list_nos.shape, self.metric.worst, np.float32)
        list_nos[:, : found.shape[1]] = np.where(found < 0, -1, self.used[found])
        distances[:, : found.shape[1]] = near
        return list_nos, distances

    def _nearest_probed(self, queries: Float32, nprobe: int, threads: int) -> tuple[Int64, Float32]:
        if self._graph is None:
            return self._exact.search(queries, nprobe, threads=threads)
        list_nos = search_hnsw(self._graph, queries, nprobe, threads)
        distances = np.empty(list_nos.shape, np.float32)
        for query, nearest, out in zip(queries, list_nos, distances, strict=True):
            rows = self._probed[nearest]
            if self.metric.larger_is_closer:
                out[:] = np.einsum("ij,j->i", rows, query)
            else:
                out[:] = ((rows - query) ** 2).sum(1)
        return list_nos, distances

    def rank_lists(self, queries: Float32, nprobe: int, threads: int) -> tuple[Int64, Float32]:
        """Do as ``nearest_lists``; with nprobe = nlist no list is left out."""
        list_nos, distances = self.nearest_lists(queries, nprobe, threads)
        if nprobe < self.nlist or self._graph is None:
            return list_nos, distances
        for row, (nearest, out) in enumerate(zip(list_nos, distances, strict=True)):
            left = np.setdiff1d(np.arange(self.nlist), nearest)
            at = np.flatnonzero(nearest < 0)[: len(left)]  # a graph search may not reach all
            nearest[at] = left
            out[at] = self.measure_lists(queries[row : row + 1], left)[0]
        return list_nos, distances

    def measure_lists(self, queries: Float32, list_nos: Int64) -> Float32:
        """Compute the distance of prepared queries to the centroids of lists (n,): (nq, n)."""
        rows = self.centroids[list_nos]
        distances = np.empty((len(queries), len(rows)), np.float32)
        for query, out in zip(queries, distances, strict=True):
            if self.metric.larger_is_closer:
                np.einsum("ij,j->i", rows, query, out=out)
            else:
                out[:] = ((rows - query) ** 2).sum(1)
        return distances

    def assigner(
        self, threads: int, device: str = CPU, sample: Float32 | None = None
    ) -> CentroidAssigner:
        """Make the assigner of vectors to lists that sharding uses, with the trained margin.

        A device other than the processor must agree with it on a sample of prepared vectors.
        """
        assigner = self._assigner(threads, device, sample)
        return assigner if self.used is None else assigner.numbered(self.used)

    def _assigner(self, threads: int, device: str, sample: Float32 | None) -> CentroidAssigner:
        if device != CPU:
            checked = self._probed[:0] if sample is None else sample
            return CentroidAssigner.on_device(self._probed, checked, device, threads=threads)
        margin = self.description.assignment["margin"]
        if margin is None:
            return CentroidAssigner.exact(self._probed)
        return CentroidAssigner.grouped(
            self._probed, seed=self.description.seed, threads=threads, margin=margin
        )

    def scanner(self) -> CompiledScanner | FaissScanner:
        """Make the scanner of lists in memory: compiled if it knows the codec, else Faiss's."""
        if CompiledScanner.scans(self.codec):
            return CompiledScanner(self.codec, self.metric, self.centroids, self._parameters)
        return self.faiss_scanner()

    def faiss_scanner(self) -> FaissScanner:
        """Make a scanner of lists in memory on Faiss's scanners, for any codec."""
        return FaissScanner(self.empty_ivf(), self.metric)

    def fine_codes(self) -> FineCodes:
        """Make the object that compares queries with the fine codes of single vectors."""
        return FineCodes(self.codec, self.metric, self.centroids, self._parameters, self.empty_ivf)

    def encode(
        self, vectors: Float32, list_nos: npt.NDArray[np.int32], threads: int
    ) -> npt.NDArray[np.uint8]:
        """Encode prepared vectors (n, d_index) of lists (n,); return codes (n, code_size).

        In a two-stage codec, a code is the sketch followed by the fine code.
        """
        fine = encode(self._encoder, vectors, list_nos, threads)
        if not self.codec.sketch_bits:
            return fine
        residuals = residuals_of(self._quantizer, vectors, list_nos)
        sketches = encode_sketches(residuals, self.codec.sketch_bits, threads)
        return np.concatenate([sketches, fine], axis=1)

    def decode(self, codes: npt.NDArray[np.uint8], list_nos: Int64) -> Float32:
        """Decode the finest codes among codes (n, code_size) of lists (n,) to vectors (n, d_index).

        They are prepared: a code of them in the same list is the same code, or nearly.
        """
        return decode(self._encoder, codes[:, self.sketch_size :], list_nos)

    def count_clipped(self, vectors: Float32, list_nos: npt.NDArray[np.int32], threads: int) -> int:
        """Count the prepared vectors outside the scalar quantizer's trained range."""
        if self._range is None:
            return 0
        return self._range.clipped(vectors, list_nos, self.centroids, threads)

    @cached_property
    def _range(self) -> ScalarRange | None:
        return ScalarRange.of(self.codec, self._parameters)

    @cached_property
    def _encoder(self) -> Any:
        return self.empty_ivf()

    def empty_ivf(self) -> Any:
        """Make a trained Faiss IVF index of the fine codes, without lists, on this quantizer."""
        return empty_ivf(self.codec, self._quantizer, self.metric, self._parameters)

    def ivf_of_used(self) -> Any:
        """Make the same index of the used lists alone, which are then numbered from 0."""
        return empty_ivf(self.codec, self._probed_quantizer, self.metric, self._parameters)


def read_used(directory: AnyPath, description: ModelDescription) -> Int64:
    """Read the lists that vectors can be in, ascending, of a model that names them.

    Raises
    ------
    MissingFile, CorruptFile
    """
    path = directory / "used.npy"
    used = read_array(path, description.files["used.npy"], dtype=np.int64)
    fits = used.ndim == 1 and 0 < len(used) < description.nlist
    if not fits or used[0] < 0 or used[-1] >= description.nlist or (np.diff(used) <= 0).any():
        raise CorruptFile(
            f"{path}: ascending, distinct numbers of some of {description.nlist:,} lists expected"
        )
    return used
