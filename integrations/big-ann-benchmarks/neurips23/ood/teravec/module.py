"""teravec in big-ann-benchmarks: nearest neighbours, and all within a radius."""

import os

import teravec

from benchmark.datasets import DATASETS
from neurips23.ood.base import BaseOODANN

METRICS = {"euclidean": "l2", "ip": "ip", "angular": "cosine"}


class Teravec(BaseOODANN):
    """An index on disk, built from the data set's file, in a stated amount of memory.

    Parameters
    ----------
    metric : str
    index_params : dict
        Options of ``teravec.build``, as ``{"codec": "rabitq2+sq8", "memory": "16GiB"}``.
    """

    def __init__(self, metric, index_params):
        self._metric, self._options = METRICS[metric], dict(index_params)
        self._index, self._effort = None, {}
        self.name = "-".join(["teravec", *map(str, self._options.values())])

    def _path(self, dataset):
        return os.path.join("data", "indices", self.track(), self.name, dataset)

    def fit(self, dataset):
        path, (rows, columns) = self._path(dataset), self._rows(DATASETS[dataset]())
        os.makedirs(os.path.dirname(path), exist_ok=True)
        teravec.build(rows, path, metric=self._metric, overwrite=True, **columns, **self._options)
        self._open(path)

    def _rows(self, data):
        """Return the data set's rows, in batches, and options of ``build`` for them."""
        return data.get_dataset_iterator(bs=100_000), {}

    def load_index(self, dataset):
        path = self._path(dataset)
        if not os.path.exists(os.path.join(path, "manifest.json")):
            return False
        self._open(path)
        return True

    def _open(self, path):
        self._index = teravec.open(path, memory=self._options.get("memory"))

    def index_files_to_store(self, dataset):
        raise NotImplementedError("teravec cp copies an index to an object store")

    def set_query_arguments(self, query_args):
        """Take options of ``Index.search``, as ``{"nprobe": 64}`` or ``{"recall": 0.9}``."""
        self._effort = dict(query_args)

    def query(self, X, k):
        self.res = self._index.search(X, k, **self._effort)[1]

    def range_query(self, X, radius):
        self.res = self._index.range_search(X, radius, **self._effort)

    def get_range_results(self):
        lims, distances, ids = self.res
        return lims, distances, ids

    def get_additional(self):
        stats = self._index.stats
        return {
            "dist_comps": stats.codes_scanned,
            "mean_ssd_ios": stats.reads / max(1, stats.queries),
        }

    def done(self):
        if self._index is not None:
            self._index.close()
