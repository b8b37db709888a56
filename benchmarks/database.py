"""Reading a table of PostgreSQL with pgvector: one reader, several, and COPY TO alone.

    python -m benchmarks.database [--rows 200000] [--d 128] [--readers 16] [--memory 512MiB]

A server of its own runs on this machine, on a socket, and takes its share of the processors. What
is read is written, sealed and read back; ``COPY ... TO '/dev/null' (FORMAT binary)`` is what the
server gives when nobody takes it. The peak is that of a process that only reads.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.sources.databases.conftest import run
from tests.sources.databases.server import Postgres

from benchmarks import measure

QUERY = "select id, v from items"

READ = """
import json, resource, sys, time
from pathlib import Path
from teravec.memory import parse_bytes
from teravec.sources import as_query, open_data

uri, readers, memory, out = sys.argv[1:]
import pyarrow, adbc_driver_postgresql.dbapi  # what a process holds before it reads
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.perf_counter()
asked = as_query(uri, query="select id, v from items", partition_by="id", readers=int(readers))
source = open_data(asked, spool_path=Path(out), memory_bytes=parse_bytes(memory))
seconds = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"rows": source.ntotal, "seconds": seconds, "mib": (peak - before) / 1024}))
"""


def read(uri: str, readers: int, memory: str, folder: Path) -> dict[str, float]:
    """Read the table in a process of its own."""
    out = folder / f"{readers}.spool"
    command = [sys.executable, "-c", READ, uri, str(readers), memory, str(out)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=-1).stdout)
    return found


def main() -> None:
    """Make the table, read it, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--d", type=int, default=128)
    parser.add_argument("--readers", type=int, default=16)
    parser.add_argument("--memory", default="512MiB")
    options = parser.parse_args()
    server = Postgres()
    try:
        values = ", ".join(["(random() * i)::real"] + ["random()::real"] * (options.d - 1))
        run(
            server.uri(),
            "create extension vector",
            f"create table items (id bigint primary key, v vector({options.d}))",
            f"insert into items select i, array[{values}]::vector "
            f"from generate_series(1, {options.rows}) i",
            "vacuum analyze items",
        )
        rows, lines = options.rows, []
        began = time.perf_counter()
        run(server.uri(), f"copy ({QUERY}) to '/dev/null' (format binary)")
        copied = rows / (time.perf_counter() - began)
        lines.append(f"| COPY TO alone | {copied:,.0f} | | |")
        with tempfile.TemporaryDirectory() as folder:
            for readers in (1, options.readers):
                found = read(server.uri(), readers, options.memory, Path(folder))
                rate = rows / found["seconds"]
                share = rate / copied
                lines.append(
                    f"| readers: {readers} | {rate:,.0f} | {share:.2f} | {found['mib']:.0f} |"
                )
    finally:
        server.stop()
    print(f"{rows:,} x {options.d}, --memory {options.memory}; {measure.machine()}\n")
    print("| | vectors/s | of COPY TO | MiB beside the libraries |\n| --- | --- | --- | --- |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
