"""Writes a golden index with inverted files, changed.

    python -m tests.golden.make_filters tests/golden/filters-1

As for ``make.py``: run once, by the first release that could, and never again.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import teravec

__all__ = ["COLUMNS", "QUESTIONS", "TOTAL", "VERSIONS", "rows_of"]

VERSIONS = 3
"""The build, an addition with one more filterable column, a compaction."""
TOTAL = 2400
COLUMNS = "word,day,tags"
QUESTIONS = (
    "word = 'w7'",
    "word like 'w10%' and day < DATE '2024-06-01'",
    "'t3' in tags and not price >= 0.5",
    "price between 0.25 and 0.26",
    "word is null or price = 0.125",
    "'t999' in tags",
)


def rows_of(start: int, stop: int) -> Any:
    """Make vectors and columns."""
    rng = np.random.default_rng(start + 1)
    n, numbers = stop - start, np.arange(start, stop)
    vectors = rng.standard_normal((n, 8)).astype(np.float32)
    days = pa.array(19_700 + rng.integers(0, 300, n), pa.int32()).cast(pa.date32())
    return pa.table(
        {
            "v": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 8),
            "word": [None if i % 13 == 0 else f"w{i * i % 1999}" for i in numbers.tolist()],
            "day": days,
            "tags": [[f"t{int(j)}" for j in rng.integers(0, 40, i % 4)] for i in numbers.tolist()],
            "price": np.round(rng.random(n) * 64) / 64,
        }
    )


def main(root: Path) -> None:
    """Write everything into an empty directory."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    path = root / "index"
    options: dict[str, Any] = {"codec": "sq8", "nlist": 4, "slices": 2, "calibrate": False}
    options |= {"vector_column": "v", "columns": "all", "filterable": COLUMNS}
    teravec.build(rows_of(0, 2000), path, **options)
    teravec.add(path, rows_of(2000, TOTAL), vector_column="v", filterable="price")
    teravec.compact(path, full=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
