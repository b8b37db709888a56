"""Write matrices in every input format, by NumPy and pyarrow alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq

RNG = np.random.default_rng(7)


def random_matrix(n: int, d: int, dtype: Any) -> np.ndarray:
    """Random values that the dtype holds exactly."""
    kind = np.dtype(dtype)
    low, high = (0, 200) if kind.kind == "u" else (-100, 100)
    return RNG.integers(low, high, (n, d)).astype(kind)


def write_bin(path: Path, x: np.ndarray) -> None:
    path.write_bytes(np.array(x.shape, "<u4").tobytes() + x.tobytes())


def write_vecs(path: Path, x: np.ndarray) -> None:
    prefix = np.array([x.shape[1]], "<i4").tobytes()
    path.write_bytes(b"".join(prefix + row.tobytes() for row in x))


def write_npy(path: Path, x: np.ndarray) -> None:
    np.save(path, x)


def table(x: np.ndarray, *, fixed: bool = True, ids: Any = None) -> pa.Table:
    """Column "v" of vectors, and column "id" where ids are given."""
    values = pa.array(x.ravel())
    if fixed:
        vectors = pa.FixedSizeListArray.from_arrays(values, x.shape[1])
    else:
        offsets = np.arange(0, x.size + 1, x.shape[1], dtype=np.int32)
        vectors = pa.ListArray.from_arrays(offsets, values)
    columns = {"v": vectors}
    if ids is not None:
        columns["id"] = pa.array(ids)
    return pa.table(columns)


def write_parquet(path: Path, x: np.ndarray, *, rows: int = 7, **options: Any) -> None:
    pq.write_table(table(x, **options), path, row_group_size=rows)


def write_ipc(path: Path, x: np.ndarray, *, rows: int = 7, **options: Any) -> None:
    whole = table(x, **options)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, whole.schema) as writer:
        writer.write_table(whole, max_chunksize=rows)


def write_feather(path: Path, x: np.ndarray) -> None:
    feather.write_feather(table(x), str(path), compression="zstd", chunksize=5)


def _free(write: Callable[..., None]) -> Callable[[Path, np.ndarray], None]:
    return lambda path, x: write(path, x, fixed=False)


FORMATS: dict[str, tuple[str, str, Callable[[Path, np.ndarray], None]]] = {
    "fvecs": (".fvecs", "<f4", write_vecs),
    "bvecs": (".bvecs", "u1", write_vecs),
    "ivecs": (".ivecs", "<i4", write_vecs),
    "fbin": (".fbin", "<f4", write_bin),
    "u8bin": (".u8bin", "u1", write_bin),
    "i8bin": (".i8bin", "i1", write_bin),
    "npy": (".npy", "<f4", write_npy),
    "npy-f16": (".f16.npy", "<f2", write_npy),
    "npy-u8": (".npy", "u1", write_npy),
    "npy-i8": (".npy", "i1", write_npy),
    "parquet": (".parquet", "f4", write_parquet),
    "npy-f64": (".npy", "f8", write_npy),
    "parquet-f64": (".parquet", "f8", write_parquet),
    "parquet-f16": (".parquet", "f2", write_parquet),
    "parquet-u8": (".parquet", "u1", write_parquet),
    "parquet-list": (".parquet", "f4", _free(write_parquet)),
    "arrow": (".arrow", "f4", write_ipc),
    "arrow-f16": (".arrow", "f2", write_ipc),
    "arrow-list": (".arrow", "i1", _free(write_ipc)),
    "feather": (".feather", "f4", write_feather),
}
"""Name: (extension, dtype, writer)."""
