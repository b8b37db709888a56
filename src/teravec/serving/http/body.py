"""Parsing the JSON body of a search.

A large body is parsed in pieces: its array is cut out, and its text is converted some rows at a
time. No step then holds Python's lock for long, so probes are answered in between, and only a small
part exists as Python objects at any time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema
from pydantic_core import from_json

from teravec.errors import InvalidArgument, LimitExceeded
from teravec.filters.tree import MOST_CHARACTERS
from teravec.serving.wire.protocol import LARGEST_VERSION

__all__ = [
    "ALLOW_PARTIAL",
    "MIN_VERSION",
    "SMALL_BODY_BYTES",
    "Asked",
    "Columns",
    "Number",
    "SearchBody",
    "describe_error",
    "read_body",
    "timeout_of",
]

SMALL_BODY_BYTES = 64 << 10  # these are parsed in about a millisecond

Number = Annotated[float, Field(allow_inf_nan=False)]
_I64 = (1 << 63) - 1
_Id = Annotated[int, Field(ge=0, le=_I64)] | Annotated[str, Field(pattern=r"^[0-9]{1,19}$")]
_ROW = {"type": "array", "items": {"type": "number"}, "minItems": 1}
_ROWS = {"type": "array", "items": _ROW, "minItems": 1}
_VECTORS = WithJsonSchema({"anyOf": [_ROWS, _ROW, {"type": "null"}]})
Columns = list[str] | str | None
ALLOW_PARTIAL = Annotated[bool, Field(description="Skip lists without a live owner.")]
MIN_VERSION = Annotated[
    int | None,
    Field(
        ge=0,
        le=LARGEST_VERSION,
        description="Number of the oldest version that may answer; waits until the deadline.",
    ),
]
_FILTER = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string", "minLength": 1, "maxLength": MOST_CHARACTERS},
            {"type": "array", "items": {}, "minItems": 2},
            {"type": "null"},
        ]
    }
)


class SearchBody(BaseModel):
    """Queries, as vectors or as ids of indexed vectors; k or radius; nprobe, recall or neither."""

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
        list[_Id] | None,
        Field(
            min_length=1,
            description="Instead: ids of vectors (needs --vectors), as numbers or as strings of "
            "digits.",
        ),
    ] = None
    string_ids: Annotated[
        bool,
        Field(
            description="Return ids as strings, for JSON readers that round numbers above 2^53, "
            "such as JavaScript's."
        ),
    ] = False
    k: Annotated[int | None, Field(ge=1, le=_I64, description="Results per query.")] = None
    radius: Annotated[Number | None, Field(description="Instead: all within this.")] = None
    nprobe: Annotated[int | None, Field(ge=1, le=_I64, description="Lists per query.")] = None
    recall: Annotated[Number | None, Field(gt=0, le=1, description="Instead: the target.")] = None
    candidates: Annotated[
        int | None,
        Field(ge=1, le=_I64, description="Vectors refined per query, for codes in two stages."),
    ] = None
    timeout_s: Annotated[Number, Field(gt=0, description="Deadline in seconds.")] = 10.0
    allow_partial: ALLOW_PARTIAL = False
    min_version: MIN_VERSION = None
    filter: Annotated[
        str | list[Any] | None,
        Field(
            description="Only rows that pass: a condition on columns in SQL, or as a tree; see "
            "docs/filters.md."
        ),
        _FILTER,
    ] = None
    columns: Annotated[
        Columns,
        Field(
            description="Columns of the index to return with each result: names, or one text with "
            'commas, or "all".'
        ),
    ] = None


@dataclass(frozen=True)
class Asked:
    """A parsed body.

    Parameters
    ----------
    options : SearchBody
        Everything but the vectors.
    queries : ndarray of shape (nq, d), float32, optional
        None where ids are given instead.
    """

    options: SearchBody
    queries: npt.NDArray[np.float32] | None


_Read = tuple[SearchBody, npt.NDArray[np.float32] | None]

_ROWS_TYPE = TypeAdapter(list[Annotated[list[Number], Field(min_length=1)]])
_NUMBERS_TYPE = TypeAdapter(list[Number])
_IDS_TYPE = TypeAdapter(list[_Id])

_PIECE_BYTES = 16 << 10  # converted at a time, in some milliseconds
# Quotes within strings are escaped, so a quoted name before a colon is a name.
_ARRAY = re.compile(rb'"(queries|query|ids)"\s*:\s*(\[\s*\[|\[)')
_ROWS_END = re.compile(rb"\]\s*\]")
_FILTER_BYTES = 512 << 10  # beside queries, with a long filter
_COMMA = re.compile(rb"\s*,")
_TIMEOUT = re.compile(rb'"timeout_s"\s*:\s*(\d{1,9}(?:\.\d{0,9})?)')
_MARK = b"\xef\xbb\xbf"  # byte order mark, which some programs write before UTF-8


def read_body(
    data: bytes | bytearray,
    d: int,
    most_queries: int,
    *,
    small_bytes: int = SMALL_BODY_BYTES,
    piece_bytes: int = _PIECE_BYTES,
) -> Asked:
    """Parse a search's body.

    Parameters
    ----------
    data : bytes-like
    d : int
        Dimensions, for the example that an error shows.
    most_queries : int
        A body with more queries is refused before they are converted.
    small_bytes : int
        A body up to this size is converted at once, a larger one in pieces.
    piece_bytes : int
        Converted at a time.

    Raises
    ------
    InvalidArgument
        The body is not JSON, or not a search; the message shows an example.
    LimitExceeded
    """
    if data[:3] == _MARK:
        data = data[3:]
    try:
        options, queries = (
            _read_small(data)
            if len(data) <= small_bytes
            else _read_large(data, most_queries, piece_bytes)
        )
        if (options.ids is None) == (queries is None):
            raise InvalidArgument("queries or ids expected, and not both")
    except LimitExceeded:
        raise
    except InvalidArgument as error:
        example = f'{{"queries": [[{d} numbers]], "k": 10}}'
        raise InvalidArgument(
            f"{error}; send {example} with content-type: application/json"
        ) from error
    _check_count(len(options.ids or ()), most_queries, "ids")
    return Asked(options, queries)


def timeout_of(data: bytes | bytearray) -> float:
    """Find a body's timeout in seconds, before the body is parsed."""
    found = _TIMEOUT.search(data)
    return float(found[1]) if found else SearchBody.model_fields["timeout_s"].default


def _read_small(data: bytes | bytearray) -> _Read:
    options = _options(data)
    if options.queries is not None and options.query is not None:
        raise InvalidArgument("queries and query found; one of them expected")
    rows = options.queries if options.query is None else options.query
    return options, None if rows is None else _matrix(rows)


def _read_large(data: bytes | bytearray, most_queries: int, piece_bytes: int) -> _Read:
    """Cut out the one large array, parse the rest as a small body, then the array in pieces."""
    found = _ARRAY.search(data)
    if found is None:
        raise InvalidArgument("a JSON object with queries or ids expected")
    name, nested, start = found[1].decode(), len(found[2]) > 1, found.start(2) + 1
    end = _end(data, start, nested=nested)
    rest = data[: start - 1] + b"null" + data[end + 1 :]
    if len(rest) > (_FILTER_BYTES if b'"filter"' in rest else SMALL_BODY_BYTES):
        raise InvalidArgument(f"{len(rest):,} bytes found beside {name}")
    options = _options(rest)
    if options.queries is not None or options.query is not None:
        raise InvalidArgument("queries or query or ids expected, and one of them only")
    if name == "ids":
        _check_count(data.count(b",", start, end) + 1, most_queries, name)
        options.ids = _validated(_IDS_TYPE, data[start:end], name, 0)
        return options, None
    if nested:
        _check_count(data.count(b"[", start, end), most_queries, name)
    pieces = _rows_by_pieces if nested else _numbers_by_pieces
    return options, pieces(data, name, (start, end), piece_bytes)


def _end(data: bytes | bytearray, start: int, *, nested: bool) -> int:
    """Return where an array of numbers, or of rows of them, ends: at its closing bracket."""
    if not nested:
        end = data.find(b"]", start)
    else:
        closing = _ROWS_END.search(data, start)
        end = -1 if closing is None else closing.end() - 1
    if end < start:
        raise InvalidArgument("a JSON object with queries or ids expected")
    return end


def _rows_by_pieces(
    data: bytes | bytearray, name: str, place: tuple[int, int], piece_bytes: int
) -> npt.NDArray[np.float32]:
    """Parse rows of numbers between two positions of the text: ``[1, 2], [3, 4]``."""
    start, stop = place
    tables: list[npt.NDArray[np.float32]] = []
    while True:
        cut = data.find(b"]", start + piece_bytes, stop) + 1 or stop
        rows = _validated(_ROWS_TYPE, data[start:cut], name, sum(map(len, tables)))
        tables.append(_matrix(rows))
        if tables[-1].shape[1] != tables[0].shape[1]:
            raise InvalidArgument("queries of one length expected")
        comma = _COMMA.match(data, cut, stop)
        if comma is None:
            if data[cut:stop].strip():
                raise InvalidArgument(f"{name}: rows of numbers expected")
            return np.concatenate(tables)
        start = comma.end()


def _numbers_by_pieces(
    data: bytes | bytearray, name: str, place: tuple[int, int], piece_bytes: int
) -> npt.NDArray[np.float32]:
    """Parse one vector between two positions of the text: ``1, 2, 3``."""
    start, stop = place
    parts: list[npt.NDArray[np.float32]] = []
    while start <= stop:
        cut = data.find(b",", start + piece_bytes, stop)
        cut = stop if cut < 0 else cut
        parts.append(_matrix([_validated(_NUMBERS_TYPE, data[start:cut], name, 0)]))
        start = cut + 1
    return np.concatenate(parts, axis=1)


def _validated(kind: TypeAdapter[Any], text: bytes | bytearray, name: str, rows_before: int) -> Any:
    """Parse a piece; an error's position counts the rows of the pieces before it."""
    try:
        numbers = kind.validate_json(b"[" + text + b"]", strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        row, *inside = first["loc"] or ("",)
        if isinstance(row, int):
            row += rows_before
        place = ".".join(str(part) for part in (name, row, *inside) if part != "")
        raise InvalidArgument(f"{place}: {first['msg']}") from None
    if not numbers:
        raise InvalidArgument(f"{name}: a number expected, none found")
    return numbers


def _options(data: bytes | bytearray) -> SearchBody:
    """Parse and check a small body."""
    if not data.strip():
        raise InvalidArgument("the body is empty")
    try:
        content = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidArgument(f"the body is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise InvalidArgument(f"the body is {_kind(content)}; an object expected")
    for name in content:
        quoted = b'"%b"' % name.encode()
        if name not in SearchBody.model_fields or data.count(quoted) < 2:
            continue
        if len(re.findall(quoted + rb"\s*:", data)) > 1:  # others are values
            raise InvalidArgument(f"{name} is given twice")
    for name in ("queries", "query"):
        rows = content.get(name)
        if isinstance(rows, list) and rows and not isinstance(rows[0], list):
            content[name] = [rows]  # one vector
    try:
        return SearchBody.model_validate(content)
    except ValidationError as error:
        raise InvalidArgument(describe_error(error, SearchBody)) from None


def describe_error(error: ValidationError, model: type[BaseModel]) -> str:
    """Tell the first fault of a body."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{place[:40]}: no such field; {', '.join(model.model_fields)} expected"
    return f"{place}: {first['msg']}"


def _matrix(rows: list[list[float]]) -> npt.NDArray[np.float32]:
    if len({len(row) for row in rows}) != 1:
        raise InvalidArgument("queries of one length expected")
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
        return np.array(rows, np.float32)


def _check_count(queries: int, most: int, name: str) -> None:
    if queries > most:
        raise LimitExceeded(
            f"{name}: {queries:,} asked for, this server takes at most {most:,} (--max-queries)"
        )


def _kind(content: object) -> str:
    kinds = {list: "an array", str: "a text", bool: "a boolean", type(None): "null"}
    return kinds.get(type(content), "a number")
