"""Answers as JSON, in pieces, so that each write is small whatever the answer's size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from teravec.bulk.formats.tables import json_values
from teravec.serving.wire.protocol import Answer

__all__ = ["Refusal", "SearchAnswer", "answer_pieces"]

_NUMBERS = 4096  # formatted at a time, in about a millisecond
_VALUES = 256  # of a column
_PIECE = 128 << 10  # characters


class Result(BaseModel):
    """Results of one query, best first."""

    ids: list[int] | list[str]
    distances: list[float]
    columns: dict[str, list[Any]] | None = Field(
        None, description="By name, a value for each id; if columns were asked for."
    )


class SearchAnswer(BaseModel):
    """Results of every query."""

    results: list[Result]
    version: str = Field(description="Version of the index: a checksum.")
    number: int = Field(description="The version's number.")
    missing: float = Field(description="Share of the bytes to scan that was left out.")
    seconds: float = Field(description="Time taken here.")


class Refusal(BaseModel):
    """An error, instead of an answer."""

    error: str
    message: str
    request_id: str = Field("", description="Under which the servers' logs have it.")


def answer_pieces(answer: Answer, seconds: float, string_ids: bool = False) -> Iterator[bytes]:
    """Yield the JSON of a ``SearchAnswer`` in pieces of about 128 KiB.

    With ``string_ids``, ids are strings, which no JSON reader rounds.
    """
    texts: list[str] = []
    length = 0
    for text in _texts(answer, seconds, '"' if string_ids else ""):
        texts.append(text)
        length += len(text)
        if length >= _PIECE:
            yield "".join(texts).encode()
            texts, length = [], 0
    yield "".join(texts).encode()


def _texts(answer: Answer, seconds: float, quote: str) -> Iterator[str]:
    begin = '{"results":['
    columns = {} if answer.table is None else dict(_columns(answer.table))
    texts = columns.pop("id", None)
    for start, stop in pairwise(answer.lims.tolist()):
        yield begin + '{"ids":['
        if texts is None:
            yield from _numbers(answer.ids[start:stop], quote)
        else:
            yield from _values(texts.slice(start, stop - start))
        yield '],"distances":['
        yield from _numbers(answer.distances[start:stop])
        yield "]"
        for number, (name, column) in enumerate(columns.items()):
            before = "," if number else ',"columns":{'
            yield f"{before}{json.dumps(name, ensure_ascii=False)}:["
            yield from _values(column.slice(start, stop - start))
            yield "]"
        yield "}}" if columns else "}"
        begin = ","
    begin = "" if len(answer.counts) else begin
    yield (
        f'{begin}],"version":"{answer.version}","number":{answer.number or 0},'
        f'"missing":{answer.missing!r},'
        f'"seconds":{seconds!r}}}'
    )


def _columns(table: Any) -> Iterator[tuple[str, Any]]:
    yield from zip(table.column_names, table.columns, strict=True)


def _values(column: Any) -> Iterator[str]:
    """Yield a column's values, separated by commas, some at a time."""
    for start in range(0, len(column), _VALUES):
        values = json_values(column.slice(start, _VALUES))
        texts = [json.dumps(value, ensure_ascii=False) for value in values]
        yield ("," if start else "") + ",".join(texts)


def _numbers(numbers: npt.NDArray[np.generic], quote: str = "") -> Iterator[str]:
    for start in range(0, len(numbers), _NUMBERS):
        some = numbers[start : start + _NUMBERS]
        texts = [f"{quote}{value!r}{quote}" for value in some.tolist()]
        if some.dtype.kind == "f":  # JSON has no infinities and no NaN
            texts = ["null" if text[-1] in "fn" else text for text in texts]
        yield ("," if start else "") + ",".join(texts)
