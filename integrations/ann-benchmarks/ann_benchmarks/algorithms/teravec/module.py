"""teravec in ann-benchmarks: an index on disk whose lists are kept in memory as they are read."""

import tempfile

import numpy
import teravec

from ..base.module import BaseANN

METRICS = {"angular": "cosine", "euclidean": "l2"}


class Teravec(BaseANN):
    """An index of one codec, with as many lists as teravec chooses.

    Parameters
    ----------
    metric : {"angular", "euclidean"}
    codec : str
        As for ``teravec.build``.
    """

    def __init__(self, metric, codec):
        if metric not in METRICS:
            raise NotImplementedError(f"teravec has no metric {metric}")
        self._metric, self._codec = METRICS[metric], codec
        self._folder = tempfile.TemporaryDirectory(prefix="teravec-")
        self._index, self._effort = None, {}
        self.name = f"teravec({codec})"

    def fit(self, X):
        path = f"{self._folder.name}/index"
        teravec.build(numpy.asarray(X, numpy.float32), path, metric=self._metric, codec=self._codec)
        self._index = teravec.open(path)

    def set_query_arguments(self, effort):
        """Search so many lists; or, given a share below 1, as many as that recall takes."""
        self._effort = {"recall": effort} if effort < 1 else {"nprobe": effort}
        self._scanned = self._index.stats.codes_scanned
        self.name = f"teravec({self._codec}, {effort})"

    def query(self, q, n):
        ids = self._index.search(numpy.asarray(q, numpy.float32), n, **self._effort)[1]
        return ids[ids >= 0]

    def batch_query(self, X, n):
        self.res = self._index.search(numpy.asarray(X, numpy.float32), n, **self._effort)[1]

    def get_batch_results(self):
        return [ids[ids >= 0] for ids in self.res]

    def get_additional(self):
        return {"dist_comps": self._index.stats.codes_scanned - self._scanned}

    def done(self):
        if self._index is not None:
            self._index.close()
        self._folder.cleanup()
