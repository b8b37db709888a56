"""teravec in big-ann-benchmarks' streaming track: an index that is added to and deleted from."""

import tempfile

import numpy as np
import teravec

from neurips23.streaming.base import BaseStreamingANN

METRICS = {"euclidean": "l2", "ip": "ip", "angular": "cosine"}


class Teravec(BaseStreamingANN):
    """An index that the first insertion builds.

    Parameters
    ----------
    metric : str
    index_params : dict
        Options of ``teravec.build``.
    """

    def __init__(self, metric, index_params):
        self._metric, self._options = METRICS[metric], dict(index_params)
        self._folder = tempfile.TemporaryDirectory(prefix="teravec-")
        self._path = f"{self._folder.name}/index"
        self._index, self._effort = None, {}
        self.name = "-".join(["teravec", *map(str, self._options.values())])

    def setup(self, dtype, max_pts, ndims):
        if self._index is not None:
            self._index.close()
            self._index = None

    def insert(self, X, ids):
        ids = ids.astype(np.int64)
        if self._index is None:
            options = dict(self._options, metric=self._metric, overwrite=True)
            teravec.build(X, self._path, ids=ids, **options)
            self._index = teravec.open(self._path)
        else:
            teravec.add(self._path, X, ids=ids)
            self._settle()

    def replace(self, X, ids):
        """Replace the vectors of ids: an addition of an id that exists does."""
        self.insert(X, ids)

    def delete(self, ids):
        teravec.delete(self._path, ids.astype(np.int64))
        self._settle()

    def _settle(self):
        """Join segments and split lists if reading them costs much, and go to the new version."""
        teravec.maintain(self._path)
        self._index.refresh()
        teravec.vacuum(self._path, older_than="0s")

    def set_query_arguments(self, query_args):
        """Take options of ``Index.search``, as ``{"nprobe": 64}`` or ``{"recall": 0.9}``."""
        self._effort = dict(query_args)

    def query(self, X, k):
        self.res = self._index.search(X, k, **self._effort)[1]

    def done(self):
        if self._index is not None:
            self._index.close()
        self._folder.cleanup()
