"""An index that is open."""

from __future__ import annotations

import resource
from contextlib import ExitStack
from pathlib import Path

import numpy as np

import teravec
from tests.conftest import clustered, write_fbin


def test_as_many_slices_as_there_are_may_be_open(tmp_path: Path) -> None:
    """With the system's usual limit, 256 slices in two stages were too many."""
    x = clustered(2000, 8)
    base = write_fbin(tmp_path / "x.fbin", x)
    out = tmp_path / "i"
    teravec.build(base, out, nlist=50, slices=50, codec="rabitq2+sq8", calibrate=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        held = len(list(Path("/proc/self/fd").iterdir()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (held + 60, hard))
        with ExitStack() as opened:
            for _ in range(4):
                index = opened.enter_context(teravec.open(out))
            np.testing.assert_array_equal(index.search(x[:9], 1, 50)[1][:, 0], np.arange(9))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
