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
    before : JoinedSets, optional
        Of another version: what both have is not read again.
    """

    def __init__(self, paths: IndexPaths, before: JoinedSets[Set] | None = None) -> None:
        self._paths = paths
        self._known = {} if before is None else before._joined
        self._joined: dict[tuple[Set, ...], Int64] = {}

    def join(self, sets: Sequence[Set]) -> Int64:
        """Return the numbers in any of the sets, ascending and distinct.

        Whoever asks for the same sets gets the same array, in other versions too.

        Raises
        ------
        MissingFile, CorruptFile
        """
        chosen = tuple(sets)
        if chosen not in self._joined:
            self._joined[chosen] = self._read(chosen)
        return self._joined[chosen]

    def _read(self, chosen: tuple[Set, ...]) -> Int64:
        for count in range(len(chosen), 0, -1):  # the later sets are those that were added
            if (known := self._known.get(chosen[:count])) is not None:
                break
        else:
            count, known = 0, np.empty(0, np.int64)
        new = [read_sealed_set(self._paths, entry) for entry in chosen[count:]]
        return _merge([known, *new]) if new else known


def _merge(ascending: Sequence[Int64]) -> Int64:
    """Merge ascending arrays into one without repetitions."""
    numbers = np.sort(np.concatenate(ascending), kind="stable")  # linear in a few ascending parts
    merged: Int64 = numbers[np.diff(numbers, prepend=numbers[:1] - 1) != 0]
    return merged
