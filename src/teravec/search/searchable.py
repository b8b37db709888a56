"""What every index that can be searched offers, whether it is open here or served elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from teravec.filters.filter import FilterArgument
from teravec.index.calibration import Calibration
from teravec.search.effort import Effort
from teravec.search.stats import SearchStats

__all__ = ["Searchable"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


class Searchable(Protocol):
    """An index to search: an ``Index``, or a ``RemoteIndex`` behind a server.

    Attributes
    ----------
    stats : SearchStats
        What all searches so far cost together.
    batch_bytes : int
        Memory for the queries and results of a batch.
    """

    stats: SearchStats
    batch_bytes: int

    @property
    def d(self) -> int:
        """Dimensions of vectors and queries."""

    @property
    def ntotal(self) -> int:
        """Vectors held."""

    @property
    def nlist(self) -> int:
        """Inverted lists."""

    @property
    def metric(self) -> str:
        """``l2``, ``ip`` or ``cosine``."""

    @property
    def codec(self) -> str:
        """What codes are, as ``build`` was told."""

    @property
    def calibration(self) -> Calibration | None:
        """Recall as it was measured against effort, where that is known here."""

    @property
    def seal(self) -> str:
        """A text that two indexes share only if they hold the same bytes."""

    @property
    def source(self) -> dict[str, Any]:
        """The vectors that the index was built from, as ``Source.describe`` tells them.

        Empty where a server is so old that it does not tell.
        """

    @property
    def copies_of_an_id(self) -> int:
        """Most vectors that have the same id."""

    @property
    def has_text_ids(self) -> bool:
        """Whether ids are texts, for which numbers stand."""

    def holds(self, path: Path) -> bool:
        """Whether a file of this path would lie inside the index's directory."""

    def effort(
        self,
        nprobe: int | None = None,
        recall: float | None = None,
        *,
        k: int = 10,
        radius: float | None = None,
        candidates: int | None = None,
    ) -> Effort:
        """The effort that nprobe or recall asks for: of the k nearest, or within a radius."""

    def batch_rows(self, nprobe: int, k: int, candidates: int | None = None) -> int:
        """Most queries that ``batch_bytes`` hold with their results; k is 0 within a radius."""

    def search_at(self, queries: Float32, k: int, effort: Effort) -> tuple[Float32, Int64]:
        """Distances and ids, each (nq, k), of the k nearest at a stated effort."""

    def search_under(
        self,
        queries: Float32,
        k: int,
        nprobe: int | None,
        recall: float | None,
        candidates: int | None,
        filter: FilterArgument,
    ) -> tuple[Float32, Int64]:
        """Distances and ids, each (nq, k), of the k nearest rows that pass: one filter, or a list.

        None in a list finds all rows.
        """

    def rows_of(
        self, ids: Int64, columns: Sequence[str] | str | None, *, vectors: bool = False
    ) -> Any:
        """Columns of rows by the numbers of their ids, as a pyarrow.Table; None without any.

        Rows of nulls stand for ids that no visible row has. Texts are the first column, ``id``;
        vectors the last, ``vector``.
        """

    def range_search_at(
        self,
        queries: Float32,
        radius: float,
        effort: Effort,
        most: int,
        filter: FilterArgument | None = None,
    ) -> tuple[Int64, Float32, Int64]:
        """All vectors within a radius of the first queries, as ``range_search`` returns them.

        The answer ends before the first query that would bring it above ``most`` results, or
        earlier; it is empty where the first query alone has more.
        """
