"""Answers to requests, as a type and as frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from teravec.errors import ProtocolError
from teravec.serving.wire.arrow_stream import read_table, write_table
from teravec.serving.wire.error_codes import error_of_header
from teravec.serving.wire.frames import Array, Parts, decode, encode_parts
from teravec.serving.wire.requests import Wanted, find_array

__all__ = ["Answer"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Answer:
    """Results, query after query, best first.

    Parameters
    ----------
    version : str
        Version of the index that was searched.
    counts : ndarray of shape (nq,), uint32
        Results of each query.
    distances, ids : ndarray of shape (sum of counts,), float32 and int64
    missing : float
        Share of the (query, list) pairs' bytes that no live server could scan; 0 if complete.
    errors : ndarray of float32, optional
        For an answer of candidates: the error bound of each distance. Distances are then
        estimates (lower is closer), ids are places, and results are unordered.
    number : int, optional
        The version's number. Servers of earlier releases do not tell it.
    table : pyarrow.Table, optional
        A row for each result, with the columns that were asked for. If ids are texts, they are its
        first column, ``id``.
    """

    version: str
    counts: npt.NDArray[np.uint32]
    distances: Float32
    ids: Int64
    missing: float = 0.0
    errors: Float32 | None = None
    number: int | None = None
    table: Any = None

    @classmethod
    def of_top_k(cls, version: str, distances: Float32, ids: Int64) -> Answer:
        """Make an answer from tables of shape (nq, k), leaving out results with id -1."""
        held = ids >= 0
        if held.all():
            counts = np.full(len(ids), ids.shape[1], np.uint32)
            return cls(version, counts, distances.reshape(-1), ids.reshape(-1))
        return cls(version, held.sum(axis=1).astype(np.uint32), distances[held], ids[held])

    @classmethod
    def of_numbers(cls, version: str, numbers: Int64) -> Answer:
        """Make an answer of numbers (n,), such as counts or places, as the ids of one row."""
        distances = np.zeros(len(numbers), np.float32)
        return cls(version, np.array([len(numbers)], np.uint32), distances, numbers)

    @property
    def nbytes(self) -> int:
        """Bytes of distances, ids and columns."""
        columns = 0 if self.table is None else self.table.nbytes
        return int(self.distances.nbytes + self.ids.nbytes + columns)

    @property
    def lims(self) -> Int64:
        """Offsets of the queries' results: query i has [lims[i], lims[i + 1])."""
        return np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])

    def top_k(self, k: int, worst: float) -> tuple[Float32, Int64]:
        """Return tables of shape (nq, k): missing results have id -1 and distance ``worst``."""
        shape = len(self.counts), k
        if len(self.ids) == shape[0] * k:
            return self.distances.reshape(shape), self.ids.reshape(shape)
        filled = np.arange(k) < self.counts[:, None]
        distances = np.full(filled.shape, worst, np.float32)
        ids = np.full(filled.shape, -1, np.int64)
        distances[filled], ids[filled] = self.distances, self.ids
        return distances, ids

    def split(self, rows: Sequence[int]) -> list[Answer]:
        """Split into answers to ``rows[0]``, ``rows[1]``, ... queries."""
        stops = np.cumsum(rows).tolist()
        ends = self.lims[[0, *stops]].tolist()
        parts = [slice(*part) for part in pairwise(ends)]
        return [
            Answer(
                self.version,
                self.counts[start:stop],
                self.distances[part],
                self.ids[part],
                self.missing,
                None if self.errors is None else self.errors[part],
                self.number,
                None
                if self.table is None
                else self.table.slice(part.start, part.stop - part.start),
            )
            for (start, stop), part in zip(pairwise([0, *stops]), parts, strict=True)
        ]

    @classmethod
    def reordered(cls, parts: Sequence[Answer], rows: Int64) -> Answer:
        """Join answers of which each result row belongs to the query of a number.

        Parameters
        ----------
        parts : sequence of Answer
            Of one version; at least one.
        rows : ndarray of shape (nq,), int64
            The queries of all parts' rows, 0 to nq - 1 in any order.
        """
        counts = np.concatenate([part.counts for part in parts])
        order = np.argsort(np.repeat(rows, counts), kind="stable")
        in_order = np.empty(len(counts), np.uint32)
        in_order[rows] = counts
        first, table = parts[0], None
        if first.table is not None:
            table = pa.concat_tables([part.table for part in parts]).take(pa.array(order))
        weights = np.array([max(1, len(part.counts)) for part in parts])
        missing = float(np.average([part.missing for part in parts], weights=weights))
        distances = np.concatenate([part.distances for part in parts])[order]
        ids = np.concatenate([part.ids for part in parts])[order]
        return cls(
            first.version, in_order, distances, ids, missing, number=first.number, table=table
        )

    def check(self, nq: int, wanted: Wanted, larger_is_closer: bool) -> None:
        """Raise ProtocolError if this cannot be the answer to a request."""
        most = wanted.k
        if len(self.counts) != nq or (most is not None and (self.counts > most).any()):
            raise ProtocolError(f"{len(self.counts)} rows of results found, {nq} expected")
        values = -self.distances if larger_is_closer else self.distances
        if len(values) and (not np.isfinite(values).all() or self.ids.min() < 0):
            raise ProtocolError("a result has no finite distance, or a negative id")
        if wanted.radius is not None and len(values):
            radius = -wanted.radius if larger_is_closer else wanted.radius
            if values.max() > radius:
                raise ProtocolError("a result lies outside the radius")
        descends = values[1:] < values[:-1]
        if descends.any():
            first = np.zeros(len(values) + 1, bool)  # of a query's results
            first[self.lims] = True
            descends &= ~first[1:-1]
        if descends.any():
            raise ProtocolError("results are not ordered, best first")

    def encode(self) -> bytes:
        """Return the answer as a frame."""
        return b"".join(self.encode_parts())

    def encode_parts(self) -> Parts:
        """Return the answer as a frame in parts, which share the arrays' memory."""
        arrays: dict[str, Array] = {
            "counts": self.counts,
            "distances": self.distances,
            "ids": self.ids,
        }
        if self.errors is not None:
            arrays["errors"] = self.errors
        if self.table is not None:
            arrays["table"] = write_table(self.table)
        return encode_parts(self.header, arrays)

    @property
    def header(self) -> dict[str, Any]:
        """What its frame says besides the arrays."""
        header: dict[str, Any] = {"version": self.version, "missing": self.missing}
        return header if self.number is None else header | {"number": self.number}

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Answer:
        """Read a frame; raises the frame's error, or ProtocolError if it is no answer."""
        header, arrays = decode(data)
        if "error" in header:
            raise error_of_header(header)
        counts = find_array(arrays, "counts", "u", 1)
        distances, ids = find_array(arrays, "distances", "f", 1), find_array(arrays, "ids", "i", 1)
        total, missing = int(counts.sum(dtype=np.uint64)), header.get("missing")
        errors = find_array(arrays, "errors", "f", 1) if "errors" in arrays else None
        if errors is not None and len(errors) != total:
            raise ProtocolError(f"{total} results counted, {len(errors)} errors found")
        if not total == len(distances) == len(ids):
            raise ProtocolError(f"{total} results counted, {len(distances)} and {len(ids)} found")
        if not isinstance(header.get("version"), str) or not isinstance(missing, int | float):
            raise ProtocolError("an answer without its version or its missing share")
        number = header.get("number")
        if number is not None and type(number) is not int:
            raise ProtocolError(f"version number {number!r} found; a whole number expected")
        table = None
        if (stream := arrays.get("table")) is not None:
            if stream.dtype != np.uint8 or stream.ndim != 1:
                raise ProtocolError("columns that are no bytes found")
            table = read_table(stream, total)
        return cls(header["version"], counts, distances, ids, missing, errors, number, table)
