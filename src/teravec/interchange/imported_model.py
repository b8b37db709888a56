"""A sealed model made of what a trained Faiss index holds, without training."""

from __future__ import annotations

import math

import faiss
import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidSource
from teravec.interchange.faiss_set import FaissSet
from teravec.kernels.assignment import CentroidAssigner
from teravec.kernels.codec import code_bytes, decode, empty_ivf, flat_quantizer
from teravec.kernels.hnsw import load_hnsw
from teravec.model.description import ModelDescription
from teravec.storage.arrays import describe_file, write_array
from teravec.storage.layout import IndexPaths
from teravec.storage.listfile import ID_BYTES

__all__ = ["model_bytes", "seal_model"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_SEED = 1234
_PROBES, _PROBE_ROWS = 32, 128  # vectors decoded to check the assignment, in so many places


def model_bytes(index: FaissSet) -> int:
    """Return the memory of making the model: five copies of the centroids, and the graph."""
    layout = index.trained
    graph = layout.quantizer.graph
    size = 0 if graph is None else graph[1] - graph[0]
    return 5 * layout.quantizer.centroids.nbytes + 3 * size + layout.parameters.nbytes


def seal_model(
    index: FaissSet, sizes: Int64, paths: IndexPaths, threads: int, exact_most: int
) -> ModelDescription:
    """Write the model, unless it is sealed.

    Parameters
    ----------
    index : FaissSet
    sizes : ndarray of shape (nlist,), int64
        Vectors of each list.
    paths : IndexPaths
    threads : int
    exact_most : int
        Lists above which a graph over the centroids is kept.

    Raises
    ------
    InvalidSource
        Centroids or parameters that are not finite, or a damaged graph.
    """
    if ModelDescription.is_sealed(paths.model):
        return ModelDescription.read(paths.model)
    layout, codec = index.trained, index.trained.codec
    centroids = layout.quantizer.centroids.read(index.file).reshape(-1, layout.d_index)
    arrays = {"centroids.npy": centroids, "codec.npy": layout.parameters}
    if (packed := index.transform.pack()) is not None:
        arrays["transform.npy"] = packed
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise InvalidSource(f"{layout.path}: values that are not finite found in {name[:-4]}")
    quantizer = flat_quantizer(centroids, index.metric)
    graph = None
    if layout.quantizer.graph is not None and index.nlist > exact_most:
        graph = _read_graph(index, quantizer)
    ivf = empty_ivf(codec, quantizer, index.metric, layout.parameters)
    probe = _decode_some(index, sizes, ivf)
    assigner = CentroidAssigner.auto(centroids, probe, seed=_SEED, threads=threads)
    files = {name: write_array(paths.model / name, array) for name, array in arrays.items()}
    if graph is not None:
        path = paths.model / "quantizer.hnsw"
        with path.publish() as file:
            file.write(graph, 0)
        files[path.last_name] = describe_file(path)
    description = ModelDescription(
        layout.d,
        layout.d_index,
        index.nlist,
        code_bytes(codec, layout.d_index),
        0,
        str(index.metric),
        index.transform.imported_name,
        codec.name,
        "exact" if graph is None else "hnsw",
        _SEED,
        {
            "ngroups": assigner.ngroups,
            "margin": assigner.margin if math.isfinite(assigner.margin) else None,
            "probes": assigner.probes,
            "agreement": assigner.agreement,
        },
        [],
        files,
    )
    description.write(paths.model)
    return description


def _read_graph(index: FaissSet, quantizer: faiss.Index) -> bytes:
    """Read the graph over the centroids, without them; Faiss checks it."""
    start, stop = index.trained.quantizer.graph or (0, 0)
    graph = bytes(index.file.read(stop - start, start)) + b"null"
    try:
        load_hnsw(graph, quantizer)
    except RuntimeError as error:
        why = str(error).splitlines()[0]
        raise InvalidSource(f"{index.trained.path}: a damaged graph of centroids: {why}") from error
    return graph


def _decode_some(index: FaissSet, sizes: Int64, ivf: faiss.IndexIVF) -> Float32:
    """Decode a few rows of evenly spaced lists: vectors like those that may be added."""
    found = [np.empty((0, ivf.d), np.float32)]
    step = max(1, index.nlist // _PROBES)
    for first in range(0, index.nlist, step):
        stop = min(index.nlist, first + min(step, _PROBE_ROWS))
        ends = np.cumsum(sizes[first:stop])
        window = _PROBE_ROWS * (ivf.code_size + ID_BYTES)
        for codes, _ in index.lists.read(first, stop, window, 1):
            codes = codes[:_PROBE_ROWS]
            list_nos = first + np.searchsorted(ends, np.arange(len(codes)), side="right")
            found.append(decode(ivf, codes, list_nos))
            if len(codes):
                break
    return np.concatenate(found)
