"""A segment: some lists of some rows, in one sealed list file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BESIDE", "RowsEntry", "Segment", "group_layers"]

BESIDE = ("fine", "columns", "inverted")
"""Files that a segment may have beside its list file."""


@dataclass(frozen=True)
class RowsEntry:
    """A file beside a segment's list file: its fine codes, columns, or inverted columns.

    Parameters
    ----------
    file : str
        Path below the index directory.
    size : int
        Bytes of the file.
    checksum : str
        The file's seal.
    """

    file: str
    size: int
    checksum: str


@dataclass(frozen=True)
class Segment:
    """One segment, as a manifest names it. The slices of a build are segments.

    Parameters
    ----------
    file : str
        Path of the list file below the index directory.
    lists : tuple of int
        Lists [start, stop).
    ntotal, size : int
        Number of vectors; bytes of the list file.
    checksum : str
        The list file's seal.
    sequences : tuple of int
        First and last version that added rows of this segment; a build's rows have sequence 0.
    id_base : int
        What is added to the ids in the files: rows without an id column are numbered when their
        version is committed.
    deletes_through : int
        Delete sets up to this version are applied: what they hide is not in the files.
    fine : RowsEntry, optional
        The row file of a two-stage codec. With one stage, manifests omit this key.
    columns : RowsEntry, optional
        The column file of an index with columns. Without, manifests omit this key.
    voids_through : int
        Lists that versions up to this one voided are as they should be. Manifests omit a 0.
    voided : int
        Vectors in runs that later versions voided: nothing reads them. Manifests omit a 0.
    inverted : RowsEntry, optional
        The inverted file of its filterable columns. Without, manifests omit this key.
    """

    file: str
    lists: tuple[int, int]
    ntotal: int
    size: int
    checksum: str
    sequences: tuple[int, int] = (0, 0)
    id_base: int = 0
    deletes_through: int = 0
    fine: RowsEntry | None = None
    columns: RowsEntry | None = None
    voids_through: int = 0
    voided: int = 0
    inverted: RowsEntry | None = None

    @property
    def beside(self) -> tuple[RowsEntry, ...]:
        """The files beside the list file."""
        return tuple(
            entry for entry in (getattr(self, kind) for kind in BESIDE) if entry is not None
        )

    @property
    def valid(self) -> int:
        """Number of vectors that are not in voided runs."""
        return self.ntotal - self.voided

    @property
    def files_size(self) -> int:
        """Bytes of the segment's files."""
        return self.size + sum(entry.size for entry in self.beside)


def group_layers(segments: Sequence[Segment]) -> tuple[tuple[Segment, ...], ...]:
    """Group segments into layers: within a layer, lists ascend and no list occurs twice.

    The slices of a build are one layer. A list has at most one run in each layer, so layer and
    list number name a run.
    """
    layers: list[list[Segment]] = []
    for segment in segments:
        if not layers or segment.lists[0] < layers[-1][-1].lists[1]:
            layers.append([])
        layers[-1].append(segment)
    return tuple(map(tuple, layers))
