"""Searches in Arrow's IPC stream format: queries in, a table of results out.

Any language with an Arrow library is a client. The body is a stream of one column of vectors; the
options are parameters of the URL. Bodies are checked before Arrow reads them: it would expand
compressed buffers to whatever size they claim.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import ValidationError

from teravec.errors import InvalidArgument, LimitExceeded, TeravecError
from teravec.serving.http.body import Asked, SearchBody
from teravec.serving.wire.arrow_stream import check_stream
from teravec.serving.wire.protocol import Answer

__all__ = ["ARROW_TYPE", "arrow_pieces", "read_arrow"]

ARROW_TYPE = "application/vnd.apache.arrow.stream"
_OPTIONS = (
    "k",
    "radius",
    "nprobe",
    "recall",
    "candidates",
    "timeout_s",
    "allow_partial",
    "min_version",
    "filter",
    "columns",
)
_EXPECTED = "one column of lists of float16, float32 or float64 expected, all of one length"
_RESULTS = 16 << 10  # of a record batch
_COLUMNS = pa.schema(
    [
        pa.field("query", pa.int32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("id", pa.int64(), nullable=False),
        pa.field("distance", pa.float32(), nullable=False),
    ]
)


def read_arrow(body: bytes | bytearray, parameters: bytes, most_queries: int) -> Asked:
    """Read a search.

    Parameters
    ----------
    body : bytes-like
        An uncompressed IPC stream with one column: each value is a vector.
    parameters : bytes
        Of the URL: k or radius, nprobe, recall, candidates, timeout_s, allow_partial, min_version,
        filter as SQL text, and columns with commas between them.
    most_queries : int

    Raises
    ------
    InvalidArgument, LimitExceeded
    """
    options = _read_options(parameters)
    try:
        check_stream(memoryview(body))
        with pa.ipc.open_stream(pa.py_buffer(body)) as stream:
            return Asked(options, _read_queries(stream, most_queries))
    except TeravecError:
        raise
    except (pa.ArrowException, struct.error, OSError, ValueError, IndexError) as error:
        why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InvalidArgument(f"the body is no Arrow IPC stream ({why}); {_EXPECTED}") from None


def arrow_pieces(answer: Answer, seconds: float) -> Iterator[bytes]:
    """Yield an IPC stream of results (query, rank, id, distance, columns), some at a time.

    The schema's metadata has ``version``, ``number``, ``missing`` and ``seconds``.
    """
    metadata = {
        "number": str(answer.number or 0),
        "version": answer.version,
        "missing": repr(float(answer.missing)),
        "seconds": repr(seconds),
    }
    written, counts, starts = _Written(), answer.counts.astype(np.int64), answer.lims
    schema, table = _COLUMNS, answer.table
    for field in [] if table is None else table.schema:
        schema = schema.set(2, field) if field.name == "id" else schema.append(field)
    schema = schema.with_metadata(metadata)
    with pa.ipc.new_stream(pa.PythonFile(written, "w"), schema) as stream:
        for start in range(0, len(answer.ids), _RESULTS):
            stop = min(start + _RESULTS, len(answer.ids))
            first = int(np.searchsorted(starts, start, side="right")) - 1
            last = int(np.searchsorted(starts, stop, side="left"))
            query = np.repeat(np.arange(first, last, dtype=np.int32), counts[first:last])
            skipped = start - int(starts[first])
            query = query[skipped : skipped + stop - start]
            rank = np.arange(start, stop) - starts[query]
            columns = query, rank.astype(np.int32), answer.ids[start:stop]
            arrays = [pa.array(each) for each in (*columns, answer.distances[start:stop])]
            for name in [] if table is None else table.column_names:
                values = table[name].slice(start, stop - start).combine_chunks()
                if name == "id":
                    arrays[2] = values
                else:
                    arrays.append(values)
            stream.write_batch(pa.record_batch(arrays, schema=schema))
            yield written.take()
    yield written.take()


class _Written:
    """A file that Arrow writes to, emptied by ``take``."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(self._pieces[-1])

    def flush(self) -> None:
        """Do nothing: pieces are taken."""

    def close(self) -> None:
        """Do nothing: the last piece is taken afterwards."""

    def take(self) -> bytes:
        """Return and forget what was written."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


def _read_options(parameters: bytes) -> SearchBody:
    try:
        given = (
            parse_qsl(
                parameters.decode("ascii"),
                keep_blank_values=True,
                strict_parsing=True,
                max_num_fields=20,
            )
            if parameters
            else []
        )
    except ValueError:
        raise InvalidArgument("the URL's parameters cannot be read") from None
    names = [name for name, _ in given]
    for name in names:
        if name not in _OPTIONS or names.count(name) > 1:
            raise InvalidArgument(
                f"{name[:40]!r} found in the URL; {', '.join(_OPTIONS)} expected, each once"
            )
    try:
        return SearchBody.model_validate_strings(dict(given))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidArgument(f"{place}: {first['msg']}") from None


def _read_queries(stream: Any, most_queries: int) -> npt.NDArray[np.float32]:
    if len(stream.schema) != 1:
        raise InvalidArgument(f"{len(stream.schema)} columns found; {_EXPECTED}")
    kind = stream.schema.field(0).type
    is_list = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not pa.types.is_floating(kind.value_type):
        raise InvalidArgument(f"a column of {str(kind)[:80]} found; {_EXPECTED}")
    tables, rows = [], 0
    for batch in stream:
        rows += batch.num_rows
        if rows > most_queries:
            raise LimitExceeded(
                f"queries: {rows:,} asked for, this server takes at most {most_queries:,} "
                "(--max-queries)"
            )
        batch.validate(full=True)
        if batch.num_rows:
            tables.append(_matrix(batch.column(0)))
    if not tables:
        raise InvalidArgument("no query found in the body")
    if len({table.shape[1] for table in tables}) != 1:
        raise InvalidArgument("queries of one length expected")
    return np.concatenate(tables)


def _matrix(vectors: Any) -> npt.NDArray[np.float32]:
    values = vectors.flatten()
    if vectors.null_count or values.null_count:
        raise InvalidArgument("a query, or a number of one, is null")
    if pa.types.is_list(vectors.type):
        lengths = np.unique(np.diff(vectors.offsets.to_numpy()))
        if len(lengths) != 1:
            raise InvalidArgument("queries of one length expected")
    if not len(values):
        raise InvalidArgument("a query has no numbers")
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
        numbers: npt.NDArray[np.float32] = np.array(values.to_numpy(), np.float32)
    return numbers.reshape(len(vectors), -1)
