"""The largest value of a column that was read, from which on the next read goes on.

Rows may come later with the same value, so the next read begins with it, not after it. A digest of
the rows that have it tells whether any came.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import xxhash

from teravec.errors import InvalidSource

__all__ = ["Watermark", "Watermarks", "value_of"]

Watermarks = dict[str, dict[str, Any]]
"""Watermarks by the digest of their query, as a manifest has them."""

_KINDS: dict[str, Any] = {
    "int": int,
    "float": float,
    "decimal": Decimal,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "text": str,
}
_MOST_TIES = 10_000  # rows with the largest value that are digested


@dataclass(frozen=True)
class Watermark:
    """The largest value so far.

    Parameters
    ----------
    kind, text : str
        The value; "" if there is none yet.
    ties : int
        Rows that have it; 0 if there are too many to digest.
    digest : int
        Sum of the hashes of those rows, so that their order does not matter.
    """

    kind: str = ""
    text: str = ""
    ties: int = 0
    digest: int = 0

    @property
    def value(self) -> Any:
        """The value, comparable; None if there is none."""
        return _KINDS[self.kind](self.text) if self.kind else None

    def joined(self, other: Watermark) -> Watermark:
        """Return the watermark of the rows of both."""
        ours, theirs = self.value, other.value
        if ours is None or theirs is None:
            return self if theirs is None else other
        if ours != theirs:
            return self if ours > theirs else other
        if not self.ties or not other.ties or self.ties + other.ties > _MOST_TIES:
            return replace(self, ties=0, digest=0)
        digest = (self.digest + other.digest) % (1 << 64)
        return replace(self, ties=self.ties + other.ties, digest=digest)

    def at_most(self, value: Any) -> Watermark:
        """Return the watermark, or an earlier one at this value: its rows are not digested."""
        return self if self.value is None or value >= self.value else _of(value)

    def content(self, column: str) -> dict[str, Any]:
        """Return it as JSON, for a manifest."""
        return {"column": column, **asdict(self)}

    @staticmethod
    def observe(column: Any, vectors: npt.NDArray[Any], ids: Any) -> Watermark:
        """Return the watermark of one batch.

        Parameters
        ----------
        column : pyarrow.Array
            Its nulls are not looked at: rows without a value are read only when all are.
        vectors : ndarray of shape (n, d)
        ids : ndarray of shape (n,), int64, or None
        """
        if column.null_count == len(column):
            return Watermark()
        largest = pc.max(column)
        found = _of(largest.as_py())
        rows = np.flatnonzero(
            pc.equal(column, largest).fill_null(False).to_numpy(zero_copy_only=False)
        )
        if len(rows) > _MOST_TIES:
            return found
        digest = 0
        for row in rows.tolist():
            own = b"" if ids is None else int(ids[row]).to_bytes(8, "little")
            digest += xxhash.xxh3_64_intdigest(own + vectors[row].tobytes())
        return replace(found, ties=len(rows), digest=digest % (1 << 64))


def _of(value: Any) -> Watermark:
    if isinstance(value, datetime | date):
        return Watermark("datetime" if isinstance(value, datetime) else "date", value.isoformat())
    for kind, type_ in (("int", int), ("float", float), ("decimal", Decimal), ("text", str)):
        if isinstance(value, type_) and not isinstance(value, bool):
            return Watermark(kind, str(value))
    raise InvalidSource(
        f"a since column with {type(value).__name__} found; numbers, dates, times or text expected"
    )


def value_of(content: dict[str, Any]) -> Watermark:
    """Return the watermark that a manifest has."""
    return Watermark(**{key: value for key, value in content.items() if key != "column"})
