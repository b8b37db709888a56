"""Reading the JSON body of a search.

Small bodies become Python objects and are checked by pydantic. Large ones are parsed by Arrow,
which holds no lock of Python's meanwhile and makes no object of each number: probes are answered
while one is read, and it takes a tenth of the memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.json
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import from_json

from teravec.errors import InvalidArgument, LimitExceeded

__all__ = ["SMALL_BODY_BYTES", "Asked", "SearchBody", "read_body", "timeout_of"]

SMALL_BODY_BYTES = 64 << 10  # these are parsed in about a millisecond

Number = Annotated[float, Field(allow_inf_nan=False)]
_I64 = (1 << 63) - 1
_ROW = {"type": "array", "items": {"type": "number"}, "minItems": 1}
_ROWS = {"type": "array", "items": _ROW, "minItems": 1}
_VECTORS = WithJsonSchema({"anyOf": [_ROWS, _ROW, {"type": "null"}]})


class SearchBody(BaseModel):
    """Queries, as vectors or as ids of stored ones; k or radius; nprobe, recall or neither."""

    model_config = ConfigDict(extra="forbid", strict=True)

    queries: Annotated[
        list[Annotated[list[Number], Field(min_length=1)]] | None,
        Field(min_length=1, description="Vectors, each of d numbers; or one vector."),
        _VECTORS,
    ] = None
    query: Annotated[
        list[Annotated[list[Number], Field(min_length=1)]] | None,
        Field(min_length=1, description="The same, by another name."),
        _VECTORS,
    ] = None
    ids: Annotated[
        list[Annotated[int, Field(ge=0, le=_I64)]] | None,
        Field(min_length=1, description="Instead: ids of vectors, if the server has these."),
    ] = None
    k: Annotated[int | None, Field(ge=1, le=_I64, description="Results a query.")] = None
    radius: Annotated[Number | None, Field(description="Instead: all within it.")] = None
    nprobe: Annotated[int | None, Field(ge=1, le=_I64, description="Lists visited a query.")] = None
    recall: Annotated[Number | None, Field(gt=0, le=1, description="Instead: to aim at.")] = None
    candidates: Annotated[
        int | None,
        Field(ge=1, le=_I64, description="Vectors refined a query, with codes in two stages."),
    ] = None
    timeout_s: Annotated[Number, Field(gt=0, description="Deadline in seconds.")] = 10.0
    allow_partial: Annotated[bool, Field(description="Go without lists that nobody has.")] = False


@dataclass(frozen=True)
class Asked:
    """What a body asks for.

    Parameters
    ----------
    options : SearchBody
        All but the vectors.
    queries : ndarray of shape (nq, d), float32, optional
        None where ids are given instead.
    """

    options: SearchBody
    queries: npt.NDArray[np.float32] | None


# Types of a large body's fields; rows of numbers where they are vectors.
_TYPES: dict[str, pa.DataType] = {
    "queries": pa.list_(pa.list_(pa.float64())), "query": pa.list_(pa.list_(pa.float64())),
    "ids": pa.list_(pa.int64()), "k": pa.int64(), "radius": pa.float64(), "nprobe": pa.int64(),
    "recall": pa.float64(), "candidates": pa.int64(), "timeout_s": pa.float64(),
    "allow_partial": pa.bool_(),
}  # fmt: skip
_FLAT = re.compile(rb'"(queries|query)"\s*:\s*\[\s*[^\[\s]')
_TIMEOUT = re.compile(rb'"timeout_s"\s*:\s*(\d{1,9}(?:\.\d{0,9})?)')
_MARK = b"\xef\xbb\xbf"  # that some programs put before UTF-8


def read_body(data: bytes | bytearray, d: int, most_queries: int) -> Asked:
    """Read a search's body.

    Parameters
    ----------
    data : bytes-like
    d : int
        Dimensions, for the example that an error shows.
    most_queries : int
        More ids than that are refused before they are looked up.

    Raises
    ------
    InvalidArgument
        It is not JSON, or asks for what there is not; the message shows a body that works.
    LimitExceeded
    """
    if data[:3] == _MARK:
        data = data[3:]
    try:
        asked = (_read_small if len(data) <= SMALL_BODY_BYTES else _read_large)(data)
    except InvalidArgument as error:
        raise InvalidArgument(f"{error}; {_example(d)}") from error
    if asked.options.ids is not None:
        if asked.queries is not None:
            raise InvalidArgument("queries or ids expected, and not both")
        if len(asked.options.ids) > most_queries:
            raise LimitExceeded(
                f"queries: {len(asked.options.ids):,} asked for, this server takes at most "
                f"{most_queries:,}"
            )
    elif asked.queries is None:
        raise InvalidArgument(f"queries or ids expected, neither found; {_example(d)}")
    return asked


def timeout_of(data: bytes | bytearray) -> float:
    """The seconds that a body gives its request, looked for before it is read as JSON."""
    found = _TIMEOUT.search(data)
    return float(found[1]) if found else SearchBody.model_fields["timeout_s"].default


def _example(d: int) -> str:
    return f'send {{"queries": [[{d} numbers]], "k": 10}} with content-type: application/json'


def _read_small(data: bytes | bytearray) -> Asked:
    if not data.strip():
        raise InvalidArgument("the body is empty")
    try:
        content = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidArgument(f"the body is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise InvalidArgument(f"the body is {_kind(content)}; an object expected")
    for name in content:
        if name in _TYPES and data.count(b'"%s"' % name.encode()) > 1:
            raise InvalidArgument(f"{name} is given twice")
    for name in ("queries", "query"):
        rows = content.get(name)
        if isinstance(rows, list) and rows and not isinstance(rows[0], list):
            content[name] = [rows]  # one vector
    options = _checked(content)
    rows = _only_one(options.queries, options.query)
    return Asked(options, None if rows is None else _matrix(rows))


def _read_large(data: bytes | bytearray) -> Asked:
    types = dict(_TYPES)
    for found in _FLAT.finditer(data):
        types[found[1].decode()] = pa.list_(pa.float64())
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(pa.py_buffer(data)),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=pyarrow.json.ParseOptions(
                explicit_schema=pa.schema(types), newlines_in_values=True,
                unexpected_field_behavior="error",
            ),
            memory_pool=pa.system_memory_pool(),
        )  # fmt: skip
    except (pa.ArrowException, ValueError) as error:
        text = str(error).removeprefix("JSON parse error: ").removesuffix(" in row 0")
        raise InvalidArgument(f"the body is not what is expected ({text})") from None
    if table.num_rows != 1:
        raise InvalidArgument(f"{table.num_rows} JSON objects found; one expected")
    columns = {name: table.column(name).chunk(0) for name in types}
    content = {
        name: column[0].as_py() for name, column in columns.items()
        if name not in ("queries", "query", "ids") and column.null_count == 0
    }  # fmt: skip
    ids = columns["ids"]
    if ids.null_count == 0:
        content["ids"] = ids.flatten().to_pylist()
    rows = _only_one(*(None if (c := columns[n]).null_count else c for n in ("queries", "query")))
    return Asked(_checked(content), None if rows is None else _arrow_matrix(rows))


def _only_one(queries: Any, query: Any) -> Any:
    if queries is not None and query is not None:
        raise InvalidArgument("queries and query found; one of them expected")
    return queries if query is None else query


def _checked(content: dict[str, Any]) -> SearchBody:
    try:
        return SearchBody.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            fields = ", ".join(SearchBody.model_fields)
            raise InvalidArgument(f"{place[:40]}: no such field; {fields} expected") from None
        raise InvalidArgument(f"{place}: {first['msg']}") from None


def _matrix(rows: list[list[float]]) -> npt.NDArray[np.float32]:
    if len({len(row) for row in rows}) != 1:
        raise InvalidArgument("queries of one length expected")
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
        return np.array(rows, np.float32)


def _arrow_matrix(rows: pa.ListArray) -> npt.NDArray[np.float32]:
    """One vector, or rows of them, as a table."""
    vectors = rows.flatten()
    lengths = {len(vectors)}
    if pa.types.is_list(vectors.type):
        if vectors.null_count:
            raise InvalidArgument("queries: null found; numbers expected")
        lengths = set(np.unique(np.diff(vectors.offsets.to_numpy())).tolist())
        vectors = vectors.flatten()
    if len(lengths) != 1:
        raise InvalidArgument("queries of one length expected, none or several found")
    if vectors.null_count:
        raise InvalidArgument("queries: null found; numbers expected")
    if not (length := lengths.pop()):
        raise InvalidArgument("queries: an empty vector found")
    with np.errstate(over="ignore"):
        table: npt.NDArray[np.float32] = vectors.to_numpy().astype(np.float32)
        return table.reshape(-1, length)


def _kind(content: object) -> str:
    kinds = {list: "an array", str: "a text", bool: "a boolean", type(None): "null"}
    return kinds.get(type(content), "a number")
