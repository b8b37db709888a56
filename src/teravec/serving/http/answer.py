"""Answers as JSON, in pieces, so that each write is small whatever the answer's size."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from teravec.serving.wire.protocol import Answer

__all__ = ["Refusal", "SearchAnswer", "answer_pieces"]

_NUMBERS = 4096  # formatted at a time, in about a millisecond
_PIECE = 128 << 10  # characters


class Result(BaseModel):
    """Results of one query, best first."""

    ids: list[int] | list[str]
    distances: list[float]


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
    for start, stop in pairwise(answer.lims.tolist()):
        yield begin + '{"ids":['
        yield from _numbers(answer.ids[start:stop], quote)
        yield '],"distances":['
        yield from _numbers(answer.distances[start:stop])
        yield "]}"
        begin = ","
    begin = "" if len(answer.counts) else begin
    yield (
        f'{begin}],"version":"{answer.version}","number":{answer.number or 0},'
        f'"missing":{answer.missing!r},'
        f'"seconds":{seconds!r}}}'
    )


def _numbers(numbers: npt.NDArray[np.generic], quote: str = "") -> Iterator[str]:
    for start in range(0, len(numbers), _NUMBERS):
        some = numbers[start : start + _NUMBERS]
        texts = [f"{quote}{value!r}{quote}" for value in some.tolist()]
        if some.dtype.kind == "f":  # JSON has no infinities and no NaN
            texts = ["null" if text[-1] in "fn" else text for text in texts]
        yield ("," if start else "") + ",".join(texts)
