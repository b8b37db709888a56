"""The package's function that finds near duplicates."""

from __future__ import annotations

import numpy.typing as npt

from teravec.arguments import path_of, real_number
from teravec.bulk.duplicates import GROUPING_BYTES, DuplicateSummary, find_duplicates
from teravec.bulk.given import opened
from teravec.bulk.questions import Within
from teravec.engines.resources import Resources
from teravec.errors import InvalidArgument
from teravec.granting import resources
from teravec.index.manifest import read_manifest
from teravec.memory import require
from teravec.progress import Progress
from teravec.search.index import open_index
from teravec.sources import Data, PathLike
from teravec.storage.layout import IndexPaths
from teravec.storage.places import PlaceLike, place_of

__all__ = ["duplicates"]


def duplicates(
    index: PlaceLike,
    data: Data,
    threshold: float,
    *,
    out: PathLike,
    nprobe: int | None = None,
    recall: float | None = None,
    ids: npt.ArrayLike | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    format: str | None = None,
    memory: str | int | None = None,
    threads: int | None = None,
    progress: Progress | bool | None = None,
) -> DuplicateSummary:
    """Find rows that are near to each other, and join them to groups.

    Every row is searched for, and pairs within the threshold are joined: also rows that are near
    only through others are one group. A killed search goes on with the same call.

    Parameters
    ----------
    index : path-like
        Index of the rows.
    data
        The rows, in any form that ``build`` takes, with the ids that the index has.
    threshold : float
        Pairs have a larger similarity (ip, cosine), or a smaller squared L2 distance (l2), as the
        index's codes have them.
    out : path-like
        ``.parquet``: a row for each row of a group of two or more, with ``id``, ``group`` (the id
        of the group's first row in the data) and ``kept`` (true for that row).
    nprobe, recall : optional
        How many lists each row visits, as for ``range_search``.
    ids, id_column, vector_column, format
        As for ``build``. Not given: the id column that the index was built with.
    memory, threads, progress
        As for ``build``. 40 bytes a row are needed for the groups.

    Returns
    -------
    DuplicateSummary

    Raises
    ------
    InvalidArgument, InvalidSource, MemoryLimitTooSmall, OutputExists, CorruptFile, StorageError
    """
    granted: Resources = resources(memory, threads, progress)
    place, paths = path_of(out, "out"), IndexPaths(place_of(index, "the index"))
    radius = real_number(threshold, "threshold")
    if place.suffix != ".parquet":
        raise InvalidArgument(f"{place}: a file that ends in .parquet expected")
    if ids is None and id_column is None:
        id_column = read_manifest(paths).source.get("id_column")
    with opened(
        data,
        granted,
        place.with_name(place.name + ".spool"),
        ids=ids,
        id_column=id_column,
        vector_column=vector_column,
        format=format,
    ) as source:
        needed = GROUPING_BYTES * source.ntotal
        require(needed, granted.memory_bytes, f"grouping {source.ntotal:,} rows")
        left = granted.memory_bytes - needed
        with open_index(index, memory=left, threads=threads) as searched:
            effort = searched.effort(nprobe, recall, radius=radius)
            question = Within(radius, effort, exclude_self=True)
            return find_duplicates(searched, source, question, place, granted.progress)
