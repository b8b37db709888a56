"""Writes golden indexes that were changed: with versions, added segments and delete sets.

    python -m tests.golden.make_versions tests/golden/versions-1

They are indexes of ``format-1``, changed by the first release that could. As for ``make.py``: run
once, and never again.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np

import teravec
from tests.golden.make import D, answers

__all__ = ["CHANGED", "VERSIONS"]

CHANGED = ("l2-sq8", "cosine-two-stages", "ids-flat")
VERSIONS = 5
"""Of each index: the build, an addition, a deletion, a compaction, an addition."""


def _change(path: Path, base: np.ndarray) -> None:
    has_ids = path.name.startswith("ids")
    more = base[::5][:300] + np.float16(0.25)
    ids = 7 * np.arange(300) + 3 if has_ids else None
    teravec.add(path, more, ids=ids)
    teravec.delete(path, [3, 10, 17, 2510])
    teravec.compact(path, full=True)
    teravec.add(path, more[:50] + np.float16(0.25), ids=None if ids is None else ids[:50] + 1)


def main(root: Path) -> None:
    """Write everything into an empty directory."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    old = root.with_name("format-1")
    base, queries = np.load(old / "base.npy"), np.load(old / "queries.npy")
    assert base.shape[1] == D
    for name in CHANGED:
        shutil.copytree(old / name, root / name)
        _change(root / name, base)
        for version in range(VERSIONS):
            with teravec.open(root / name, version=version) as index:
                np.savez(root / f"{name}.{version}.npz", **answers(index, queries))
    written_by = {"teravec": teravec.__version__, "changed": CHANGED}
    (root / "made.json").write_text(json.dumps(written_by, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
