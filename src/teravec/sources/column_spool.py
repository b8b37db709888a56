"""Spools of columns: sealed column files for what can be read once only, or only in order.

The columns of a stream lie beside its vectors, as ``OUT.columns.spool`` beside ``OUT.spool``; so do
those of a .csv file and, for other processes, those in this process's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from teravec.errors import InvalidSource
from teravec.sources.attributes import RowsOfColumns
from teravec.sources.spool import SPOOL
from teravec.storage.column_types import name_type
from teravec.storage.columnfile import ColumnFileHeader, ColumnFileWriter, verify_columns
from teravec.storage.files import make_directory
from teravec.storage.local_store import LocalStore
from teravec.storage.store import StorePath

__all__ = ["columns_spool", "spooling_columns"]


def columns_spool(path: Path) -> Path:
    """Return where the columns lie that belong to a spool of vectors."""
    return path.with_name(path.name.removesuffix(SPOOL) + ".columns" + SPOOL)


@contextmanager
def spooling_columns(path: Path) -> Iterator[Callable[[RowsOfColumns], None]]:
    """Publish a spool of columns; the body adds their rows, one block after another.

    The first block fixes the columns and their types.

    Raises
    ------
    InvalidSource
        A block has a column of another type, or there is no block.
    """
    make_directory(path.parent)
    writer: ColumnFileWriter | None = None
    with StorePath(LocalStore(path.parent), path.name).publish(verify_columns) as file:

        def add(rows: RowsOfColumns) -> None:
            nonlocal writer
            if writer is None:
                schema = pa.schema([field.with_nullable(True) for field in rows.schema])
                writer = ColumnFileWriter(file, ColumnFileHeader(0, 0, 0, 0), schema)
            for ours, theirs in zip(writer.schema, rows.schema, strict=True):
                if ours.type != theirs.type:
                    raise InvalidSource(
                        f"{rows.name}: column {theirs.name!r} of type {name_type(theirs.type)} "
                        f"found, expected {name_type(ours.type)} as in the first rows"
                    )
            for batch in rows.batches(0, rows.n):
                writer.write(batch)

        yield add
        if writer is None:
            raise InvalidSource(f"{path.name}: no rows found, expected 1 or more")
        writer.finish()
