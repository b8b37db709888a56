"""Merging in little memory: lists go span by span, and open files are counted."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from teravec.engines.block_sizes import BlockSizes
from teravec.engines.resources import Resources
from teravec.errors import StorageError
from teravec.segments.merge import MergeOptions, merge, plan_span, plan_window
from teravec.segments.shard import sealed_shards
from teravec.storage.files import allow_open_files
from teravec.storage.layout import IndexPaths
from teravec.storage.listfile import ListFile, ListFileHeader, ListFileWriter
from tests.storage.lists import random_lists

MODEL, CODE_SIZE, NLIST = 77, 5, 40


def _write_shards(paths: IndexPaths, count: int) -> int:
    rng = np.random.default_rng(8)
    row = 0
    for seed in range(count):
        lists = random_lists(rng.integers(0, 30, NLIST), CODE_SIZE, seed)
        n = len(lists.ids)
        header = ListFileHeader(CODE_SIZE, 0, NLIST, row, row + n, n, MODEL)
        with (
            paths.shard(row, row + n).publish() as file,
            ListFileWriter(file, header, lists.sizes) as writer,
        ):
            writer.write(lists.codes, lists.ids)
            writer.finish()
        row += n
    return row


@pytest.mark.parametrize("span", [1, 7, 40])
def test_spans_of_lists_do_not_change_a_slice(tmp_path: Path, span: int) -> None:
    paths = IndexPaths(tmp_path)
    ntotal = _write_shards(paths, 3)
    options, resources = MergeOptions(MODEL, CODE_SIZE, 0, NLIST, ntotal, 2), Resources(64 << 20, 2)
    whole = merge(paths, options, resources)
    paths.slices.remove_all()
    small = BlockSizes(merge_window_bytes=400, merge_read_bytes=1, merge_span_lists=span)
    assert merge(paths, options, Resources(64 << 20, 2, sizes=small)) == whole
    with ListFile(paths.slice(0)) as merged, ListFile(sealed_shards(paths)[0]) as first:
        rows = slice(0, int(first.sizes[0]))
        np.testing.assert_array_equal(
            merged.read_ids(rows.start, rows.stop), first.read_ids(rows.start, rows.stop)
        )


def test_memory_bounds_spans_and_windows() -> None:
    assert plan_span(2000, 8 << 30) * 2000 * 64 <= 2 << 30
    assert plan_window(2000, 8 << 30, 8) <= (8 << 30) // 40
    assert plan_window(4, 8 << 30, 8) == 16 << 20


def test_more_files_than_the_system_allows_is_an_error() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
        allow_open_files(200)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 456
        if hard != resource.RLIM_INFINITY:
            with pytest.raises(StorageError, match="must be open at once"):
                allow_open_files(hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_few_descriptors_suffice_for_few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(64, 64)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    allow_open_files(32)
    assert limits[-1] == (64, 64)
    with pytest.raises(StorageError, match="33 files must be open at once, and 32 others"):
        allow_open_files(33)
