"""Finding the columns that an index keeps: in the source's files, beside them, or in a spool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from teravec.errors import InvalidArgument, InvalidSource
from teravec.sources.attributes import ALL, Attributes, SealedColumns, TableColumns, choose_columns
from teravec.sources.column_spool import columns_spool, spooling_columns
from teravec.sources.columnar import ColumnarFile, Columns, ColumnTable, arrow_errors
from teravec.sources.fingerprint import fingerprint
from teravec.sources.formats import open_table_file
from teravec.sources.held import HeldFile
from teravec.sources.holding import open_table
from teravec.sources.spool import SPOOL, SpoolFile
from teravec.sources.tables import ArrowTable
from teravec.sources.vectorfile import VectorFile, source_errors
from teravec.storage.columnfile import ColumnFile

__all__ = [
    "find_attributes",
    "find_beside",
    "keep_text_ids",
    "refuse_text_ids",
    "spool_attributes",
    "spooling_blocks",
]

_CSV_BYTES = 4 << 20


def find_attributes(files: Sequence[VectorFile], columns: Columns) -> Attributes | None:
    """Find the columns to keep among those of the source's own files; None if none are named.

    Raises
    ------
    InvalidSource
        A file has no columns, or not these, or a type that cannot be kept.
    """
    columns = keep_text_ids(files, columns)
    if not columns.kept:
        return None
    if len(files) == 1 and isinstance(files[0], SpoolFile):
        return _open_spooled(columns_spool(files[0].path), columns.kept)
    tables = [_table_of(file, columns.kept) for file in files]
    left_out = [files[0].vector_column, None if _have_text_ids(files) else columns.ids]
    names = choose_columns(tables, columns.kept, left_out)
    return Attributes(tuple(TableColumns(table, names) for table in tables))


def _have_text_ids(files: Sequence[VectorFile]) -> bool:
    return any(isinstance(file, ColumnarFile) and file.has_text_ids for file in files)


def refuse_text_ids(files: Sequence[VectorFile]) -> None:
    """Raise InvalidSource if ids are texts: a table beside the files would have to hold them."""
    if _have_text_ids(files):
        raise InvalidSource(
            f"{files[0].path}: ids that are texts found, and a table of attributes beside them; "
            "give all columns in one table"
        )


def keep_text_ids(files: Sequence[VectorFile], columns: Columns) -> Columns:
    """Return the columns with that of the ids among those that are kept, if ids are texts."""
    if columns.ids is None or not _have_text_ids(files):
        return columns
    if columns.kept == ALL or columns.ids in columns.kept:
        return columns
    return replace(columns, kept=(columns.ids, *columns.kept))


def _table_of(file: VectorFile, names: Sequence[str]) -> ColumnTable:
    if isinstance(file, ColumnarFile):
        return file.table
    if isinstance(file, HeldFile) and file.others is not None:
        return file.others
    raise InvalidSource(
        f"{file.path}: column {names[0]!r} is to be kept, but there are no columns here; give a "
        "table with a row for each vector, as --attributes FILE (attributes=)"
    )


def _open_spooled(path: Path, names: Sequence[str]) -> Attributes:
    if not path.exists():
        raise InvalidSource(
            f"{path}: no such file; the vectors were spooled without columns: remove their spool "
            "and give the data again"
        )
    file = ColumnFile(path)
    known = file.schema.names
    chosen = known if tuple(names) == ALL else list(names)
    if missing := [name for name in chosen if name not in known]:
        raise InvalidSource(
            f"{path}: columns {', '.join(known)} found, {missing[0]!r} expected too; remove the "
            "spool and give the data again"
        )
    return Attributes((SealedColumns(file, chosen),), path=str(path))


def find_beside(given: Any, columns: Sequence[str], spool_path: Path | None) -> Attributes:
    """Find the columns to keep in a table beside the vectors: a file, or one in memory.

    Parameters
    ----------
    given : path-like or table
        .parquet, .arrow, .feather or .csv; a table or data frame.
    columns : sequence of str
        All columns if empty.
    spool_path : Path, optional
        The spool of the vectors, if there were one: .csv is spooled beside it.
    """
    names = tuple(columns) or ALL
    if not isinstance(given, str | Path):
        table = open_table(Path("attributes"), given, Columns(kept=names))
        if table is None:
            raise InvalidArgument(
                f"attributes: {type(given).__name__} found; a file, a table or a data frame "
                "expected, with a row for each vector"
            )
        found = _choose(table, names)
        digest = found.describe(by_content=True)["fingerprint"]
        return Attributes(found.parts, {"name": "attributes in memory", "fingerprint": digest})
    path = Path(given)
    if path.suffix == SPOOL:
        return _open_spooled(path, names)
    with source_errors(path):
        size = path.stat().st_size
    described = {"name": path.name, "size_bytes": size, "fingerprint": fingerprint(path)}
    if path.suffix.lower() != ".csv":
        return Attributes(_choose(open_table_file(path), names).parts, described, str(path))
    if spool_path is None:
        raise InvalidArgument(f"{path}: .csv is read only where there is place to spool it")
    out = columns_spool(spool_path)
    if not out.exists():
        _spool_csv(path, columns, out)
    return Attributes(_open_spooled(out, names).parts, described, str(out))


def _choose(table: ColumnTable, names: Sequence[str]) -> Attributes:
    return Attributes((TableColumns(table, choose_columns([table], names, [])),))


def _spool_csv(path: Path, columns: Sequence[str], out: Path) -> None:
    """Spool a .csv file; pyarrow infers the types from its first block."""
    read = pyarrow.csv.ReadOptions(block_size=_CSV_BYTES, use_threads=False)
    convert = pyarrow.csv.ConvertOptions(include_columns=list(columns))
    with (
        spooling_columns(out) as add,
        arrow_errors(path),
        pyarrow.csv.open_csv(path, read_options=read, convert_options=convert) as reader,
    ):
        for batch in reader:
            table = ArrowTable(path, pa.Table.from_batches([batch]))
            add(TableColumns(table, table.names))


def spool_attributes(attributes: Attributes, spool_path: Path) -> Attributes:
    """Write columns in this process's memory to a spool, from which other processes can read."""
    out = columns_spool(spool_path)
    if attributes.path is not None:
        return attributes
    if not out.exists():
        with spooling_columns(out) as add:
            for part in attributes.parts:
                add(part)
    spooled = _open_spooled(out, attributes.schema.names)
    return Attributes(spooled.parts, attributes.beside, str(out))


def spooling_blocks(
    blocks: Iterator[VectorFile], columns: Columns, spool_path: Path
) -> Iterator[VectorFile]:
    """Pass a stream's blocks on, and spool their columns.

    The columns are sealed at the stream's end, before its vectors are: where a spool of vectors is,
    that of their columns is complete.
    """
    if spool_path.exists():
        yield from blocks
        return
    first = next(blocks, None)
    if first is not None:
        blocks = chain([first], blocks)
        columns = keep_text_ids([first], columns)
    if not columns.kept:
        yield from blocks
        return
    with spooling_columns(columns_spool(spool_path)) as add:
        for block in blocks:
            if block.n:
                found = find_attributes([block], columns)
                assert found is not None
                add(found.parts[0])
            yield block
