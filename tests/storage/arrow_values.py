"""Arrow columns of every type that is kept, with nulls, for tests."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np
import pyarrow as pa

__all__ = ["every_type"]

_DAY = datetime.datetime(2024, 2, 29, 12, 30, 15)


def every_type(n: int, seed: int = 0) -> Any:
    """Make a table of n rows: one column of each type, and nulls in all but the last."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 100, n)
    texts = [f"é {number} 漢字" * (number % 3) for number in numbers]
    days = [_DAY + datetime.timedelta(days=int(number)) for number in numbers]
    exact = [decimal.Decimal(int(number)) / 4 for number in numbers]
    columns: dict[str, tuple[Any, Any]] = {
        **{f"int{b}": (numbers, pa.from_numpy_dtype(f"int{b}")) for b in (8, 16, 32, 64)},
        **{f"uint{b}": (numbers, pa.from_numpy_dtype(f"uint{b}")) for b in (8, 64)},
        "half": (numbers.astype(np.float16), pa.float16()),
        "float": (rng.random(n), pa.float32()),
        "double": (rng.random(n), pa.float64()),
        "bool": (numbers % 2 == 0, pa.bool_()),
        "string": (texts, pa.string()),
        "large_string": (texts, pa.large_string()),
        "binary": ([text.encode() for text in texts], pa.binary()),
        "fixed": ([bytes([number]) * 16 for number in numbers], pa.binary(16)),
        "date": ([day.date() for day in days], pa.date32()),
        "time": ([day.time() for day in days], pa.time64("us")),
        "zoned": (days, pa.timestamp("ns", tz="Europe/Berlin")),
        "plain": (days, pa.timestamp("ms")),
        "decimal": (exact, pa.decimal128(10, 3)),
        "wide": (exact, pa.decimal256(50, 20)),
        "tags": (
            [[f"t{i}" for i in range(number % 4)] for number in numbers],
            pa.list_(pa.string()),
        ),
        "numbers": ([list(range(number % 3)) for number in numbers], pa.large_list(pa.int32())),
    }
    arrays = []
    for values, kind in columns.values():
        items = [
            None if number % 7 == 3 else value
            for number, value in zip(numbers, values, strict=True)
        ]
        arrays.append(pa.array(items, kind))
    fields = [pa.field(name, kind) for name, (_, kind) in columns.items()]
    fields.append(pa.field("sure", pa.int32(), nullable=False))
    return pa.Table.from_arrays([*arrays, pa.array(numbers, pa.int32())], schema=pa.schema(fields))
