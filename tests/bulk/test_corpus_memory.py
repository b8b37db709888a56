"""Queries and results may be larger than memory: a child's peak does not grow with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import teravec
from teravec.memory import MIB
from tests.conftest import clustered, write_fbin

N, D, K, LIMIT = 24_000, 200, 300, 40 * MIB
APART = 300 * MIB  # interpreter and libraries, as --memory says
SLACK = 40 * MIB  # what a row group of Parquet takes in passing

# Not ru_maxrss, in which a child begins with its parent's memory.
_MEASURED = """
import re, sys
from pathlib import Path
from teravec.cli.main import app
try:
    app(sys.argv[1:])
finally:
    print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 300 vectors, and 19 MB of queries, or a twentieth of them."""
    root = tmp_path_factory.mktemp("corpus-memory")
    vectors = clustered(N, D)
    write_fbin(root / "many.fbin", vectors)
    write_fbin(root / "few.fbin", vectors[: N // 20])
    write_fbin(root / "x.fbin", vectors[:300])
    teravec.build(root / "x.fbin", root / "i", nlist=2, codec="sq8", niter=2, calibrate=False)
    return root


def peak_bytes(*arguments: object) -> int:
    """Peak resident memory of a command."""
    command = [sys.executable, "-c", _MEASURED, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return 1024 * int(result.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("extension", "question"),
    [
        (".bin", ["search", "-k", K]),
        # Millions of results to sort, some thousand at a time.
        pytest.param(".parquet", ["range-search", "--radius", "1e9"], marks=pytest.mark.slow),
    ],
)
def test_peak_memory(extension: str, question: list[object], root: Path, tmp_path: Path) -> None:
    def peak(queries: str) -> int:
        return peak_bytes(
            question[0],
            root / "i",
            root / queries,
            *question[1:],
            "--nprobe",
            2,
            "--out",
            tmp_path / f"{queries}{extension}",
            "--memory",
            LIMIT,
            "-q",
        )

    few, many = peak("few.fbin"), peak("many.fbin")
    out = tmp_path / f"many.fbin{extension}"
    total = N * K if extension == ".bin" else pq.ParquetFile(out).metadata.num_rows
    held = total * 12 + N * D * 4  # what it would take to hold distances, ids and queries
    assert held > 2 * LIMIT, total
    assert many < APART + LIMIT
    assert many - few < SLACK < held / 2
