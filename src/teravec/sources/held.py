"""Data in the caller's memory, as files that the stages read by range.

Nothing is copied as a whole: each read views or converts its own rows only.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidSource, TeravecError
from teravec.sources.columnar import ColumnarFile, ColumnTable
from teravec.sources.packed import PackedFile
from teravec.sources.remote import SourcePath
from teravec.sources.vectorfile import RowReader, VectorFile

__all__ = [
    "ArrayFile",
    "HeldFile",
    "MappedFile",
    "SlicedFile",
    "TableFile",
    "TensorFile",
    "hold_array",
]

Int64 = npt.NDArray[np.int64]


class HeldFile(VectorFile):
    """Vectors in memory; ``path`` is only their name in messages.

    Attributes
    ----------
    held_ids : ndarray of shape (n,), int64, or None
        Ids that the user gave beside the vectors.
    others : ColumnTable or None
        Columns that the user gave beside the vectors, in a mapping.
    """

    by_content = True
    is_held = True
    held_ids: Int64 | None = None
    others: ColumnTable | None = None

    def hold_ids(self, ids: Int64) -> None:
        """Set the ids of the rows; the caller has checked them."""
        self.held_ids, self.id_name = ids, "ids"

    def read_ids(self, start: int, stop: int) -> np.ndarray | None:
        """Read the ids that were given beside the vectors, or else a column's ids."""
        if self.held_ids is None:
            return super().read_ids(start, stop)
        return self.held_ids[start:stop]

    def __reduce__(self) -> Any:
        raise TypeError("vectors in memory are spooled for other processes, not sent to them")


class ArrayFile(HeldFile):
    """A NumPy array of shape (n, d), with any real type, order, strides and byte order."""

    def __init__(self, path: Path, array: np.ndarray) -> None:
        n, d = array.shape
        super().__init__(path, n, d, array.dtype, array.nbytes)
        self._array = array

    @contextmanager
    def reading(self) -> Iterator[RowReader]:
        """Yield a reader whose results are views of the array."""
        yield lambda start, stop: self._array[start:stop]


class MappedFile(HeldFile, PackedFile):
    """A memory map, read by ``pread``: pages of the map would count as memory of this process."""


class TableFile(HeldFile, ColumnarFile):
    """The vector column of an Arrow table or data frame in memory."""


class SlicedFile(HeldFile):
    """A matrix of HDF5, Zarr or the like, read by slices; it need not be in memory.

    Parameters
    ----------
    path : Path
    matrix : object
        Has a two-dimensional shape and slices that NumPy converts to arrays.
    """

    def __init__(self, path: Path, matrix: Any) -> None:
        self.path, self._matrix = path, matrix
        _check_shape(path, tuple(matrix.shape))
        dtype = check_array(path, self._read_rows(0, 0)).dtype
        n, d = map(int, matrix.shape)
        super().__init__(path, n, d, dtype, n * d * dtype.itemsize)

    @contextmanager
    def reading(self) -> Iterator[RowReader]:
        """Yield a reader of blocks."""
        yield self._read_rows

    def _read_rows(self, start: int, stop: int) -> np.ndarray:
        try:
            return check_array(self.path, self._convert(self._matrix[start:stop]))
        except (TypeError, ValueError, RuntimeError, OSError) as error:
            if isinstance(error, TeravecError):
                raise
            why = shorten(" ".join(str(error).split()), 120)
            raise InvalidSource(
                f"{self.path}: {type(self._matrix).__name__} that NumPy cannot read: {why}"
            ) from error

    def _convert(self, rows: Any) -> np.ndarray:
        return np.asarray(rows)


class TensorFile(SlicedFile):
    """A PyTorch tensor on any device; each read copies its rows to the host if necessary.

    It is recognised by its methods, because only ``kernels`` imports PyTorch.
    """

    def __init__(self, path: Path, tensor: Any) -> None:
        super().__init__(path, tensor.detach())

    def _convert(self, rows: Any) -> np.ndarray:
        rows = rows.cpu()
        if str(rows.dtype) in ("torch.bfloat16", "torch.bool") or "float8" in str(rows.dtype):
            rows = rows.float()  # NumPy lacks these types, or does not count them as numbers
        found: np.ndarray = rows.numpy()
        return found


def hold_array(path: Path, array: np.ndarray) -> HeldFile:
    """Hold an array; if it maps consecutive rows of a file, hold that file instead.

    Raises
    ------
    InvalidSource
        Not a matrix of real numbers; the message says what to do.
    """
    array = check_array(path, array)
    mapped = _find_mapping(array)
    if mapped is None:
        return ArrayFile(path, array)
    filename, offset = mapped
    n, d = array.shape
    return MappedFile(filename, (n, d), array.dtype, array.nbytes, offset=offset)


def check_array(path: SourcePath, array: np.ndarray) -> np.ndarray:
    """Return the array if it is a matrix of real numbers; booleans become 0 and 1."""
    if isinstance(array, np.ma.MaskedArray):
        raise InvalidSource(f"{path}: masked array found; fill it first, as X.filled(0)")
    array = np.asarray(array)
    _check_type(path, array.dtype)
    _check_shape(path, array.shape)
    return array.view(np.uint8) if array.dtype == bool else array


def _check_shape(path: SourcePath, shape: tuple[int, ...]) -> None:
    if len(shape) == 2:
        return
    advice = {
        0: "give a matrix",
        1: "one vector is X[None, :], a flat array of many is X.reshape(-1, d)",
    }
    what_to_do = advice.get(len(shape), "X.reshape(len(X), -1) makes each item one vector")
    raise InvalidSource(f"{path}: array of shape {shape} found, (n, d) expected; {what_to_do}")


def _check_type(path: SourcePath, dtype: np.dtype) -> None:
    if dtype.kind in "fiub":
        return
    advice = {
        "c": "X.real or np.abs(X) gives real numbers",
        "O": "np.stack(X) makes a matrix of rows of one length, X.astype('f4') numbers of objects",
        "V": "X.astype('f4') or X['field'] gives numbers",
    }
    what_to_do = advice.get(dtype.kind, "embed them first")
    raise InvalidSource(f"{path}: array of {dtype} found, real numbers expected; {what_to_do}")


def _find_mapping(array: np.ndarray) -> tuple[Path, int] | None:
    """Return the file that a C-contiguous array maps and the offset of row 0, or None."""
    root: Any = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    shared = isinstance(root, np.memmap) and isinstance(root.base, mmap.mmap) and root.mode != "c"
    if not (shared and array.flags.c_contiguous and array.size and root.filename):
        return None
    path = Path(root.filename)
    begin = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    offset = root.offset + begin
    if not path.is_file() or path.stat().st_size < offset + array.nbytes:
        return None  # renamed or removed since it was mapped
    return path, offset
