"""Deriving a model from another: other centroids, the same transform and codec."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.kernels.hnsw import build_hnsw, save_hnsw
from teravec.model.description import ModelDescription
from teravec.progress import Progress
from teravec.storage.arrays import describe_file, read_array, write_array
from teravec.storage.store import StorePath

__all__ = ["DerivedLists", "derive_model"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DerivedLists:
    """The lists of a derived model.

    Parameters
    ----------
    centroids : ndarray of shape (nlist, d_index), float32
        Those of the parent's lists first; lists that were split have another one.
    used : ndarray of int64
        The lists that vectors can be in, ascending.
    origins : ndarray of shape (n, 2), int64
        Each list with a centroid that the parent has not, and the parent's list that was split.
    """

    centroids: Float32
    used: Int64
    origins: Int64


def derive_model(
    parent: StorePath, to: StorePath, lists: DerivedLists, *, graph: bool, progress: Progress
) -> ModelDescription:
    """Seal a model with other lists.

    Parameters
    ----------
    parent, to : StorePath
        Parents of the models' files.
    lists : DerivedLists
    graph : bool
        Whether a graph over the centroids finds a query's lists.
    progress : Progress
    """
    before = ModelDescription.read(parent)
    arrays: dict[str, npt.NDArray[Any]] = {
        "centroids.npy": lists.centroids,
        "codec.npy": read_array(parent / "codec.npy", before.files["codec.npy"]),
        "origins.npy": lists.origins,
    }
    if "transform.npy" in before.files:
        arrays["transform.npy"] = read_array(
            parent / "transform.npy", before.files["transform.npy"]
        )
    nlist = len(lists.centroids)
    if len(lists.used) < nlist:
        arrays["used.npy"] = lists.used
    files = {name: write_array(to / name, array) for name, array in arrays.items()}
    if graph:
        path = to / "quantizer.hnsw"
        with progress.stage("graph", len(lists.used), "centroids") as bar:
            data = save_hnsw(build_hnsw(np.ascontiguousarray(lists.centroids[lists.used])))
            bar.advance(len(lists.used))
        with path.publish() as file:
            file.write(data, 0)
        files[path.last_name] = describe_file(path)
    known = before.rebalanced or {"generation": 0, "built_nlist": before.nlist}
    derived = replace(
        before,
        nlist=nlist,
        quantizer="hnsw" if graph else "exact",
        files=files,
        rebalanced={
            "parent": before.checksum,
            "generation": known["generation"] + 1,
            "built_nlist": known["built_nlist"],
            "unused": nlist - len(lists.used),
        },
    )
    derived.write(to)
    return derived
