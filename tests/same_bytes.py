"""Builds some indexes and prints the checksums of their files; a program for test_same_bytes.py.

``python -m tests.same_bytes VECTORS DIRECTORY LEVEL FAISS_LEVEL NAME...``: a level of the compiled
kernels, or ``best`` for the own choice; the same for Faiss; and names of BUILDS.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import faiss

import teravec
from teravec.native import extensions

BUILDS: dict[str, dict[str, Any]] = {
    "groups": {"codec": "sq8", "nlist": 1000},
    "rotation": {"codec": "rabitq3", "nlist": 300, "metric": "cosine", "transform": "rotation"},
    "pca": {"codec": "pq10", "nlist": 300, "metric": "ip", "transform": "pca20"},
    "stages": {"codec": "rabitq2+pq11x4", "nlist": 300},
    "split": {"codec": "flat", "nlist": 100, "max_list_bytes": 20000},
    "small": {"codec": "pq4x4", "nlist": 40, "metric": "ip", "transform": "pca20"},
    "calibrated": {"codec": "fp16", "nlist": 50, "transform": "pca44", "calibrate": True},
}


def build(source: str, out: Path, options: dict[str, Any]) -> dict[str, str]:
    """Build an index; return the checksum of every file."""
    teravec.build(source, out, **{"niter": 4, "calibrate": False, "threads": 2, **options})
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def main(source: str, directory: str, level: str, faiss_level: str, *names: str) -> None:
    """Print the checksums of all builds as JSON."""
    if level != "best" and extensions.native is not None:
        extensions.level = int(level)
    if faiss_level != "best":
        faiss.SIMDConfig.set_level(getattr(faiss, f"SIMDLevel_{faiss_level}"))
    root = Path(directory)
    print(json.dumps({name: build(source, root / name, BUILDS[name]) for name in names}))


if __name__ == "__main__":
    main(*sys.argv[1:])
