"""POST /get: rows by id, as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from teravec.bulk.formats.tables import json_values
from teravec.errors import InvalidArgument
from teravec.serving.http.body import ALLOW_PARTIAL, MIN_VERSION, Columns, Number, describe_error
from teravec.serving.wire.protocol import Answer, GetRequest
from teravec.sources import parse_columns

__all__ = ["GET_BYTES", "GetBody", "RowsAnswer", "read_get", "rows_pieces"]

GET_BYTES = 256 << 10
"""Largest body: it is parsed at once."""

_DIGITS = re.compile("[0-9]{1,19}")
_PIECE_ROWS = 256


class GetBody(BaseModel):
    """Ids, and which columns of their rows to return."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ids: Annotated[
        list[int | str],
        Field(
            min_length=1,
            description="Numbers, or strings of digits; texts if the index's ids are texts.",
        ),
    ]
    columns: Annotated[
        Columns, Field(description="Names of columns, or one text with commas; all if not given.")
    ] = None
    vectors: Annotated[bool, Field(description="Return the vectors too.")] = False
    string_ids: Annotated[bool, Field(description="Return ids as strings.")] = False
    timeout_s: Annotated[Number, Field(gt=0, description="Deadline in seconds.")] = 10.0
    allow_partial: ALLOW_PARTIAL = False
    min_version: MIN_VERSION = None


class RowsAnswer(BaseModel):
    """Rows in the order of the ids; ids that no row has are left out."""

    rows: list[dict[str, Any]] = Field(description="Each with its id, and the columns by name.")
    version: str = Field(description="Version of the index: a checksum.")
    number: int = Field(description="The version's number.")
    missing: float = Field(description="Share of the bytes to read that was left out.")
    seconds: float = Field(description="Time taken here.")


def read_get(data: bytes | bytearray, *, text_ids: bool) -> tuple[GetBody, GetRequest]:
    """Parse a body; ``text_ids`` tells whether the index's ids are texts.

    Raises
    ------
    InvalidArgument
    """
    try:
        content = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidArgument(f"the body is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise InvalidArgument('an object expected: send {"ids": [1, 2], "columns": ["title"]}')
    try:
        body = GetBody.model_validate(content)
    except ValidationError as error:
        raise InvalidArgument(describe_error(error, GetBody)) from None
    numbers, texts = np.empty(0, np.int64), None
    if text_ids:
        texts = [each for each in body.ids if isinstance(each, str)]
        if len(texts) < len(body.ids):
            raise InvalidArgument("ids: numbers found; the index's ids are texts")
    else:
        numbers = np.array([_number(each) for each in body.ids], np.int64)
    return body, GetRequest(
        numbers,
        texts,
        None if body.columns is None else list(parse_columns(body.columns or None)),
        body.vectors,
        float(body.timeout_s),
        body.allow_partial,
        min_version=body.min_version,
    )


def _number(given: int | str) -> int:
    if isinstance(given, str) and not _DIGITS.fullmatch(given):
        raise InvalidArgument(f"ids: {given[:40]!r} found; the index's ids are numbers")
    number = int(given)
    if not 0 <= number < 1 << 63:
        raise InvalidArgument(f"ids: {number} found; 0 to less than 2^63 expected")
    return number


def rows_pieces(body: GetBody, answer: Answer, seconds: float) -> Iterator[bytes]:
    """Yield the JSON of a ``RowsAnswer``, some rows at a time."""
    begin, table = '{"rows":[', answer.table
    for start in range(0, len(answer.ids), _PIECE_ROWS):
        at = answer.ids[start : start + _PIECE_ROWS].tolist()
        ids: list[Any] = [body.ids[position] for position in at]
        if body.string_ids:
            ids = [str(each) for each in ids]
        columns = {"id": ids}
        for name in [] if table is None else table.column_names:
            columns[name] = json_values(table[name].slice(start, len(at)))
        names = list(columns)
        rows = (
            dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)
        )
        yield (begin + ",".join(json.dumps(row, ensure_ascii=False) for row in rows)).encode()
        begin = ","
    begin = "" if len(answer.ids) else begin
    yield (
        f'{begin}],"version":"{answer.version}","number":{answer.number or 0},'
        f'"missing":{answer.missing!r},"seconds":{seconds!r}}}'
    ).encode()
