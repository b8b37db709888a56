"""Files of ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidSource, storage_errors

__all__ = ["read_ids_file", "read_texts_file"]

Int64 = npt.NDArray[np.int64]


def read_ids_file(path: Path) -> Int64:
    """Read ids: a .npy array, a Parquet file with one column, or text with an id in each line.

    Returns
    -------
    ndarray of shape (n,), int64

    Raises
    ------
    MissingFile
    InvalidSource
        The file holds something else; the message names the file and what was found.
    """
    with storage_errors(path, "read"):
        if path.suffix == ".npy":
            found = _read_npy(path)
        elif path.suffix == ".parquet":
            found = _read_parquet(path)
        else:
            found = _read_text(path)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise InvalidSource(
            f"{path}: {found.dtype} of shape {found.shape} found, integers (n,) expected"
        )
    return found.astype(np.int64)


def read_texts_file(path: Path) -> list[str | bytes]:
    """Read ids that are texts, or UUIDs, from such a file.

    Raises
    ------
    MissingFile
    InvalidSource
    """
    with storage_errors(path, "read"):
        if path.suffix == ".npy":
            found = _read_npy(path)
        elif path.suffix == ".parquet":
            found = _read_parquet(path)
        else:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            return [line.strip() for line in lines if line.strip()]
    return [each if isinstance(each, bytes) else str(each) for each in found.ravel().tolist()]


def _read_npy(path: Path) -> npt.NDArray[np.generic]:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise InvalidSource(f"{path}: not an array file: {error}") from None


def _read_parquet(path: Path) -> npt.NDArray[np.generic]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise InvalidSource(f"{path}: not a Parquet file: {error}") from None
    if table.num_columns != 1 or table.column(0).null_count:
        raise InvalidSource(
            f"{path}: columns {', '.join(table.column_names)} found; one column of ids without "
            "nulls expected"
        )
    return np.asarray(table.column(0).to_numpy())


def _read_text(path: Path) -> npt.NDArray[np.generic]:
    ids = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text:
                continue
            if not text.removeprefix("-").isdecimal():
                raise InvalidSource(f"{path}: line {number} is {text[:40]!r}; an id expected")
            ids.append(int(text))
    try:
        return np.array(ids, np.int64)
    except OverflowError:
        raise InvalidSource(f"{path}: an id beyond 64 bits found") from None
