"""Vectors of single rows, as their codes say."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from teravec.index.opened import OpenedIndex
from teravec.kernels.codec import decode
from teravec.kernels.lists_in_memory import PLACE_BITS, ListsInMemory
from teravec.storage.listfile import ID_BYTES

__all__ = ["decode_rows", "take_codes", "take_fine_codes"]

Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_ROW_MASK = (1 << PLACE_BITS) - 1


def take_codes(index: OpenedIndex, places: Int64, lists: Iterator[ListsInMemory]) -> Bytes:
    """Take the codes at places (n,) out of their lists, of a codec with one stage."""
    size = index.manifest.code_size
    codes = np.empty((len(places), size), np.uint8)
    runs, rows = places >> PLACE_BITS, places & _ROW_MASK
    for found in lists:
        for entry, run in enumerate(found.runs.tolist()):
            held = found.codes(entry, size)
            inside = (rows >= found.row_start) & (rows < found.row_start + len(held))
            mine = np.flatnonzero((runs == run) & inside)
            codes[mine] = held[rows[mine] - found.row_start]
    return codes


def take_fine_codes(index: OpenedIndex, places: Int64) -> Bytes:
    """Read the finer codes at places (n,), of a codec with two stages."""
    segments, rows = index.find_rows(places)
    width = index.fine[0].header.row_size - ID_BYTES
    codes = np.empty((len(places), width), np.uint8)
    for i, (segment, row) in enumerate(zip(segments.tolist(), rows.tolist(), strict=True)):
        codes[i] = index.fine[segment].read_rows(row, row + 1)[0, :width]
    return codes


def decode_rows(index: OpenedIndex, places: Int64, codes: Bytes) -> Float32:
    """Decode the codes at places (n,) to vectors (n, d).

    A transform is undone as far as it can be. For cosine, vectors have about unit length.
    """
    model = index.model
    list_nos = index.runs.lists_of(places >> PLACE_BITS)
    return model.transform.undo(decode(model.empty_ivf(), codes, list_nos))
