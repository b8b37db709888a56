"""teravec in big-ann-benchmarks' track of filters: rows that have all tags of a query."""

import numpy as np
import pyarrow as pa

from neurips23.filter.base import BaseFilterANN
from neurips23.ood.teravec.module import Teravec as Unfiltered


class Teravec(BaseFilterANN, Unfiltered):
    """An index whose rows keep their tags as a column of lists; options as without filters."""

    def _rows(self, data):
        if data.search_type() != "knn_filtered":
            return super()._rows(data)
        return tagged_batches(data), {"columns": ["tags"], "vector_column": "vector"}

    def filtered_query(self, X, filter, k):
        """Answer queries of the same tags together: one filter is for all queries of a search."""
        self.res = np.full((len(X), k), -1, np.int64)
        tags = [tuple(sorted(row.indices)) for row in filter]
        order = sorted(range(len(X)), key=tags.__getitem__)
        starts = [n for n, at in enumerate(order) if not n or tags[at] != tags[order[n - 1]]]
        for start, stop in zip(starts, [*starts[1:], len(order)]):
            rows = order[start:stop]
            condition = " AND ".join(f"{tag} IN tags" for tag in tags[rows[0]]) or None
            self.res[rows] = self._index.search(X[rows], k, filter=condition, **self._effort)[1]


def tagged_batches(data):
    """Yield the data set as Arrow batches of vectors and their tags."""
    tags, start = data.get_dataset_metadata(), 0
    for vectors in data.get_dataset_iterator(bs=100_000):
        part = tags[start : start + len(vectors)]
        offsets, values = part.indptr.astype(np.int32), part.indices.astype(np.int32)
        listed = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
        flat = pa.array(np.ascontiguousarray(vectors).ravel())
        column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        yield pa.record_batch({"vector": column, "tags": listed})
        start += len(vectors)
