"""Reading rows of one file as float32 or float64, converted straight into the output array.

Values must be finite in float32 even if they are read as float64, because distances are float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from teravec.errors import InvalidSource
from teravec.sources.vectorfile import SKIP_HINT, VectorFile

__all__ = ["GAP_BYTES", "read_range", "read_rows", "spans"]

_CHUNK_BYTES = 2 << 20
"""Bytes of float32 converted at a time, and checked while they are in the processor's cache."""

GAP_BYTES = 64 << 10
"""Largest gap between rows that one read covers: about the bytes a disk streams per read."""

_SPAN_BYTES = 2 << 20
"""Longest run of rows that is read at once to pick some of them."""

_LARGEST = float(np.finfo(np.float32).max)
_WHOLE = 1 << 53  # float64 is exact for whole numbers up to here

_PICK_BYTES = 8 << 20
"""Bytes of float32 picked at a time; bounds the index arrays and masks."""


def read_range(file: VectorFile, start: int, out: np.ndarray, offset: int) -> None:
    """Fill ``out`` (n, d) with n rows from row ``start``.

    Parameters
    ----------
    file : VectorFile
    start : int
    out : ndarray of shape (n, d), float32 or float64
    offset : int
        Number of the file's first row in the source, for messages.
    """
    step = max(1, _CHUNK_BYTES // (4 * file.d))
    with file.reading() as read:
        for row in range(0, len(out), step):
            part = out[row : row + step]
            first = start + row
            native = read(first, first + len(part))
            rows = range(first, first + len(part))
            _check_exact(file, native, part, rows, offset)
            _convert(native, part)
            _check_finite(file, part, rows, offset)


def read_rows(file: VectorFile, rows: np.ndarray, out: np.ndarray, offset: int) -> None:
    """Fill ``out`` (n, d), float32 or float64, with ``rows`` (ascending, unique) of a file."""
    step = max(1, _PICK_BYTES // (4 * file.d))
    with file.reading() as read:
        for at in range(0, len(rows), step):
            picked = rows[at : at + step]
            part = out[at : at + len(picked)]
            for begin, end in spans(picked, file.d * file.dtype.itemsize):
                first, last = int(picked[begin]), int(picked[end - 1])
                span = read(first, last + 1)
                if end - begin <= last - first:
                    span = span[picked[begin:end] - first]
                _check_exact(file, span, part, picked[begin:end], offset)
                _convert(span, part[begin:end])
            _check_finite(file, part, picked, offset)


def spans(rows: np.ndarray, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Group near rows, so that one read of bounded length serves each group.

    Parameters
    ----------
    rows : ndarray of shape (n >= 1,), int64
        Ascending, each once.
    row_bytes : int

    Returns
    -------
    iterator of (int, int)
        Positions [begin, end) in ``rows``.
    """
    window = rows // max(1, _SPAN_BYTES // row_bytes)
    apart = np.diff(rows) > max(1, GAP_BYTES // row_bytes)
    cuts = np.flatnonzero(apart | (np.diff(window) > 0)) + 1
    ends = [*cuts.tolist(), len(rows)]
    return zip([0, *ends[:-1]], ends, strict=True)


def _check_exact(
    file: VectorFile,
    native: np.ndarray,
    out: np.ndarray,
    rows: Sequence[int] | np.ndarray,
    offset: int,
) -> None:
    """Raise at the first whole number that a float64 ``out`` cannot hold exactly."""
    if out.dtype != np.float64 or native.dtype.kind not in "iu" or native.dtype.itemsize < 8:
        return
    large = (native > _WHOLE) | (native < -_WHOLE)
    if large.any():
        at, dimension = divmod(int(large.argmax()), file.d)
        row = int(rows[at])
        raise InvalidSource(
            f"{file.path}: row {row} (row {offset + row} of the source) holds "
            f"{native[at, dimension]} in dimension {dimension}, at most 2^53 expected, where "
            "float64 is still exact; subtract an offset from all vectors"
        )


def _convert(native: np.ndarray, out: np.ndarray) -> None:
    # A float64 beyond float32's range becomes infinite; _check_finite then reports it.
    with np.errstate(over="ignore", invalid="ignore"):
        out[...] = native


def _check_finite(
    file: VectorFile, part: np.ndarray, rows: Sequence[int] | np.ndarray, offset: int
) -> None:
    """Raise at the first value of ``part`` that is not finite; ``rows`` are its row numbers."""
    if file.dtype.kind != "f":
        return
    finite = np.isfinite(part) if part.dtype == np.float32 else np.abs(part) <= _LARGEST
    if finite.all():
        return
    at, dimension = divmod(int(finite.argmin()), file.d)
    row = int(rows[at])
    value = file.read(row, row + 1)[0, dimension]
    raise InvalidSource(
        f"{file.path}: row {row} (row {offset + row} of the source) holds {value} in dimension "
        f"{dimension}, expected values that are finite in float32; {SKIP_HINT}"
    )
