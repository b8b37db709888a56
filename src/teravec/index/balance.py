"""How evenly lists are filled, in an index or in the shards sealed so far."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.index.manifest import Manifest
from teravec.model.description import ModelDescription
from teravec.model.list_sizes import imbalance
from teravec.segments.shard import sealed_shards
from teravec.storage.layout import IndexPaths
from teravec.storage.listfile import ID_BYTES, ListFile
from teravec.storage.store import StorePath

__all__ = ["describe_lists", "index_lists", "shard_lists"]

Int64 = npt.NDArray[np.int64]


def describe_lists(sizes: Int64, model: ModelDescription) -> dict[str, Any]:
    """Return mean, largest, empty lists and imbalance, ready for JSON.

    Parameters
    ----------
    sizes : ndarray of shape (nlist,), int64
        Vectors in each list.
    model : ModelDescription
        States the bytes of a vector, and the cap on a list's bytes.
    """
    row_bytes = model.code_size + ID_BYTES
    limit = (model.lists or {}).get("max_bytes")
    return {
        "mean": float(sizes.mean()),
        "largest": int(sizes.max()),
        "largest_bytes": int(sizes.max()) * row_bytes,
        "max_bytes": limit,
        "above": 0 if limit is None else int((sizes * row_bytes > limit).sum()),
        "empty": int((sizes == 0).sum()),
        "imbalance": imbalance(sizes),
    }


def index_lists(paths: IndexPaths, manifest: Manifest) -> dict[str, Any]:
    """Describe the lists of an index."""
    sizes = np.zeros(manifest.nlist, np.int64)
    files = _read_sizes(paths.file(segment.file) for segment in manifest.segments)
    for segment, counts in zip(manifest.segments, files, strict=True):
        sizes[slice(*segment.lists)] += counts
    return describe_lists(sizes, ModelDescription.read(paths.model))


def shard_lists(paths: IndexPaths) -> dict[str, Any] | None:
    """Describe the lists of all sealed shards together; return None without shards."""
    model = ModelDescription.read(paths.model)
    total, shards = np.zeros(model.nlist, np.int64), sealed_shards(paths)
    for sizes in _read_sizes(shards):
        total += sizes
    return describe_lists(total, model) if shards else None


def _read_sizes(files: Iterable[StorePath]) -> Iterable[Int64]:
    for path in files:
        with ListFile(path) as file:
            yield file.sizes.astype(np.int64)
