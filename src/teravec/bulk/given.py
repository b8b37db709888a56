"""Queries and true neighbours as Python gives them: by path, in memory, or as a stream."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.arguments import path_of
from teravec.bulk.results import Neighbors, read_neighbors
from teravec.engines.resources import Resources
from teravec.errors import InvalidArgument
from teravec.memory import require
from teravec.sources import Data, PathLike, Source, are_paths, open_data, open_queries
from teravec.sources.spool import discard_spool, is_spooled

__all__ = ["Truth", "as_neighbors", "opened", "read_whole"]

Truth = Neighbors | PathLike | tuple[npt.ArrayLike, npt.ArrayLike] | npt.ArrayLike
"""True neighbours: a file of them, ``(distances, ids)``, or ids."""


@contextmanager
def opened(
    data: Data,
    resources: Resources,
    beside: Path | None,
    *,
    shared: bool = False,
    ids: Any = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    format: str | None = None,
    skip_bad: bool = False,
    name: str = "data",
    columns: Sequence[str] = (),
) -> Iterator[Source]:
    """Open data for a search; what is spooled for it goes when the body ends.

    Parameters
    ----------
    beside : Path, optional
        Where to spool. After a kill, or without room for the results, it stays for the next
        run. Not given: a temporary directory.
    shared : bool
        Whether workers in other processes are to read it, too.
    """
    with tempfile.TemporaryDirectory(prefix="teravec-") as directory:
        path = beside or Path(directory) / "data.spool"
        try:
            source = open_data(
                data,
                ids=ids,
                id_column=id_column,
                vector_column=vector_column,
                format=format,
                skip_bad=skip_bad,
                spool_path=path,
                shared=shared,
                memory_bytes=resources.memory_bytes,
                progress=resources.progress,
                name=name,
                columns=columns,
            )
            yield source
        except InvalidArgument:
            if not isinstance(data, str | os.PathLike):
                discard_spool(path)
            raise
        if is_spooled(source.files[0].file, path) and not isinstance(data, str | os.PathLike):
            discard_spool(path)


def read_whole(
    data: Data,
    resources: Resources,
    what: str,
    *,
    query_column: str | None = None,
    vector_column: str | None = None,
    format: str | None = None,
    exact: bool = False,
    not_at: Path | None = None,
) -> npt.NDArray[np.float32]:
    """Read queries, which must be in memory at once; (n, d), float32.

    Parameters
    ----------
    query_column, vector_column : str, optional
        Column of the queries, where their files or tables have columns: the former, or else that
        of the vectors that they are compared with.
    exact : bool
        As float64 where float32 would round them.
    not_at : Path, optional
        An output, which must not be one of their files.
    """
    column = query_column or vector_column
    if (paths := are_paths(data)) is not None:
        data = open_queries(
            paths, query_column=query_column, vector_column=vector_column, format=format
        )
        format = column = None
    with opened(data, resources, None, name=what, vector_column=column, format=format) as source:
        if not_at is not None:
            source.check_not(not_at)
        dtype = source.exact_dtype if exact else np.dtype(np.float32)
        needed = source.ntotal * source.d * dtype.itemsize
        require(needed, resources.memory_bytes, f"holding {source.ntotal:,} {what}")
        vectors: npt.NDArray[np.float32] = source.read(0, source.ntotal, dtype)
    return vectors


def as_neighbors(truth: Truth, format: str | None = None) -> Neighbors:
    """Read true neighbours from a file, or take ``(distances, ids)`` or ids as they are.

    Raises
    ------
    InvalidArgument
        Arrays that are no integers of shape (nq, k) and distances of the same shape.
    """
    if isinstance(truth, Neighbors):
        return truth
    if isinstance(truth, str | os.PathLike):
        return read_neighbors(path_of(truth, "truth"), format)
    distances: npt.ArrayLike | None = None
    ids: Any = truth
    if isinstance(truth, tuple) and len(truth) == 2:
        distances, ids = truth
    found = np.asarray(ids)
    if found.ndim != 2 or found.dtype.kind not in "iu" or not found.size:
        raise InvalidArgument(
            f"truth: ids of type {found.dtype} and shape {found.shape} found, integers of shape "
            "(nq, k) expected, or (distances, ids)"
        )
    known = None if distances is None else np.asarray(distances)
    if known is not None and (known.shape != found.shape or known.dtype.kind not in "fiu"):
        raise InvalidArgument(
            f"truth: distances of type {known.dtype} and shape {known.shape} found, numbers of "
            f"shape {found.shape} expected, as the ids have"
        )
    return Neighbors(found.astype(np.int64), None if known is None else known.astype(np.float32))
