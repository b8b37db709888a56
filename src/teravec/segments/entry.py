"""What the manifest says of a slice."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RowsEntry", "SliceEntry"]


@dataclass(frozen=True)
class RowsEntry:
    """The row file of a slice's finer codes.

    Parameters
    ----------
    file : str
        Path below the index directory.
    size : int
        Bytes of the file.
    checksum : str
        The row file's seal.
    """

    file: str
    size: int
    checksum: str


@dataclass(frozen=True)
class SliceEntry:
    """One slice, as the manifest names it.

    Parameters
    ----------
    file : str
        Path below the index directory.
    lists : tuple of int
        Lists [start, stop).
    ntotal, size : int
        Vectors; bytes of the file.
    checksum : str
        The list file's seal.
    generation : int
        0; room for slices that later additions write over the same lists.
    fine : RowsEntry, optional
        Where codes have two stages; else there is no such key in the file.
    """

    file: str
    lists: tuple[int, int]
    ntotal: int
    size: int
    checksum: str
    generation: int = 0
    fine: RowsEntry | None = None

    @property
    def files_size(self) -> int:
        """Bytes of the slice's files."""
        return self.size + (self.fine.size if self.fine is not None else 0)
