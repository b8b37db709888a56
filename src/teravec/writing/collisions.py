"""Texts of one number: found before a row replaces or deletes another."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from teravec.errors import InvalidSource
from teravec.index.manifest import Manifest
from teravec.segments.segment import Segment
from teravec.storage.columnfile import ColumnFile
from teravec.storage.layout import IndexPaths
from teravec.storage.listfile import ListFile
from teravec.storage.text_ids import TextDigests, digest_texts

__all__ = ["CollisionCheck"]

Int64 = npt.NDArray[np.int64]

_ROWS = 1 << 20  # ids read at a time
_TEXTS = 1 << 14  # texts read at a time


class CollisionCheck:
    """Compares texts with those of an index's rows that have the same number.

    Each segment is looked through once, also when a commit is tried again.

    Parameters
    ----------
    paths : IndexPaths
    column : str
        The index's column of ids.
    digests : TextDigests
        Of the texts; ids ascend and are distinct.
    """

    def __init__(self, paths: IndexPaths, column: str, digests: TextDigests) -> None:
        self._paths, self._column, self._digests = paths, column, digests
        self._seen: set[str] = set()

    def check(self, manifest: Manifest) -> None:
        """Look through the segments of a version.

        Raises
        ------
        InvalidSource
            Another text has the same number as one of these.
        """
        for segment in manifest.segments:
            if segment.file not in self._seen:
                self._check_segment(segment)
                self._seen.add(segment.file)

    def _check_segment(self, segment: Segment) -> None:
        assert segment.columns is not None
        ids = self._digests.ids
        with (
            ListFile(self._paths.file(segment.file)) as lists,
            ColumnFile(self._paths.file(segment.columns.file)) as columns,
        ):
            for start in range(0, segment.ntotal, _ROWS):
                held = lists.read_ids(start, min(start + _ROWS, segment.ntotal))
                at = np.minimum(np.searchsorted(ids, held), len(ids) - 1)
                rows = np.flatnonzero(ids[at] == held)
                for first in range(0, len(rows), _TEXTS):
                    some = rows[first : first + _TEXTS]
                    texts = columns.take(start + some, [self._column]).column(0)
                    self._compare(pa.concat_arrays(texts.chunks), at[some])

    def _compare(self, texts: Any, at: Int64) -> None:
        other = np.flatnonzero(digest_texts(texts).checks != self._digests.checks[at])
        if len(other):
            text, number = texts[int(other[0])].as_py(), int(self._digests.ids[at[other[0]]])
            raise InvalidSource(
                f"id {text!r} of the index and another id given now both have the number {number}; "
                "change one of the two, or build the index with whole numbers as ids"
            )
