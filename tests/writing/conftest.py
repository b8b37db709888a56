"""Indexes to change."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import teravec
from tests.conftest import clustered

D, NLIST = 16, 24
ROWS, QUERIES = np.split(clustered(3060, D, seed=5), [3000])
BASE = 2000  # rows of the build

CODECS = ("flat", "fp16", "sq8", "sq4", "pq8", "rabitq2", "rabitq1+sq8", "rabitq2+flat")

MakeIndex = Callable[..., Path]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> MakeIndex:
    """Build an index of the first rows, once for each kind; do not change it."""
    made: dict[tuple[str, str, bool], Path] = {}

    def get(codec: str = "flat", metric: str = "l2", ids: bool = False) -> Path:
        kind = codec, metric, ids
        if kind not in made:
            out = tmp_path_factory.mktemp("built") / "index"
            teravec.build(
                ROWS[:BASE],
                out,
                ids=10 * np.arange(BASE) if ids else None,
                nlist=NLIST,
                codec=codec,
                metric=metric,
                slices=3,
                calibrate=False,
            )
            made[kind] = out
        return made[kind]

    return get


@pytest.fixture
def index_of(built: MakeIndex, tmp_path: Path) -> MakeIndex:
    """Copy such an index, to be changed."""

    def get(codec: str = "flat", metric: str = "l2", ids: bool = False) -> Path:
        out = tmp_path / f"{codec}-{metric}-{ids}"
        shutil.copytree(built(codec, metric, ids), out)
        return out

    return get
