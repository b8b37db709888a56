"""Fingerprints, by which a resumed build recognises its file or its vectors in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xxhash

from teravec.sources.packed import open_file, read_exactly
from teravec.sources.remote import RemotePath, SourcePath

__all__ = ["IN_MEMORY", "content_fingerprint", "fingerprint", "same_vectors"]

IN_MEMORY = "data in memory"
"""Name of vectors that are recognised by their values, in a description."""

_END_BYTES = 64 << 10
_PROBE_BYTES = 4 << 10
_PROBES = 16

_WHOLE_BYTES = 256 << 20  # of float32: digested in a few tenths of a second
_BLOCK_BYTES = 1 << 20


def fingerprint(path: SourcePath) -> str:
    """Digest a file's size, its ends, and 16 evenly spaced probes.

    This reads at most 192 KiB, however large the file. It finds a file that was replaced or
    written again, but not every change of a few bytes. The path does not matter. Of a remote file
    its size is digested, and the name that its store gives to the content.

    Returns
    -------
    str
        XXH3 of 64 bits, as 16 hexadecimal digits.
    """
    if isinstance(path, RemotePath) and path.file.etag is not None:
        known = f"{path.file.size} {path.file.etag}"
        return xxhash.xxh3_64_hexdigest(known.encode())
    with open_file(path) as file:
        size = file.size
        digest = xxhash.xxh3_64(size.to_bytes(8, "little"))
        for start, stop in _plan_probes(size):
            piece = np.empty(stop - start, np.uint8)
            read_exactly(file, piece, start)
            digest.update(piece.data)
    return digest.hexdigest()


def _plan_probes(size: int) -> list[tuple[int, int]]:
    """Return the byte ranges to read, in order; the two ends cover a small file."""
    ends = [(0, min(size, _END_BYTES)), (max(0, size - _END_BYTES), size)]
    last = max(0, size - _PROBE_BYTES)
    starts = [last * i // (_PROBES - 1) for i in range(_PROBES)]
    return ends + [(start, min(size, start + _PROBE_BYTES)) for start in starts]


def content_fingerprint(n: int, d: int, read: Callable[[int, int], tuple[np.ndarray, ...]]) -> str:
    """Digest the values of vectors and ids, whatever kind of object holds them.

    Up to 256 MiB of float32 are digested whole. Of a larger set, 256 evenly spaced blocks of
    1 MiB are digested: a change of a few rows may go unnoticed.

    Parameters
    ----------
    n, d : int
        Rows and dimensions.
    read : callable
        ``read(start, stop)`` returns the arrays of these rows: vectors as float64, ids as int64.

    Returns
    -------
    str
        XXH3 of 64 bits, as 16 hexadecimal digits.
    """
    digest = xxhash.xxh3_64(n.to_bytes(8, "little") + d.to_bytes(8, "little"))
    rows = max(1, _BLOCK_BYTES // (4 * d))
    blocks = _WHOLE_BYTES // _BLOCK_BYTES
    starts = np.arange(0, n, rows)
    if len(starts) > blocks:
        starts = np.linspace(0, n - rows, blocks).astype(np.int64)
    for start in starts.tolist():
        for array in read(start, min(n, start + rows)):
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def same_vectors(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two descriptions name the same vectors, whichever folders lead to the files.

    Columns that an index keeps beside the vectors are not compared.
    """

    def plain(described: dict[str, Any]) -> dict[str, Any]:
        files = [{k: v for k, v in file.items() if k != "folder"} for file in described["files"]]
        others = {key: value for key, value in described.items() if key != "columns"}
        return {**others, "files": files}

    return plain(one) == plain(other)
