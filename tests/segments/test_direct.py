"""Rows that are encoded straight into a segment: the same bytes as by shards and a merge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import teravec
from tests.writing.conftest import BASE, ROWS, MakeIndex, built, index_of

__all__ = ["built", "index_of"]


@pytest.mark.parametrize("codec", ["sq8", "rabitq1+sq8"])
def test_the_segment_is_that_of_a_merge(
    index_of: MakeIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    files = []
    for direct in (True, False):
        out = tmp_path / str(direct)
        index_of(codec).rename(out)
        with monkeypatch.context() as patch:
            if not direct:
                patch.setattr("teravec.writing.adding.encode_directly", lambda *_: None)
            teravec.add(out, ROWS[BASE:], ids=np.arange(BASE, len(ROWS)))
        files.append({p.suffix: p.read_bytes() for p in (out / "segments").iterdir()})
    assert files[0] == files[1]
