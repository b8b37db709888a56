"""Queries whose true neighbours are known, kept with an index to calibrate it again.

A calibration keeps its queries, and their exact neighbours with more of them than it needs. What
adds rows compares them with these queries and seals the near ones; deleted ids are left out when
the neighbours are read. So the truth of every version is known without another pass over the data,
and calibrating takes searches alone.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from teravec.errors import CorruptFile
from teravec.index.kept_queries import KeptQueries, NeighboursEntry, QueriesEntry
from teravec.index.manifest import Manifest
from teravec.index.neighbours import NEIGHBOUR, find_limits, merge_neighbours, remove_rows
from teravec.index.pending import PendingPaths
from teravec.segments.delete_set import read_deleted
from teravec.storage.arrays import read_array, write_array
from teravec.storage.files import byte_view
from teravec.storage.layout import IndexPaths

__all__ = [
    "KnownTruth",
    "find_erased",
    "fold_neighbours",
    "forget_queries",
    "has_erased",
    "list_ids",
    "read_limits",
    "read_queries",
    "read_truth",
    "write_neighbours",
    "write_queries",
]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Records = npt.NDArray[Any]


@dataclass(frozen=True)
class KnownTruth:
    """The known queries of one version, and their neighbours in it.

    Parameters
    ----------
    vectors : ndarray of shape (nq, d), float32
    own : ndarray of shape (nq,), int64
        The queries' own ids, which are no neighbours of them; -1 for none.
    records : ndarray
        As ``merge_neighbours`` returns them.
    """

    vectors: Float32
    own: Int64
    records: Records


def write_queries(
    pending: PendingPaths, vectors: Float32, own: Int64 | None, depth: int, origin: str
) -> QueriesEntry:
    """Seal queries (nq, d) and their own ids, in a file of a change."""
    nq, d = vectors.shape
    content = np.empty(nq, _query(d))
    content["own"], content["vector"] = -1 if own is None else own, vectors
    path = pending.known_file("queries", xxhash.xxh3_64_hexdigest(byte_view(content)))
    return QueriesEntry(
        path.name, **write_array(path, content), count=nq, depth=depth, origin=origin
    )


def read_queries(paths: IndexPaths, entry: QueriesEntry, d: int) -> tuple[Float32, Int64]:
    """Read the queries (nq, d) and their own ids (nq,).

    Raises
    ------
    MissingFile, CorruptFile
    """
    content = read_array(paths.file(entry.file), _described(entry), (entry.count,), _query(d))
    return np.ascontiguousarray(content["vector"]), np.ascontiguousarray(content["own"])


def write_neighbours(
    pending: PendingPaths,
    records: Records,
    *,
    sequences: tuple[int, int] = (0, 0),
    deletes_through: int = 0,
) -> NeighboursEntry:
    """Seal neighbours, in a file of a change."""
    path = pending.known_file("neighbours", xxhash.xxh3_64_hexdigest(byte_view(records)))
    return NeighboursEntry(
        path.name,
        **write_array(path, records),
        count=len(records),
        sequences=sequences,
        deletes_through=deletes_through,
    )


def _read_neighbours(paths: IndexPaths, entry: NeighboursEntry, nq: int) -> Records:
    path = paths.file(entry.file)
    records = read_array(path, _described(entry), (entry.count,), NEIGHBOUR)
    if len(records) and not 0 <= records["query"].min() <= records["query"].max() < nq:
        raise CorruptFile(f"{path}: neighbours of other queries than the {nq:,} known ones found")
    records["id"][records["id"] >= 0] += entry.id_base
    return records


def read_limits(paths: IndexPaths, kept: KeptQueries) -> Float64:
    """Return how far rows may be from each query (nq,) to be worth keeping."""
    nq = kept.queries.count
    return find_limits(_read_neighbours(paths, kept.neighbours[0], nq), nq)


def read_truth(paths: IndexPaths, manifest: Manifest, kept: KeptQueries) -> KnownTruth:
    """Read the queries and their neighbours among the rows of a version.

    Memory holds all of it: some 16 bytes a neighbour.

    Raises
    ------
    MissingFile, CorruptFile
    """
    vectors, own = read_queries(paths, kept.queries, manifest.d)
    records = _merge(paths, manifest, kept)
    replaced = (records["id"] >= 0) & (records["id"] == own[records["query"]])
    return KnownTruth(vectors, own, records[~replaced])


def _merge(paths: IndexPaths, manifest: Manifest, kept: KeptQueries) -> Records:
    nq = kept.queries.count
    deleted = read_deleted(paths, manifest.deletes, kept.neighbours)
    parts = []
    for entry, hidden in zip(kept.neighbours, deleted, strict=True):
        records = _read_neighbours(paths, entry, nq)
        parts.append(remove_rows(records, hidden.find(records["id"])))
    return merge_neighbours(parts, nq)


def fold_neighbours(pending: PendingPaths, manifest: Manifest, kept: KeptQueries) -> KeptQueries:
    """Join the neighbours of a version into one file, to which all of its delete sets are applied.

    The version's delete sets may then be dropped.
    """
    last = max(entry.sequences[1] for entry in kept.neighbours)
    folded = write_neighbours(
        pending,
        _merge(pending, manifest, kept),
        sequences=(0, last),
        deletes_through=manifest.number,
    )
    _, own = read_queries(pending, kept.queries, manifest.d)
    return KeptQueries(kept.queries, (folded,), find_erased(pending, manifest, kept, own))


def find_erased(
    paths: IndexPaths, manifest: Manifest, kept: KeptQueries, own: Int64
) -> tuple[int, ...]:
    """Return the numbers of the queries whose own rows (nq,) are deleted or replaced."""
    hidden = read_deleted(paths, manifest.deletes, kept.neighbours[:1])[0]
    return tuple(sorted({*kept.erased, *np.flatnonzero(hidden.find(own)).tolist()}))


def has_erased(paths: IndexPaths, manifest: Manifest, kept: KeptQueries) -> bool:
    """Whether some query's own row is deleted."""
    _, own = read_queries(paths, kept.queries, manifest.d)
    return bool(find_erased(paths, manifest, kept, own))


def forget_queries(
    pending: PendingPaths, manifest: Manifest, kept: KeptQueries
) -> KeptQueries | None:
    """Leave out the queries whose own rows are deleted; None if no query is left."""
    truth = read_truth(pending, manifest, kept)
    gone = list(find_erased(pending, manifest, kept, truth.own))
    numbers = np.full(len(truth.own), -1, np.int32)
    left = np.delete(np.arange(len(truth.own)), gone)
    if not len(left):
        return None
    numbers[left] = np.arange(len(left))
    records = truth.records[numbers[truth.records["query"]] >= 0]
    records["query"] = numbers[records["query"]]
    old = kept.queries
    queries = write_queries(pending, truth.vectors[left], truth.own[left], old.depth, old.origin)
    last = max(entry.sequences[1] for entry in kept.neighbours)
    near = write_neighbours(pending, records, sequences=(0, last), deletes_through=manifest.number)
    return KeptQueries(queries, (near,))


def list_ids(
    paths: IndexPaths, manifest: Manifest, kept: KeptQueries, done: Container[str] = ()
) -> dict[str, Int64]:
    """List the ids in each of the files but those that are done."""
    queries, found = kept.queries, dict[str, Int64]()
    if queries.file not in done:
        found[queries.file] = read_queries(paths, queries, manifest.d)[1]
    for entry in kept.neighbours:
        if entry.file not in done:
            found[entry.file] = _read_neighbours(paths, entry, queries.count)["id"]
    return found


def _query(d: int) -> np.dtype[Any]:
    return np.dtype([("own", "<i8"), ("vector", "<f4", (d,))])


def _described(entry: QueriesEntry | NeighboursEntry) -> dict[str, Any]:
    return {"size": entry.size, "checksum": entry.checksum}
