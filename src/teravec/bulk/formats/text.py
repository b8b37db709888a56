"""``.csv`` and ``.jsonl``: results as text, a row for every neighbour or a line for every query."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

from teravec.bulk.formats.found import Found, Neighbors
from teravec.bulk.formats.parquet import neighbors_of_table, record_batches, schema_of
from teravec.bulk.formats.whole import publishing_result, reading
from teravec.errors import InvalidSource
from teravec.sources.columnar import arrow_errors

__all__ = [
    "csv_header",
    "csv_texts",
    "jsonl_texts",
    "read_csv",
    "read_jsonl",
    "write_csv",
    "write_jsonl",
]

_RESULTS = 1 << 18  # of a text in memory; a query that has more comes alone
_QUERIES = 1 << 16


def csv_header(found: Found) -> str:
    """The first line, names as those of Parquet's columns."""
    return ",".join(schema_of(found).names) + "\n"


def csv_texts(found: Found, first: int = 0) -> Iterator[str]:
    """The rows, some at a time; queries are counted from ``first``."""
    options = csv.WriteOptions(include_header=False)
    for batch in record_batches(found, first):
        sink = io.BytesIO()
        csv.write_csv(batch, sink, options)
        yield sink.getvalue().decode()


def jsonl_texts(found: Found, first: int = 0) -> Iterator[str]:
    """Lines, some at a time: query, ids and distances; a missing result's distance is null."""
    before = 0
    for start, counts in _query_groups(found):
        total = int(counts.sum())
        distances, ids = found.read(before, before + total)
        before += total
        ends = np.cumsum(counts)[:-1]
        rows = zip(np.split(ids, ends), np.split(distances, ends), strict=True)
        names = found.queries(start, start + len(counts))
        yield "".join(
            json.dumps(
                {
                    **_named(first + start + number, None if names is None else int(names[number])),
                    "ids": row.tolist(),
                    "distances": [v if np.isfinite(v) else None for v in values.tolist()],
                }
            )
            + "\n"
            for number, (row, values) in enumerate(rows)
        )


def _named(row: int, query: int | None) -> dict[str, int]:
    """A query as its id, if it has one, and its row; or as its row alone."""
    return {"query": row} if query is None else {"query": query, "row": row}


def _query_groups(found: Found) -> Iterator[tuple[int, Any]]:
    """Runs of queries, by their first and their numbers of results, that fit into memory."""
    for first in range(0, found.n, _QUERIES):
        counts = found.counts(first, min(first + _QUERIES, found.n))
        groups = np.cumsum(counts) // _RESULTS
        starts = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(counts)]
        for start, stop in pairwise(starts):
            yield first + start, counts[start:stop]


def write_csv(path: Path, found: Found) -> None:
    """Write query, rank, id and distance, with a line of their names."""
    with publishing_result(path) as file:
        file.write(csv_header(found).encode())
        for text in csv_texts(found):
            file.write(text.encode())


def write_jsonl(path: Path, found: Found) -> None:
    """Write an object for every query."""
    with publishing_result(path) as file:
        for text in jsonl_texts(found):
            file.write(text.encode())


def read_csv(path: Path) -> Neighbors:
    """Read the results of a search for k neighbours, in rows of any order."""
    with reading(path) as (file, _), arrow_errors(path):
        table = csv.read_csv(file, csv.ReadOptions(use_threads=False))
    return neighbors_of_table(path, table)


def read_jsonl(path: Path) -> Neighbors:
    """Read a line for every query, in their order."""
    ids: list[Any] = []
    distances: list[Any] = []
    with path.open("rb") as file:
        for number, line in enumerate(file):
            try:
                content = json.loads(line)
                ids.append(content["ids"])
                distances.append(content.get("distances"))
                known = content.get("row", content.get("query", number))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                raise InvalidSource(
                    f"{path}: line {number + 1} is no JSON object with ids"
                ) from error
            if known != number:
                raise InvalidSource(f"{path}: line {number + 1} is query {known}, not {number}")
    return Neighbors(
        _table(path, ids, pa.int64(), "ids"),
        None
        if None in distances or not distances
        else _table(path, distances, pa.float32(), "distances"),
    )


def _table(path: Path, rows: list[Any], kind: Any, what: str) -> Any:
    """Rows of one length as an array; null distances are infinite."""
    if not all(isinstance(row, list) and len(row) == len(rows[0]) for row in rows):
        raise InvalidSource(f"{path}: {what} of unequal lengths found, k of each query expected")
    try:
        flat = pa.array([value for row in rows for value in row], kind)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise InvalidSource(f"{path}: {what} are no numbers: {error}") from error
    if flat.null_count and what == "ids":
        raise InvalidSource(f"{path}: {flat.null_count} nulls found among the ids, none expected")
    array = flat.fill_null(np.inf if what == "distances" else -1).to_numpy(zero_copy_only=False)
    return array.reshape(len(rows), len(rows[0]) if rows else 0)
