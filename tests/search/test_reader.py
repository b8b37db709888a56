"""Reading lists: what is joined, and searches that begin before all has arrived."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import teravec
from teravec.index.opened import OpenedIndex
from teravec.native import extensions as compiled
from teravec.native import reads
from teravec.search.index import Index
from teravec.search.memory_shares import MemoryShares
from teravec.search.reader import ReadSizes
from teravec.storage.device_cache import keep_profile
from teravec.storage.local_file import ALIGNMENT
from teravec.storage.local_store import LocalStore
from teravec.storage.range_reader import RangeReader
from teravec.storage.store import Ranges
from teravec.storage.user_cache import CACHE_VARIABLE
from tests.storage.test_device import made_up


@pytest.mark.skipif(compiled.reading is None, reason="not compiled")
@settings(max_examples=200, deadline=None)
@given(
    lists=st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 80_000), st.integers(1, 300_000)),
        min_size=1,
        max_size=30,
    )
)
def test_joined_as_on_numpy(lists: list[tuple[int, int, int]]) -> None:
    """Lists of two files: which file comes next, the gap before a list, and its length."""
    steps, gaps, lengths = (np.array(column) for column in zip(*lists, strict=True))
    slices = np.minimum(np.cumsum(steps), 1)
    offsets = np.cumsum(gaps + lengths) - lengths
    limits = 32 << 10, 1 << 20, ALIGNMENT  # gaps, segments, and what reads are aligned to
    columns, bounds, at = reads.join(*limits, slices, offsets, lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "reading", None)
        expected = reads.join(*limits, slices, offsets, lengths)
    for one, other in zip((*columns, bounds, at), (*expected[0], *expected[1:]), strict=True):
        np.testing.assert_array_equal(one, other)
    ranges = Ranges(None, slices[bounds[:-1]], *columns)  # type: ignore[arg-type]
    owners = np.repeat(np.arange(len(ranges)), np.diff(bounds))
    within = at - ranges.at[owners]
    np.testing.assert_array_equal(ranges.offsets[owners] + within, offsets)
    assert (within + lengths <= ranges.lengths[owners]).all()


@pytest.mark.parametrize("nq", [1, 50])
@pytest.mark.parametrize("codec", ["sq8", "rabitq2+sq8"])
def test_piece_by_piece_is_the_same(
    nq: int, codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    np.save(tmp_path / "base.npy", rng.standard_normal((4000, 24), np.float32))
    teravec.build(tmp_path / "base.npy", tmp_path / "index", nlist=60, codec=codec, calibrate=False)
    queries = rng.standard_normal((nq, 24), np.float32)
    with teravec.open(tmp_path / "index", memory="64MiB") as index:
        expected = index.search(queries, 10, 40)
    pieces = []

    def one_by_one(
        self: RangeReader, ranges: Ranges, buffer: np.ndarray, stops: Sequence[int]
    ) -> Generator[int, None, None]:
        aside = np.zeros(len(buffer) + 4096, np.uint8)
        aside = aside[-aside.ctypes.data % 4096 :][: len(buffer)]
        self.read(ranges, aside)
        buffer[:] = 0
        begun = 0
        for stop in stops:
            for item in map(ranges.one, range(begun, stop)):
                part = slice(item.at, item.at + item.needed)
                buffer[part] = aside[part]
            pieces.append(stop)
            yield stop
            begun = stop

    real = RangeReader.filled

    def filled(
        self: RangeReader, ranges: Ranges, buffer: np.ndarray, stops: Sequence[int]
    ) -> Generator[int, None, None]:
        if len(stops) == 1:
            return real(self, ranges, buffer, stops)
        return one_by_one(self, ranges, buffer, stops)

    monkeypatch.setattr(RangeReader, "filled", filled)
    apart = OpenedIndex(LocalStore(tmp_path / "index", gap_bytes=1))
    shares = MemoryShares.of(apart, 64 << 20, keep_lists=True)
    shares = replace(shares, reads=ReadSizes(segment_bytes=4096, piece_bytes=1))
    with Index(apart, shares=shares, threads=2) as index:
        found = index.search(queries, 10, 40)
    assert len(pieces) > 3
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_disk_that_seeks_is_asked_for_more_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A measurement of the disk decides how far apart lists are read together."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    rng = np.random.default_rng(6)
    np.save(tmp_path / "base.npy", rng.standard_normal((40_000, 24), np.float32))
    teravec.build(tmp_path / "base.npy", tmp_path / "index", nlist=60, calibrate=False)
    queries = rng.standard_normal((20, 24), np.float32)
    reads, found = [], []
    for read_s in (1e-6, 8e-3):  # each 5 ns a byte
        keep_profile(made_up(read_s, 5e-9), tmp_path / "index")
        with teravec.open(tmp_path / "index", memory="64MiB") as index:
            found.append([index.search(query[None], 10, 4) for query in queries])
            reads.append(index.stats.reads)
    assert reads[1] < 0.7 * reads[0]
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
