"""An index with inverted files that an older release wrote: it opens, filters, and is changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa

import teravec
from teravec.filters.bind import bind
from teravec.filters.evaluate import passing_rows
from teravec.filters.filter import parse_filter
from tests.golden.make_filters import COLUMNS, QUESTIONS, TOTAL, VERSIONS, rows_of

WRITTEN = Path(__file__).parent / "filters-1"


def test_every_version_filters(tmp_path: Path) -> None:
    path = Path(shutil.copytree(WRITTEN / "index", tmp_path / "index"))
    teravec.verify(path)
    whole = pa.concat_tables([rows_of(0, 2000), rows_of(2000, TOTAL)])
    for version in [*range(VERSIONS), None]:
        if version is None:  # and changed by this release
            teravec.delete(path, [7, 9])
            teravec.compact(path, full=True)
        with teravec.open(path, version=version) as index:
            files = [file for file in index.steps.opened.inverted_files if file is not None]
            names = {name for file in files for name in file.columns}
            assert names == {*COLUMNS.split(","), *([] if version == 0 else ["price"])}
            rows = whole[:2000] if version == 0 else whole
            for text in QUESTIONS:
                columns = {name: rows[name].combine_chunks() for name in rows.column_names}
                expected = np.flatnonzero(
                    passing_rows(bind(parse_filter(text), rows.schema), columns)
                )
                if version is None:
                    expected = np.setdiff1d(expected, [7, 9])
                _, ids = index.search(np.zeros(8, np.float32), TOTAL, 4, filter=text)
                assert np.array_equal(np.sort(ids[ids >= 0]), expected), text
