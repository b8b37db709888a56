"""Rows and columns in answers, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from teravec.errors import InvalidArgument, LimitExceeded
from teravec.index.opened import OpenedIndex
from teravec.search.rows import RowReader, choose_columns, get_rows, label, rows_of_results
from teravec.serving.server.served import ServedIndex
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.protocol import Answer, GetRequest

__all__ = ["BoundedRows", "add_columns", "answer_get", "chosen_columns"]

Int64 = npt.NDArray[np.int64]

_PIECE_ROWS = 256  # each may cost a chunk of some 64 KiB of values
# While columns are read, put in order and written there are up to five copies of them, and 16 MiB
# of chunks: no more than a piece of an answer may take (``deploy.memory_bound``).
_COLUMN_BYTES = 16 << 20


class BoundedRows:
    """Reads rows some at a time, and no more bytes than an answer may have.

    Parameters
    ----------
    reader : RowReader
    limits : Limits
    check : callable
        Called between pieces; may raise to end the work.
    piece_rows : int
        Rows that are read together.
    """

    def __init__(
        self,
        reader: RowReader,
        limits: Limits,
        check: Callable[[], None],
        piece_rows: int = _PIECE_ROWS,
    ) -> None:
        self._reader, self._check, self._piece_rows = reader, check, piece_rows
        self._most_bytes = min(limits.answer_bytes, _COLUMN_BYTES)

    @property
    def opened(self) -> OpenedIndex:
        """The index's manifest."""
        return self._reader.opened

    def find(self, ids: Int64, list_nos: Int64 | None) -> Int64:
        """Find rows."""
        return self._reader.find(ids, list_nos)

    def take(self, places: Int64, names: Sequence[str], *, vectors: bool) -> Any:
        """Read rows; raises LimitExceeded if they are too large."""
        distinct, which = np.unique(places, return_inverse=True)

        def read(start: int) -> Any:
            piece = distinct[start : start + self._piece_rows]
            return self._reader.take(piece, names, vectors=vectors)

        table = self._gather(read, len(distinct))
        if np.array_equal(which, np.arange(len(which))):
            return table
        # Large rows may be results of many queries.
        return self._gather(
            lambda start: table.take(pa.array(which[start : start + self._piece_rows])), len(which)
        )

    def _gather(self, read: Callable[[int], Any], rows: int) -> Any:
        """Concatenate pieces while they are no larger than an answer may be."""
        pieces, size = [], 0
        for start in range(0, max(1, rows), self._piece_rows):
            self._check()
            pieces.append(read(start))
            size += pieces[-1].nbytes
            if size > self._most_bytes:
                raise LimitExceeded(
                    f"columns of {rows:,} rows take more than the {self._most_bytes:,} bytes that "
                    "an answer has room for; ask for fewer rows, or fewer columns"
                )
        return pa.concat_tables(pieces)


def chosen_columns(index: ServedIndex, columns: Sequence[str]) -> list[str]:
    """Return the names of columns that a request asks for, or raise InvalidArgument."""
    return choose_columns(index.steps.opened, columns) if columns else []


def add_columns(
    answer: Answer,
    reader: RowReader,
    names: Sequence[str],
    list_nos: Int64 | None,
    *,
    vectors: bool,
) -> Answer:
    """Return a search's answer with columns of its results, found in the lists it visited."""
    return replace(
        answer, table=rows_of_results(reader, answer.ids, list_nos, names, vectors=vectors)
    )


def answer_get(index: ServedIndex, reader: RowReader, request: GetRequest) -> Answer:
    """Answer a request for rows by id.

    Raises
    ------
    InvalidArgument
        Texts for an index whose ids are numbers, or no such column.
    LimitExceeded
    """
    names = chosen_columns(index, ["all"] if request.columns is None else request.columns)
    if request.texts is None:
        found, table = _get_numbers(reader, request.row_ids, names, vectors=request.vectors)
    elif index.manifest.text_ids is None:
        raise InvalidArgument("ids: texts found; the index's ids are numbers")
    else:
        _, found, table = get_rows(reader, request.texts, names, vectors=request.vectors)
    return replace(
        Answer.of_numbers(index.version, found), table=table if table.num_columns else None
    )


def _get_numbers(
    reader: RowReader, ids: Int64, names: Sequence[str], *, vectors: bool
) -> tuple[Int64, Any]:
    """Return positions of the ids that a row has, and their rows; texts are the column ``id``."""
    wanted, at = np.unique(ids, return_inverse=True)
    places = reader.find(wanted, None)[at]
    found = np.flatnonzero(places >= 0)
    text = reader.opened.manifest.text_ids
    table = reader.take(
        places[found], list(names) if text is None else [text, *names], vectors=vectors
    )
    labels = [*([] if text is None else ["id"]), *map(label, names)]
    return found, table.rename_columns([*labels, *(["vector"] if vectors else [])])
