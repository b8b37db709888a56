"""Opening queries, which may be a column of the same files as the vectors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from teravec.errors import InvalidArgument, InvalidSource
from teravec.sources.formats import has_columns, known_format
from teravec.sources.matrix import Source
from teravec.sources.opening import open_source
from teravec.sources.paths import PathLike, discover

__all__ = ["open_queries"]


def open_queries(
    paths: PathLike | Sequence[PathLike],
    *,
    query_column: str | None = None,
    vector_column: str | None = None,
    format: str | None = None,
) -> Source:
    """Open queries by their own column, or else by the vectors' column if the files have columns.

    Parameters
    ----------
    paths
        As for `open_source`.
    query_column : str, optional
        Column of the queries. Not given: ``vector_column``.
    vector_column : str, optional
        Column of the vectors that the queries are compared with.
    format : str, optional
        As for `open_source`.

    Raises
    ------
    InvalidSource
        As for `open_source`; or a file lacks the column.
    """
    if query_column is not None:
        return open_source(paths, vector_column=query_column, format=format)
    column = vector_column if _have_columns(paths, format) else None
    try:
        return open_source(paths, vector_column=column, format=format)
    except InvalidSource as error:
        if column is None or column not in str(error):
            raise
        raise InvalidSource(f"{error}; name the queries' column by --query-column") from error


def _have_columns(paths: Any, format: str | None) -> bool:
    """Whether the files have columns; True for anything that is not a path."""
    named = [paths] if isinstance(paths, str | os.PathLike) else paths
    try:
        members = discover(named, format)
        return any(has_columns(member.format or known_format(member.path)) for member in members)
    except (InvalidSource, InvalidArgument):
        return True  # open_source will raise the proper error
