"""NumPy's .npy: a two-dimensional array of numbers, in either order of rows and bytes.

References
----------
``numpy.lib.format``, versions 1.0 to 3.0 (3.0 differs from 2.0 only for named fields).
"""

from __future__ import annotations

import io

import numpy as np
from numpy.lib import format as npy_format

from teravec.errors import InvalidSource
from teravec.sources.packed import ColumnMajorFile, PackedFile, check_size, read_head
from teravec.sources.remote import SourcePath
from teravec.sources.vectorfile import VectorFile

__all__ = ["open_npy"]

# numpy refuses headers over 10,000 characters; ours hold one shape and one dtype.
_HEAD_BYTES = 16 << 10

_KINDS = "fiub"
_LARGEST_ITEM = 8  # bytes; the format of long double differs between machines


def open_npy(path: SourcePath, *, column: bool = False) -> VectorFile:
    """Open a .npy file of real numbers; nothing is ever unpickled.

    Parameters
    ----------
    path : Path
    column : bool
        Read an array of shape (n,), one value per row.
    """
    head, size = read_head(path, _HEAD_BYTES)
    stream = io.BytesIO(head)
    shape, fortran, dtype = _read_header(path, stream)
    if dtype.kind not in _KINDS or dtype.itemsize > _LARGEST_ITEM:
        raise InvalidSource(f"{path}: dtype {dtype.str} found, {_describe_expected(dtype)}")
    if len(shape) != (1 if column else 2) or min(shape) < 0:
        raise InvalidSource(
            f"{path}: array of shape {shape} found, {_describe_shape(shape, column)}"
        )
    n, d = (*shape, 1) if column else shape
    offset = stream.tell()
    dtype = np.dtype("u1") if dtype.kind == "b" else dtype
    check_size(path, size, offset, (n, d), dtype.itemsize)
    layout = ColumnMajorFile if fortran and not column else PackedFile
    return layout(path, (n, d), dtype, size, offset=offset)


def _describe_expected(dtype: np.dtype) -> str:
    if dtype.kind == "O":
        return (
            "expected numbers; objects are never unpickled: save np.stack(x).astype('float32'), "
            "which needs vectors of one length"
        )
    if dtype.kind == "V" and dtype.names is None:
        return "expected numbers that NumPy knows (not bfloat16); save x.astype('float32')"
    return "expected real numbers of up to 8 bytes; save x.astype('float32')"


def _describe_shape(shape: tuple[int, ...], column: bool) -> str:
    if column:
        return "expected (n,)"
    if len(shape) == 1:
        return "expected (n, d); save x.reshape(-1, d), or x[None] if it is one vector"
    if len(shape) == 2:
        return "expected (n, d)"
    return "expected (n, d); save x.reshape(len(x), -1), or x.reshape(-1, x.shape[-1])"


def _read_header(path: SourcePath, stream: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = npy_format.read_magic(stream)
        if version == (1, 0):
            return npy_format.read_array_header_1_0(stream)
        if version in ((2, 0), (3, 0)):  # the same for arrays without named fields
            return npy_format.read_array_header_2_0(stream)
    except Exception as error:  # the header is Python text; parsing it raises many types
        why = " ".join(str(error).split())
        raise InvalidSource(f"{path}: no sound .npy header: {why}") from error
    found = ".".join(map(str, version))
    raise InvalidSource(f"{path}: .npy version {found} found, expected 1.0, 2.0 or 3.0")
