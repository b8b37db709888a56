"""What columns cost: a build with three of them beside one without, their bytes, and queries.

    python -m benchmarks.columns FOLDER [--n 1000000] [--d 96]

Builds take turns, and are without calibration, which columns do not change. Seconds are of the
processor. A look-up takes 10 rows; a query has 10 results, in memory, with and without columns.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import teravec
from benchmarks import measure

COLUMNS = ["url", "lang", "day"]
TURNS = 3
QUERIES = 200


def write_rows(path: Path, n: int, d: int) -> int:
    """Write vectors with three columns; return the bytes of a Parquet file of these alone."""
    rng = np.random.default_rng(0)
    vectors = pa.array(rng.standard_normal(n * d).astype(np.float32))
    days = rng.integers(0, 3650, n).astype("datetime64[D]")
    table = pa.table(
        {
            "url": [f"https://example.org/{at}/{i}" for i, at in enumerate(rng.integers(0, n, n))],
            "lang": rng.choice(["en", "de", "fr", "es"], n),
            "day": pa.array(days, pa.date32()),
        }
    )
    alone = path.with_name("columns.parquet")
    pq.write_table(table, alone)
    pq.write_table(table.append_column("v", pa.FixedSizeListArray.from_arrays(vectors, d)), path)
    return alone.stat().st_size


def build(source: Path, out: Path, columns: list[str] | None) -> float:
    """Build an index; return the processor's seconds."""
    shutil.rmtree(out, ignore_errors=True)
    started = time.process_time()
    teravec.build(source, out, columns=columns, calibrate=False)
    return time.process_time() - started


def median_ms(call: Callable[[int], object]) -> float:
    """Return the median of a call's milliseconds, the first tenth left out."""
    times = []
    for i in range(QUERIES):
        started = time.perf_counter()
        call(i)
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[QUERIES // 10 :])


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--d", type=int, default=96)
    given = parser.parse_args()
    source, out = given.folder / "rows.parquet", given.folder / "index"
    parquet_bytes = write_rows(source, given.n, given.d)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(TURNS):
        for kept in seconds:
            seconds[kept].append(build(source, out, COLUMNS if kept else None))
    without, three = (statistics.median(seconds[key]) for key in (False, True))
    held = sum(file.stat().st_size for file in (out / "slices").glob("*.columns"))
    queries = np.random.default_rng(1).standard_normal((QUERIES, given.d)).astype(np.float32)
    ids = np.random.default_rng(2).integers(0, given.n, (QUERIES, 10))
    with teravec.open(out) as index:
        index.search(queries, nprobe=16)
        plain = median_ms(lambda i: index.search(queries[i], nprobe=16))
        table = median_ms(lambda i: index.query(queries[i], nprobe=16, columns=COLUMNS))
        got = median_ms(lambda i: index.get(ids[i]))
    rows = [
        ["build without columns, s", f"{without:.1f}", ""],
        ["build with three, s", f"{three:.1f}", f"{three / without:.2f}"],
        ["Parquet of the columns, bytes", f"{parquet_bytes:,}", ""],
        ["column files, bytes", f"{held:,}", f"{held / parquet_bytes:.2f}"],
        ["search, 10 of nprobe 16, ms", f"{plain:.2f}", ""],
        ["query with three columns, ms", f"{table:.2f}", f"{table / plain:.1f}"],
        ["get of 10 rows, ms", f"{got:.2f}", ""],
    ]
    section = (
        f"### Columns\n\n{given.n:,} x {given.d} random vectors, sq8, with a url, a language and "
        "a day; medians. Builds by seconds of the processor, without calibration.\n\n"
        + measure.table(["what", "", "ratio"], rows)
    )
    print(section)
    measure.write_section("columns", section)


if __name__ == "__main__":
    main()
