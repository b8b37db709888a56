"""How far each stage can spread: the busiest thread's share of its processor time.

    python -m benchmarks.cores FOLDER [--rows 1000000] [--threads 16]

With more processors a stage still takes its busiest thread's time. A share of a 24th or less lets
16 processors do the work nearly 16 times as fast as one. Shares need no machine of so many
processors: threads take turns, and each one's clock counts only its own work.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import teravec
from benchmarks import data, measure
from teravec.bars import StageTime

SHARE = 1 / 24
NLIST, NPROBE, K = 4096, 32, 10
ROW_GROUP = 65_536


def parquet(dataset: data.Dataset) -> Path:
    """Write a base as Parquet beside it, as pandas and Spark do; return its path."""
    path = dataset.base.with_suffix(".parquet")
    if not path.exists():
        d = dataset.matrix().shape[1]
        schema = pa.schema([("vector", pa.list_(pa.float32()))])
        with pq.ParquetWriter(path, schema) as writer:
            for _, block in dataset.blocks(ROW_GROUP):
                starts = np.arange(0, block.size + 1, d, dtype=np.int32)
                column = pa.ListArray.from_arrays(pa.array(starts), pa.array(block.ravel()))
                writer.write_table(pa.table([column], schema))
    return path


def run_stages(base: Path, dataset: data.Dataset, threads: int) -> list[StageTime]:
    """Run every stage on a base and return what each took."""
    bars = teravec.Bars(quiet=True)
    with tempfile.TemporaryDirectory(dir=base.parent) as folder:
        index = Path(folder) / "index"
        teravec.build(base, index, nlist=NLIST, threads=threads, progress=bars)
        teravec.groundtruth(base, dataset.query, K, threads=threads, progress=bars)
        with (
            bars.stage("search, a batch", 1, "batches"),
            teravec.open(index, threads=threads) as opened,
        ):
            opened.search(dataset.queries(), K, nprobe=NPROBE)
        shutil.rmtree(index)
    stages: list[StageTime] = bars.stages
    return stages


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=16)
    options = parser.parse_args()
    dataset = data.synthetic(options.folder, data.Synthetic(nb=options.rows))
    rows = []
    for base in (dataset.base, parquet(dataset)):
        for stage in run_stages(base, dataset, options.threads):
            cpu, busiest = stage.cpu_seconds, stage.busiest_thread_seconds
            times = f"{cpu / busiest:.0f}" if busiest else ""
            share = f"{busiest / cpu:.3f}" if cpu else ""
            seconds = [f"{stage.seconds:.1f}", f"{cpu:.1f}", f"{busiest:.2f}"]
            rows.append([base.suffix, stage.name, *seconds, share, times])
            print(*rows[-1], flush=True)
    section = (
        f"### the busiest thread's share, {options.threads} threads\n\n{dataset.name}, nlist "
        f"{NLIST:,}, sq8, calibrated. The share that lets 16 processors be used well: {SHARE:.3f}. "
        "Work that any thread may take does not count as one thread's. 'Times' is how many times "
        "one processor's speed the stage can reach.\n\n"
        + measure.table(
            ["source", "stage", "s", "processor s", "busiest thread, s", "share", "times"], rows
        )
    )
    print(section)
    measure.write_section("cores: busiest thread", section)


if __name__ == "__main__":
    main()
