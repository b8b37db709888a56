"""``.parquet``: a row for every neighbour."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from teravec.bulk.formats.found import Found, Neighbors
from teravec.bulk.formats.whole import publishing_result, reading
from teravec.errors import InvalidSource
from teravec.sources.columnar import arrow_errors

__all__ = [
    "SCHEMA",
    "neighbors_of_table",
    "read_parquet",
    "record_batches",
    "schema_of",
    "write_parquet",
]

_QUERIES = 1 << 16  # of a row group, and
_ROWS = 1 << 18  # no more rows than this: where groups end depends on the results alone

SCHEMA = pa.schema(
    [
        pa.field("query", pa.int64(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("id", pa.int64(), nullable=False),
        pa.field("distance", pa.float32(), nullable=False),
    ]
)


_ROW = pa.field("row", pa.int64(), nullable=False)
_WITH_ROWS = SCHEMA.append(_ROW)


def write_parquet(path: Path, found: Found) -> None:
    """Write query, rank, id and distance; where queries have ids, these, and row as well."""
    with (
        publishing_result(path) as file,
        pq.ParquetWriter(file, schema_of(found), compression="zstd") as writer,
    ):
        for batch in record_batches(found):
            writer.write_batch(batch)


def schema_of(found: Found) -> Any:
    """Columns of results: with the queries' rows where their ids are others."""
    return SCHEMA if found.queries(0, 0) is None else _WITH_ROWS


def record_batches(found: Found, first: int = 0) -> Iterator[Any]:
    """All results as record batches; queries' rows are counted from ``first``."""
    schema = schema_of(found)
    for columns in _row_groups(found, first):
        arrays = [
            pa.array(column, field.type, safe=True)
            for column, field in zip(columns, schema, strict=True)
        ]
        yield pa.record_batch(arrays, schema=schema)


def _row_groups(found: Found, offset: int) -> Iterator[tuple[npt.NDArray[Any], ...]]:
    before = 0
    for first in range(0, found.n, _QUERIES):
        last = min(first + _QUERIES, found.n)
        counts, names = found.counts(first, last), found.queries(first, last)
        lims = np.concatenate([[0], np.cumsum(counts)])
        for start in range(0, int(lims[-1]), _ROWS):
            rows = np.arange(start, min(start + _ROWS, int(lims[-1])))
            query = np.searchsorted(lims, rows, "right") - 1
            distances, ids = found.read(before + start, before + start + len(rows))
            results = rows - lims[query], ids, distances
            if names is None:
                yield offset + first + query, *results
            else:
                yield names[query], *results, offset + first + query
        before += int(lims[-1])


def read_parquet(path: Path) -> Neighbors:
    """Read the results of a search for k neighbours, in rows of any order."""
    with reading(path) as (file, _), arrow_errors(path):
        with pq.ParquetFile(file) as parquet:
            wanted = [name for name in _WITH_ROWS.names if name in parquet.schema_arrow.names]
            _check_names(path, parquet.schema_arrow.names)
            table = parquet.read(columns=wanted, use_threads=False)
        return neighbors_of_table(path, table)


def neighbors_of_table(path: Path, table: Any) -> Neighbors:
    """The neighbours in a table's columns, rows in any order."""
    _check_names(path, table.column_names)
    wanted = [name for name in _WITH_ROWS.names if name in table.column_names]
    with arrow_errors(path):
        columns = {
            name: _column(path, table.column(name), _WITH_ROWS.field(name).type) for name in wanted
        }
    return _from_columns(path, columns)


def _check_names(path: Path, names: list[str]) -> None:
    if any(name not in names for name in ("query", "rank", "id")):
        raise InvalidSource(
            f"{path}: columns {', '.join(names)} found, query, rank and id expected (and distance)"
        )


def _column(path: Path, column: Any, kind: Any) -> npt.NDArray[Any]:
    if column.null_count:
        raise InvalidSource(f"{path}: {column.null_count} nulls found in a column, none expected")
    # Float32 may round wider distances; integers must fit.
    array = column.cast(kind, safe=not pa.types.is_floating(kind))
    return np.asarray(array.to_numpy())


def _from_columns(path: Path, columns: dict[str, npt.NDArray[Any]]) -> Neighbors:
    """Rows in any order, one for every query and rank, as arrays."""
    query, rank = columns.get("row", columns["query"]), columns["rank"].astype(np.int64)
    rows = len(query)
    n, k = (int(column.max()) + 1 if rows else 0 for column in (query, rank))
    order = np.lexsort((rank, query))
    places = np.arange(rows)
    if n * k != rows or not (
        np.array_equal(query[order], places // max(1, k))
        and np.array_equal(rank[order], places % max(1, k))
    ):
        raise InvalidSource(
            f"{path}: {rows} rows found, expected one for each query of {n} and rank of {k}"
        )
    arrays = {name: columns[name][order].reshape(n, k) for name in columns}
    return Neighbors(arrays["id"], arrays.get("distance"))
