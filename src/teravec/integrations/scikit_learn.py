"""Neighbours of teravec in pipelines of scikit-learn (``pip install 'teravec[sklearn]'``)."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from teravec.api import build
from teravec.search.index import open_index

__all__ = ["TeravecTransformer"]

_METRICS = {"euclidean": "l2", "sqeuclidean": "l2", "cosine": "cosine"}


class _Folder:
    """A temporary directory that goes with its estimator, which has no method to close it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="teravec-sklearn-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class TeravecTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Transform vectors into a sparse graph of their nearest fitted vectors.

    It stands where ``sklearn.neighbors.KNeighborsTransformer`` does, before estimators that take
    ``metric="precomputed"``. The index lies in a temporary directory as long as the transformer.

    Parameters
    ----------
    n_neighbors : int
        Neighbours of each vector. With ``mode="distance"`` there is one more, because a fitted
        vector is its own nearest.
    mode : {"distance", "connectivity"}
        What the graph holds: distances, or ones.
    metric : {"euclidean", "sqeuclidean", "cosine"}
    codec : str
        As for ``teravec.build``.
    nlist, nprobe : int, optional
        Lists, as for ``teravec.build``, and lists visited for each vector. Without nprobe, all
        lists are visited: with a flat codec the neighbours are exact.
    memory : str or int, optional
        Limit of building, and of searching.

    Attributes
    ----------
    n_samples_fit_ : int
    """

    def __init__(
        self,
        n_neighbors: int = 5,
        *,
        mode: str = "distance",
        metric: str = "euclidean",
        codec: str = "flat",
        nlist: int | None = None,
        nprobe: int | None = None,
        memory: str | int | None = None,
    ) -> None:
        self.n_neighbors, self.mode, self.metric = n_neighbors, mode, metric
        self.codec, self.nlist, self.nprobe, self.memory = codec, nlist, nprobe, memory

    def fit(self, X: Any, y: Any = None) -> TeravecTransformer:
        """Build an index of the rows of X; y is ignored."""
        vectors = validate_data(self, X, dtype=np.float32)
        if self.metric not in _METRICS:
            raise ValueError(f"metric is {self.metric!r}; one of {', '.join(_METRICS)} expected")
        if self.mode not in ("distance", "connectivity"):
            raise ValueError(f"mode is {self.mode!r}; distance or connectivity expected")
        self._folder = _Folder()
        build(
            vectors,
            self._path,
            metric=_METRICS[self.metric],
            codec=self.codec,
            nlist=self.nlist,
            calibrate=False,
            memory=self.memory,
        )
        self.n_samples_fit_ = len(vectors)
        return self

    def transform(self, X: Any) -> Any:
        """Return the graph of the nearest fitted vectors of each row of X.

        Returns
        -------
        scipy.sparse.csr_matrix of shape (n, n_samples_fit_), float64
            Each row has its nearest first.
        """
        check_is_fitted(self)
        vectors = validate_data(self, X, dtype=np.float32, reset=False)
        k = self.n_neighbors + (self.mode == "distance")
        if k > self.n_samples_fit_:
            raise ValueError(
                f"n_neighbors is {self.n_neighbors}; n_samples = {self.n_samples_fit_} fitted "
                "vectors have fewer neighbours"
            )
        with open_index(self._path, memory=self.memory) as index:
            distances, ids = index.search(vectors, k, nprobe=self.nprobe or index.nlist)
        values = np.ones(ids.shape) if self.mode == "connectivity" else self._convert(distances)
        found = ids >= 0  # lists that were not visited may hold the others
        starts = np.concatenate([[0], np.cumsum(found.sum(axis=1))])
        shape = (len(vectors), self.n_samples_fit_)
        return csr_matrix((values[found], ids[found], starts), shape=shape)

    def _convert(self, distances: Any) -> Any:
        distances = distances.astype(np.float64)
        if self.metric == "cosine":
            return np.maximum(1 - distances, 0)
        return distances if self.metric == "sqeuclidean" else np.sqrt(np.maximum(distances, 0))

    @property
    def _path(self) -> Path:
        return self._folder.path / "index"

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if state.pop("_folder", None) is not None:
            files = sorted(path for path in self._path.rglob("*") if path.is_file())
            state["_files"] = {str(f.relative_to(self._path)): f.read_bytes() for f in files}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        files = state.pop("_files", None)
        super().__setstate__(state)
        if files is not None:
            self._folder = _Folder()
            for name, data in files.items():
                path = self._path / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
