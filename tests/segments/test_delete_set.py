"""Deleted ids: which are hidden in rows of which version, with a table and without."""

from __future__ import annotations

from dataclasses import dataclass
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from teravec.segments.delete_set import DeletedIds, DeleteSet, read_deleted
from teravec.storage.arrays import write_array
from teravec.storage.layout import IndexPaths

IDS = st.lists(st.integers(0, 40) | st.integers(0, (1 << 63) - 1), max_size=30, unique=True)


@dataclass(frozen=True)
class Rows:
    sequences: tuple[int, int]
    deletes_through: int


@settings(max_examples=60, deadline=None)
@given(sets=st.lists(IDS, max_size=5), looked_up=IDS, known=st.integers(0, 5), table=st.booleans())
def test_rows_are_hidden_by_later_sets(
    sets: list[list[int]], looked_up: list[int], known: int, table: bool
) -> None:
    ids = np.array(looked_up + [i for some in sets for i in some], np.int64)
    with TemporaryDirectory() as folder:
        paths, entries = IndexPaths(folder), []
        for number, some in enumerate(sets, 1):
            path = paths.file("deletes") / f"{number}.npy"
            described = write_array(path, np.sort(np.array(some, np.int64)))
            entries.append(DeleteSet(path.name, count=len(some), sequence=number, **described))
        before = DeletedIds(paths, entries[:known])
        before.make_table(1 << 20)
        deleted = DeletedIds(paths, entries, before)
        if table:
            deleted.make_table(1 << 20)
        rows = [Rows((0, first), through) for first in range(6) for through in (0, 2, 5)]
        alone = read_deleted(paths, entries, rows)
    for group, other in zip(rows, alone, strict=True):
        apply = [s for entry, s in zip(entries, sets, strict=True) if entry.hides_in(group)]
        expected = np.isin(ids, [i for some in apply for i in some])
        hidden = deleted.hidden_in(group)
        np.testing.assert_array_equal(hidden.find(ids), expected)
        np.testing.assert_array_equal(other.find(ids), expected)
        assert hidden.any == any(apply)
        assert list(hidden.sets) == [entry for entry in entries if entry.hides_in(group)]
