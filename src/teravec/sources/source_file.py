"""One file of a source, and a block of a source's rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from teravec.errors import InvalidSource
from teravec.sources.fingerprint import fingerprint
from teravec.sources.paths import Member
from teravec.sources.remote import SourcePath
from teravec.sources.vectorfile import VectorFile

__all__ = ["Block", "SourceFile"]


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a source.

    Attributes
    ----------
    start : int
        Number of the first row.
    ids : ndarray of shape (n,), int64
    vectors : ndarray of shape (n, d), float32
    """

    start: int
    ids: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True)
class SourceFile:
    """One file of a source; its row 0 is row ``start`` of the source."""

    start: int
    file: VectorFile
    member: Member

    @property
    def path(self) -> SourcePath:
        """Path of the file."""
        return self.file.path

    @property
    def n(self) -> int:
        """Rows in the file."""
        return self.file.n

    @property
    def stop(self) -> int:
        """Number of the row after the file's last row."""
        return self.start + self.file.n

    @property
    def outline(self) -> tuple[str, int, int]:
        """Name, rows and bytes, which distinguish files without reading them."""
        return self.path.name, self.n, self.file.size_bytes

    def describe(self) -> dict[str, Any]:
        """Return name, rows, bytes, fingerprint and vector column, and the subfolder if any."""
        folder = {"folder": self.member.folder} if self.member.folder else {}
        return {
            "name": self.path.name,
            "n": self.n,
            "size_bytes": self.file.size_bytes,
            "fingerprint": fingerprint(self.path),
            "vector_column": self.file.vector_column,
            **folder,
        }

    def check_ids(self, ids: np.ndarray, rows: np.ndarray) -> None:
        """Raise InvalidSource at the first negative id.

        Parameters
        ----------
        ids : ndarray of shape (n,), int64
        rows : ndarray of shape (n,), int64
            The ids' rows in the files of the source.
        """
        if len(wrong := np.flatnonzero(ids < 0)):
            row = int(rows[wrong[0]])
            raise InvalidSource(
                f"{self.path}: row {row - self.start} (row {row} of the source) has id "
                f"{ids[wrong[0]]}, expected 0 or more"
            )
