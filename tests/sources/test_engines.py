"""Data of engines, by stand-ins with the methods that theirs have: Ray Data, Lance, Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from teravec.sources import open_data

from .writers import random_matrix

N, D = 500, 6
X = random_matrix(N, D, "f4")
TABLE = pa.table({"key": range(0, 3 * N, 3), "v": list(X), "text": ["a"] * N})


class RayLike:
    """Has what `teravec` asks of a Ray data set, and refuses to be held as a whole."""

    def iter_batches(
        self, *, prefetch_batches: int = 1, batch_size: int = 256, batch_format: str = "default"
    ) -> Iterator[Any]:
        """Yield tables, as Ray does for this format."""
        assert batch_format == "pyarrow"
        for start in range(0, N, 100):
            yield TABLE.slice(start, 100)

    def to_arrow_refs(self) -> Any:
        """Would make every block at once."""
        raise AssertionError

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("call iter_batches")


class LanceLike:
    """A data set that gives an Arrow stream."""

    schema = TABLE.schema

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return TABLE.to_reader(64).__arrow_c_stream__(requested_schema)


def parquet_file(folder: Path) -> Any:
    pq.write_table(TABLE, folder / "x.parquet", row_group_size=70)
    return pq.ParquetFile(folder / "x.parquet")


@pytest.mark.parametrize(
    "make", [lambda _: RayLike(), lambda _: LanceLike(), parquet_file], ids=["ray", "lance", "pq"]
)
def test_batches_are_spooled(make: Any, tmp_path: Path) -> None:
    source = open_data(make(tmp_path), id_column="key", spool_path=tmp_path / "x.spool")
    assert np.array_equal(source.read(0, N), X)
    assert source.read_ids(0, N).tolist() == list(range(0, 3 * N, 3))
    assert (tmp_path / "x.spool").exists()


def test_the_stand_in_has_rays_signature() -> None:
    import inspect

    data = pytest.importorskip("ray.data")
    known = inspect.signature(data.Dataset.iter_batches).parameters
    assert {"batch_size", "batch_format"} <= set(known)
    assert hasattr(data.Dataset, "to_arrow_refs")
