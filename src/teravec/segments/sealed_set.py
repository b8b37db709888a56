"""Sealed sets of numbers that a version applies to segments: deleted ids, voided lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from teravec.errors import CorruptFile
from teravec.storage.arrays import read_array
from teravec.storage.layout import IndexPaths

__all__ = ["JoinedSets", "SealedSet", "read_sealed_set"]

Int64 = npt.NDArray[np.int64]

_NONE = np.empty(0, np.int64)
Set = TypeVar("Set", bound="SealedSet")


@dataclass(frozen=True)
class SealedSet:
    """Numbers that a version wrote: sealed, ascending and distinct.

    Parameters
    ----------
    file : str
        Path below the index directory, of an array file.
    size : int
        Bytes of the file.
    checksum : str
        XXH3-64 of the file.
    count : int
        Number of numbers.
    sequence : int
        The version.
    """

    file: str
    size: int
    checksum: str
    count: int
    sequence: int

    numbers: ClassVar[str]
    """What they are, in errors: ids, or lists."""
    least: ClassVar[int] = np.iinfo(np.int64).min
    """The smallest number that there may be."""


def read_sealed_set(paths: IndexPaths, entry: SealedSet) -> Int64:
    """Read the numbers of a set.

    Raises
    ------
    MissingFile, CorruptFile
        The file is missing, damaged, or its numbers are not ascending and distinct.
    """
    path = paths.file(entry.file)
    expected = {"size": entry.size, "checksum": entry.checksum}
    numbers = read_array(path, expected, (entry.count,), np.int64)
    if (np.diff(numbers) <= 0).any() or (numbers[:1] < entry.least).any():
        raise CorruptFile(f"{path}: {entry.numbers} that are not ascending and distinct found")
    return numbers


class JoinedSets(Generic[Set]):
    """Reads sets, and joins those that apply to the same segments, each combination once.

    Parameters
    ----------
    paths : IndexPaths
    """

    def __init__(self, paths: IndexPaths) -> None:
        self._paths = paths
        self._joined: dict[tuple[Set, ...], Int64] = {}
        self._sets: dict[Set, Int64] = {}

    def join(self, sets: Sequence[Set]) -> Int64:
        """Return the numbers in any of the sets, ascending and distinct; do not change them.

        Raises
        ------
        MissingFile, CorruptFile
        """
        chosen = tuple(sets)
        if chosen not in self._joined:
            for entry in chosen:
                if entry not in self._sets:
                    self._sets[entry] = read_sealed_set(self._paths, entry)
            parts = [self._sets[entry] for entry in chosen]
            self._joined[chosen] = np.unique(np.concatenate(parts)) if parts else _NONE
        return self._joined[chosen]
