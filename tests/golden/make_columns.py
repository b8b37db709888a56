"""Writes a golden index with columns of every type and ids that are texts, changed.

    python -m tests.golden.make_columns tests/golden/columns-1

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
from tests.storage.arrow_values import every_type

__all__ = ["VERSIONS", "read_rows", "rows_of"]

VERSIONS = 4
"""The build, an addition that replaces rows, a deletion, a compaction."""
_D, _N = 8, 160


def rows_of(start: int, stop: int, seed: int) -> Any:
    """Make rows with columns of every type, vectors, and texts as ids."""
    table = every_type(stop - start, seed)
    vectors = np.random.default_rng(seed).standard_normal((stop - start, _D)).astype(np.float32)
    keys = [f"Schlüssel {i}" for i in range(start, stop)]
    table = table.append_column("key", pa.array(keys))
    return table.append_column(
        "v", pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), _D)
    )


def read_rows(index: teravec.Index) -> Any:
    """Return all rows of an index that may be visible, by ``get``."""
    return index.get([f"Schlüssel {i}" for i in range(2 * _N)], vectors=True)


def main(root: Path) -> None:
    """Write everything into an empty directory."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    path = root / "index"
    options: dict[str, Any] = {"codec": "flat", "nlist": 4, "slices": 2, "calibrate": False}
    teravec.build(
        rows_of(0, _N, 1), path, id_column="key", vector_column="v", columns="all", **options
    )
    teravec.add(path, rows_of(_N - 20, _N + 40, 2), vector_column="v")
    teravec.delete(path, ["Schlüssel 3", f"Schlüssel {_N}"])
    teravec.compact(path, full=True)
    for version in range(VERSIONS):
        with teravec.open(path, version=version) as index:
            table = read_rows(index)
        with pa.ipc.new_file(root / f"{version}.arrow", table.schema) as file:
            file.write_table(table.combine_chunks())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
