"""Tables with any columns, written to a file a part at a time: .parquet, .csv or .jsonl."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from teravec.bulk.formats.whole import publishing_result
from teravec.errors import InvalidArgument

__all__ = ["TABLE_FORMATS", "check_table_output", "json_values", "jsonl_of_table", "write_tables"]


class _Writes(Protocol):
    def write_table(self, table: Any) -> None: ...


class _Lines:
    """Writes tables as lines of JSON."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write_table(self, table: Any) -> None:
        for line in jsonl_of_table(table):
            self._file.write(line.encode())


def check_table_output(path: Path) -> None:
    """Raise InvalidArgument unless tables can be written to a file of this name."""
    if path.suffix.lower() not in _WRITERS:
        known = ", ".join(_WRITERS)
        raise InvalidArgument(f"{path}: results with columns are written as {known}")


def write_tables(path: Path, tables: Iterable[Any]) -> int:
    """Write tables of one schema, one after another; return the number of rows.

    The file appears when it is whole.

    Raises
    ------
    InvalidArgument
        The format cannot hold a column, as .csv no lists.
    """
    check_table_output(path)
    rows = 0
    opened = _WRITERS[path.suffix.lower()]
    tables = iter(tables) if opened is _parquet else map(_write_uuids, tables)
    first = next(tables)
    with publishing_result(path) as file, opened(file, first.schema, path) as writer:
        while first is not None:
            rows += len(first)
            writer.write_table(first)
            first = next(tables, None)
    return rows


@contextmanager
def _parquet(file: Any, schema: Any, path: Path) -> Iterator[_Writes]:
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        yield writer


@contextmanager
def _csv(file: Any, schema: Any, path: Path) -> Iterator[_Writes]:
    for field in schema:
        if pa.types.is_nested(field.type):
            raise InvalidArgument(f"{path}: .csv holds no lists, as column {field.name!r} has")
    with csv.CSVWriter(file, schema) as writer:
        yield writer


@contextmanager
def _jsonl(file: Any, schema: Any, path: Path) -> Iterator[_Writes]:
    yield _Lines(file)


_WRITERS = {".parquet": _parquet, ".csv": _csv, ".jsonl": _jsonl}


TABLE_FORMATS = tuple(_WRITERS)
"""Endings of the names of files that hold tables."""


def jsonl_of_table(table: Any) -> Iterator[str]:
    """Yield a line of JSON for each row.

    Values are as ``json_values`` has them.
    """
    names = table.column_names
    for values in zip(*(json_values(column) for column in table.columns), strict=True):
        yield json.dumps(dict(zip(names, values, strict=True)), ensure_ascii=False) + "\n"


def json_values(column: Any) -> list[Any]:
    """Return a column's values as JSON has them.

    Times are in ISO 8601; UUIDs, decimals, durations and binary (in base 64) are texts; infinite
    numbers and NaN are null.
    """
    if column.type == pa.binary(16):
        return [v and str(uuid.UUID(bytes=v)) for v in column.to_pylist()]
    if pa.types.is_temporal(column.type) and getattr(column.type, "unit", "") == "ns":
        texts = column.cast(pa.int64() if pa.types.is_duration(column.type) else pa.string())
        return [v if v is None else str(v).replace(" ", "T", 1) for v in texts.to_pylist()]
    values = column.to_pylist()
    if _is_plain(column.type):
        return list(values)
    return [_plain(value) for value in values]


def _is_plain(kind: Any) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_boolean(kind) or types.is_string(kind))


def _write_uuids(table: Any) -> Any:
    """Return the table with values of 16 bytes as the texts of UUIDs."""
    for number, field in enumerate(table.schema):
        if field.type == pa.binary(16):
            values = [v and str(uuid.UUID(bytes=v)) for v in table.column(number).to_pylist()]
            table = table.set_column(number, field.name, pa.array(values, pa.string()))
    return table


def _plain(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case list():
            return [_plain(each) for each in value]
        case datetime.date() | datetime.time():
            return value.isoformat()
        case bytes():
            return base64.b64encode(value).decode()
        case decimal.Decimal() | datetime.timedelta():
            return str(value)
    return value
