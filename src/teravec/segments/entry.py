"""The manifest's entries for the files of a slice."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RowsEntry", "SliceEntry"]


@dataclass(frozen=True)
class RowsEntry:
    """The row file with a slice's fine codes.

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
    """One slice in the manifest.

    Parameters
    ----------
    file : str
        Path below the index directory.
    lists : tuple of int
        Lists [start, stop).
    ntotal, size : int
        Number of vectors; bytes of the list file.
    checksum : str
        The list file's seal.
    generation : int
        Always 0; reserved for later additions to the same lists.
    fine : RowsEntry, optional
        The row file of a two-stage codec. With one stage, the manifest omits this key.
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
