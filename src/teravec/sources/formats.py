"""Which reader opens which file: by extension, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from teravec.errors import InvalidSource
from teravec.sources import bin, npy, vecs
from teravec.sources.columnar import Columns
from teravec.sources.ipc import open_ipc
from teravec.sources.parquet import open_parquet
from teravec.sources.vectorfile import VectorFile

__all__ = ["EXTENSIONS", "has_columns", "has_known_extension", "open_vector_file"]

_PLAIN: dict[str, Callable[[Path], VectorFile]] = {
    **dict.fromkeys(vecs.DTYPES, vecs.open_vecs),
    **dict.fromkeys(bin.DTYPES, bin.open_bin),
    ".npy": npy.open_npy,
}
_COLUMNAR: dict[str, Callable[[Path, Columns], VectorFile]] = {
    ".parquet": open_parquet,
    ".arrow": open_ipc,
    ".feather": open_ipc,
}

EXTENSIONS = (*_PLAIN, *_COLUMNAR)
"""Extensions read, lower case; a file's own may be in either case."""


def has_known_extension(path: Path) -> bool:
    """Whether some reader takes files so named."""
    return path.suffix.lower() in EXTENSIONS


def has_columns(path: Path) -> bool:
    """Whether files so named hold columns, of which one is the vectors."""
    return path.suffix.lower() in _COLUMNAR


def open_vector_file(path: Path, columns: Columns) -> VectorFile:
    """Open a file by its extension.

    Raises
    ------
    InvalidSource
        An extension that is not read, a column named for a format without columns, or a file
        that is not what its extension says.
    """
    extension = path.suffix.lower()
    if extension in _COLUMNAR:
        return _COLUMNAR[extension](path, columns)
    if extension not in _PLAIN:
        raise InvalidSource(
            f"{path}: extension {extension!r} found, expected one of {', '.join(EXTENSIONS)}"
        )
    named = columns.ids or columns.vectors
    if named is not None:
        known = ", ".join(_COLUMNAR)
        raise InvalidSource(
            f"{path}: column {named!r} is named, but {extension} files have no columns; "
            f"expected {known}"
        )
    return _PLAIN[extension](path)
