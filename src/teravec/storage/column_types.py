"""The Arrow types that columns may have, and their names in files and messages.

A column is kept in its own type, with two exceptions: a dictionary is kept as the type of its
values, and an extension as the type of its storage.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import pyarrow as pa

from teravec.errors import CorruptFile

__all__ = [
    "SUPPORTED",
    "filterable_names",
    "mark_filterable",
    "name_type",
    "parse_schema",
    "schema_content",
    "stored_type",
]

SUPPORTED = (
    "bool, integers, floats, string, binary, date, time, timestamp, duration, decimal, and lists "
    "or dictionaries of these"
)
"""The types in words, for messages."""

_PLAIN = {
    str(kind): kind
    for kind in (
        pa.bool_(),
        *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
        *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
        *(pa.float16(), pa.float32(), pa.float64()),
        *(pa.string(), pa.large_string(), pa.binary(), pa.large_binary()),
        *(pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms")),
        *(pa.time64("us"), pa.time64("ns")),
        *(pa.duration(unit) for unit in ("s", "ms", "us", "ns")),
        *(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")),
    )
}
_TIMESTAMP = re.compile(r"timestamp\[(s|ms|us|ns), tz=([^\]\x00-\x1f]{1,100})\]")
_DECIMAL = re.compile(r"decimal(128|256)\((\d{1,2}), (-?\d{1,3})\)")
_FIXED = re.compile(r"fixed_size_binary\[(\d{1,9})\]")
_LIST = re.compile(r"(large_)?list<(.+)>")


def stored_type(kind: Any) -> Any:
    """Return the type in which a column of this Arrow type is kept; None if it cannot be."""
    if isinstance(kind, pa.BaseExtensionType):
        return stored_type(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return stored_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        value = stored_type(kind.value_type)
        if value is None or pa.types.is_nested(value):
            return None
        return pa.list_(value) if pa.types.is_list(kind) else pa.large_list(value)
    known = (
        str(kind) in _PLAIN
        or pa.types.is_timestamp(kind)
        or pa.types.is_decimal128(kind)
        or pa.types.is_decimal256(kind)
        or pa.types.is_fixed_size_binary(kind)
    )
    return kind if known else None


def name_type(kind: Any) -> str:
    """Return the name of a stored type, such as ``list<string>``; ``parse_type`` reads it."""
    if pa.types.is_list(kind):
        return f"list<{name_type(kind.value_type)}>"
    if pa.types.is_large_list(kind):
        return f"large_list<{name_type(kind.value_type)}>"
    return str(kind)


def parse_type(name: str) -> Any:
    """Return the Arrow type of this name, or raise ValueError."""
    if name in _PLAIN:
        return _PLAIN[name]
    if match := _TIMESTAMP.fullmatch(name):
        return pa.timestamp(match[1], tz=match[2])
    if match := _DECIMAL.fullmatch(name):
        make = pa.decimal128 if match[1] == "128" else pa.decimal256
        return make(int(match[2]), int(match[3]))
    if match := _FIXED.fullmatch(name):
        return pa.binary(int(match[1]))
    if match := _LIST.fullmatch(name):
        value = parse_type(match[2])
        if not pa.types.is_nested(value):
            return pa.large_list(value) if match[1] else pa.list_(value)
    raise ValueError(f"type {name!r} found, expected {SUPPORTED}")


_FILTERABLE = {b"teravec.filterable": b"true"}


def mark_filterable(schema: Any, names: Collection[str]) -> Any:
    """Return a schema that says which columns have inverted files, besides those that it names."""
    marked = {*filterable_names(schema), *names}
    return pa.schema(
        [each.with_metadata(_FILTERABLE) if each.name in marked else each for each in schema]
    )


def filterable_names(schema: Any) -> list[str]:
    """Return the names of columns that have inverted files."""
    return [each.name for each in schema if (each.metadata or {}).keys() >= _FILTERABLE.keys()]


def schema_content(schema: Any) -> list[dict[str, Any]]:
    """Return a schema as JSON: name and type of each column.

    ``nullable`` is there only where false, ``filterable`` only where true.
    """
    filterable = filterable_names(schema)
    return [
        {
            "name": field.name,
            "type": name_type(field.type),
            **({} if field.nullable else {"nullable": False}),
            **({"filterable": True} if field.name in filterable else {}),
        }
        for field in schema
    ]


def parse_schema(content: Any, path: str) -> Any:
    """Return the pyarrow.Schema of JSON that ``schema_content`` made; ``path`` is for messages.

    Raises
    ------
    CorruptFile
    """
    try:
        schema = pa.schema(
            [
                pa.field(str(each["name"]), parse_type(each["type"]), each.get("nullable", True))
                for each in content
            ]
        )
        names = [str(each["name"]) for each in content if each.get("filterable") is True]
        return mark_filterable(schema, names)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise CorruptFile(f"{path}: no columns that this release knows: {error}") from error
