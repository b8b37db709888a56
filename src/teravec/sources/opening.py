"""Opening a source: from paths, from open files, or again in another process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from teravec.arguments import text
from teravec.engines.threads import ordered_map
from teravec.errors import InvalidSource
from teravec.sources.attaching import find_attributes, find_beside, refuse_text_ids
from teravec.sources.attributes import Attributes
from teravec.sources.columnar import Columns
from teravec.sources.formats import open_vector_file
from teravec.sources.matrix import Source, SourceFiles
from teravec.sources.paths import Member, PathLike, discover
from teravec.sources.remote import RemotePath
from teravec.sources.skipped import NONE
from teravec.sources.source_file import SourceFile
from teravec.sources.vectorfile import VectorFile

__all__ = ["open_files", "open_rows", "open_source", "reopen"]

_OPENERS = 16  # files elsewhere that are opened at the same time


def reopen(files: SourceFiles) -> Source:
    """Open a source again, as `open_source` did."""
    if files.held is not None:
        return files.held
    source = open_source(
        files.paths,
        id_column=files.id_column,
        vector_column=files.vector_column,
        skip_bad=files.skipped is not None,
        columns=files.columns,
        attributes=files.beside,
    )
    if files.attributes is not None:
        source.attributes = files.attributes
    if files.schema is not None:
        source = source.declare_columns(files.schema)
    return source if files.skipped is None else source.drop_rows(files.skipped)


def open_source(
    paths: PathLike | Sequence[PathLike],
    *,
    id_column: str | None = None,
    vector_column: str | None = None,
    format: str | None = None,
    skip_bad: bool = False,
    columns: Sequence[str] = (),
    attributes: Any = None,
    spool_path: Path | None = None,
) -> Source:
    """Open files of vectors as one source; this reads headers, but no vectors.

    Parameters
    ----------
    paths : path, or sequence of paths
        Files, folders and glob patterns, read in this order; see `paths.discover`. Members of a
        folder or pattern come in natural order (chunk-2 before chunk-10). The extension states
        the format: .fvecs .bvecs .ivecs .fbin .f16bin .u8bin .i8bin .npy .parquet .arrow
        .feather.
    id_column : str, optional
        Integer column of ids. Not given: ids are row numbers.
    vector_column : str, optional
        List column to read. Not given: the only one. A field of a struct is named with its
        column, as in "embedding.values".
    format : str, optional
        Format of all files, whatever their names: an extension without its dot.
    skip_bad : bool
        Read bad rows as NaN, so that `find_bad` can find them.
    columns : sequence of str
        Columns that the index keeps; ``("all",)`` for every one.
    attributes : path-like or table, optional
        Has these columns, in the order of the files' rows. Not given: the files have them.
    spool_path : Path, optional
        Beside which ``attributes`` are spooled that can only be read in order.

    Returns
    -------
    Source

    Raises
    ------
    InvalidSource
        A file is missing or does not have the format that its extension states, files differ in
        dimension, or no file has rows.
    StorageError
        A file may not be read.
    """
    source = open_rows(
        paths,
        id_column=id_column,
        vector_column=vector_column,
        format=format,
        skip_bad=skip_bad,
        columns=columns,
        attributes=attributes,
        spool_path=spool_path,
    )
    _check_any_rows(source.files)
    return source


def open_files(
    files: Sequence[VectorFile],
    id_column: str | None = None,
    vector_column: str | None = None,
    *,
    skip_bad: bool = False,
    attributes: Attributes | None = None,
) -> Source:
    """Make one source of open files, which must have rows and a common dimension."""
    _check_dimensions(files)
    skipped = NONE if skip_bad else None
    source = Source(files, id_column, vector_column, None, skipped, attributes)
    _check_any_rows(source.files)
    return source


def _check_any_rows(files: Sequence[SourceFile]) -> None:
    if not any(file.n for file in files):
        names = ", ".join(str(file.path) for file in files[:3])
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        raise InvalidSource(f"{names}{more}: empty source: 0 rows found, expected 1 or more")


def open_rows(
    paths: PathLike | Sequence[PathLike],
    *,
    id_column: str | None = None,
    vector_column: str | None = None,
    format: str | None = None,
    skip_bad: bool = False,
    columns: Sequence[str] = (),
    attributes: Any = None,
    spool_path: Path | None = None,
) -> Source:
    """Do as `open_source`, but accept files without any row."""
    named = Columns(
        None if id_column is None else text(id_column, "id_column"),
        None if vector_column is None else text(vector_column, "vector_column"),
        lenient=skip_bad,
        kept=() if attributes is not None else tuple(columns),
    )
    members = discover(paths, None if format is None else text(format, "format"))
    files = _open_all(members, named)
    _check_dimensions(files)
    found = find_attributes(files, named)
    if attributes is not None:
        refuse_text_ids(files)
        found = find_beside(attributes, columns, spool_path)
        found.check_rows(sum(file.n for file in files), "the source")
    skipped = NONE if skip_bad else None
    return Source(files, id_column, vector_column, members, skipped, found)


def _open_all(members: Sequence[Member], columns: Columns) -> list[VectorFile]:
    """Open files; those elsewhere side by side, since each waits for its answers."""

    def opened(member: Member) -> VectorFile:
        return open_vector_file(member.path, columns, member.format)

    if any(isinstance(member.path, RemotePath) for member in members):
        return list(ordered_map(opened, members, threads=_OPENERS))
    return list(map(opened, members))


def _check_dimensions(files: Sequence[VectorFile]) -> None:
    filled = [file for file in files if file.n > 0]
    for file in filled:
        if file.d != filled[0].d:
            raise InvalidSource(
                f"{file.path}: dimension {file.d} found, "
                f"expected {filled[0].d} as in {filled[0].path}"
            )
