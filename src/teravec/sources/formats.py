"""Choosing the reader of a file: by the user's format, by its name, or by its first bytes.

First bytes decide only if they are unmistakable: the magic of .npy, Parquet and Arrow. Formats
with a header of two numbers look alike. If the file's name does not tell them apart, the user
must.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

from teravec.errors import InvalidArgument, InvalidSource
from teravec.sources import bin, npy, vecs
from teravec.sources.columnar import ColumnarFile, Columns, ColumnTable
from teravec.sources.conversions import conversion
from teravec.sources.ipc import IpcTable
from teravec.sources.packed import read_head
from teravec.sources.parquet import ParquetTable
from teravec.sources.remote import SourcePath, local_name
from teravec.sources.spool import SPOOL, open_spool
from teravec.sources.vectorfile import VectorFile

__all__ = [
    "EXTENSIONS",
    "FORMATS",
    "by_magic",
    "has_columns",
    "known_format",
    "open_table_file",
    "open_vector_file",
    "parse_format",
]

_PLAIN: dict[str, Callable[[SourcePath], VectorFile]] = {
    **{name: partial(vecs.open_vecs, dtype=dtype) for name, dtype in vecs.DTYPES.items()},
    **{name: partial(bin.open_bin, dtype=dtype) for name, dtype in bin.DTYPES.items()},
    "npy": npy.open_npy,
}
_TABLES: dict[str, Callable[[SourcePath], ColumnTable]] = {
    "parquet": ParquetTable,
    "arrow": IpcTable,
    "feather": IpcTable,
}

FORMATS = (*_PLAIN, *_TABLES)
"""Names of the formats, the values of ``--format``."""

EXTENSIONS = tuple(f".{name}" for name in FORMATS)
"""Known extensions in lower case; file names may have either case."""

_ALIASES = {"ipc": "arrow", "arrows": "arrow", "pq": "parquet", "parq": "parquet"}

_CROPPED = re.compile(r"\.(fbin|f16bin|u8bin|i8bin)\.crop_nb_[0-9]+$")  # big-ann-benchmarks
_DEEP1B = re.compile(r"(base|learn)_[0-9]{2}")  # files of Deep1B: .fvecs without the extension
_HEADED = struct.Struct("<II")
_MAGIC = ((b"\x93NUMPY", "npy"), (b"PAR1", "parquet"), (b"ARROW1", "arrow"))


def has_columns(format: str | None) -> bool:
    """Whether files of this format have columns, one of which holds the vectors."""
    return format in _TABLES


def parse_format(name: str) -> str:
    """Return the format of this name, with or without a dot, or raise InvalidArgument."""
    plain = name.lower().removeprefix(".")
    plain = _ALIASES.get(plain, plain)
    if plain not in FORMATS:
        hint = "; .bin is one of fbin, u8bin and i8bin" if plain == "bin" else ""
        raise InvalidArgument(f"format {name!r} found, expected one of {', '.join(FORMATS)}{hint}")
    return plain


def known_format(path: SourcePath) -> str | None:
    """Return the format that a file's name states, or None; ``bin`` has a header of n and d."""
    suffix = path.suffix.lower().removeprefix(".")
    suffix = _ALIASES.get(suffix, suffix)
    if suffix in FORMATS or suffix == "bin":
        return suffix
    if cropped := _CROPPED.search(path.name.lower()):
        return cropped[1]
    return "fvecs" if _DEEP1B.fullmatch(path.name) else None


def open_vector_file(path: SourcePath, columns: Columns, format: str | None = None) -> VectorFile:
    """Open a file of vectors.

    Parameters
    ----------
    path : Path
    columns : Columns
    format : str, optional
        One of ``FORMATS``. Not given: the file's name or first bytes decide.

    Raises
    ------
    InvalidSource
        The format is unknown or uncertain, a column is named for a format without columns, or
        the file does not have the format that its name states.
    """
    name = format or known_format(path) or by_magic(path)
    # A spool must be named explicitly: it is none of the formats that folders are searched for.
    if name is None and isinstance(path, Path) and path.suffix.lower() == SPOOL:
        return open_spool(path)
    if name is None:
        _refuse(path)
    if name in _TABLES:
        return ColumnarFile(_TABLES[name](path), columns)
    if name == "bin":
        return _open_headed(path)
    named = columns.ids or columns.vectors
    if named is not None:
        known = ", ".join(f".{known}" for known in _TABLES)
        raise InvalidSource(
            f"{path}: column {named!r} is named, but .{name} files have no columns; "
            f"expected {known}"
        )
    return _PLAIN[name](path)


def open_table_file(path: SourcePath) -> ColumnTable:
    """Open a file of columns, which need not hold vectors.

    Raises
    ------
    InvalidSource
    """
    name = known_format(path) or by_magic(path)
    if name not in _TABLES:
        known = ", ".join(f".{known}" for known in _TABLES)
        raise InvalidSource(f"{path}: a table of columns expected, as {known} or .csv")
    return _TABLES[name](path)


def by_magic(path: SourcePath) -> str | None:
    """Return the format that a file's first bytes prove, or None."""
    head, _ = read_head(path, 8)
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None)


def _open_headed(path: SourcePath) -> VectorFile:
    """Open a .bin of DiskANN: float32, unless the size contradicts that."""
    head, size = read_head(path, _HEADED.size)
    if len(head) == _HEADED.size:
        n, d = _HEADED.unpack(head)
        if n * d and size == _HEADED.size + n * d:
            raise InvalidSource(
                f"{path}: {n:,} x {d} values of one byte found; add --format u8bin or "
                "--format i8bin to say which they are"
            )
        if n * d and size != _HEADED.size + 4 * n * d:
            raise InvalidSource(
                f"{path}: {size} bytes found, expected {_HEADED.size + 4 * n * d} for its header's "
                f"n={n}, d={d} of float32; if .bin means another format here, add --format with "
                f"one of {', '.join(FORMATS)}"
            )
    return _PLAIN["fbin"](path)


def _refuse(path: SourcePath) -> NoReturn:
    known = f"expected one of {', '.join(EXTENSIONS)}"
    if (line := conversion(local_name(path))) is not None:
        raise InvalidSource(f"{path}: extension {path.suffix!r} found, {known}; convert it: {line}")
    raise InvalidSource(
        f"{path}: extension {path.suffix!r} found, {known}; "
        "if it is one of these under another name, add --format with that name"
    )
