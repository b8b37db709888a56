"""Ids on the command line: numbers, or texts where the index has such ids."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np

from teravec.cli import options as o
from teravec.cli.running import parse_numbers
from teravec.errors import InvalidArgument
from teravec.index.manifest import read_manifest
from teravec.sources.ids_file import read_ids_file, read_texts_file
from teravec.storage.layout import IndexPaths
from teravec.storage.places import Place
from teravec.storage.text_ids import as_texts, digest_texts

__all__ = ["Ids", "IdsFile", "has_text_ids", "read_id_numbers", "read_ids"]

Ids = Annotated[str | None, o.unset("Ids of rows, as 3,17.")]
IdsFile = Annotated[
    Path | None, o.unset("File of ids: .npy, .parquet (its only column), or a line each.")
]


def read_ids(ids: str | None, ids_file: Path | None, *, texts: bool) -> Any:
    """Read the ids of --ids or --ids-file: int64 (n,), or a list of texts."""
    if (ids is None) == (ids_file is None):
        raise InvalidArgument("give either --ids or --ids-file")
    if not texts:
        if ids_file is not None:
            return read_ids_file(ids_file)
        return np.array(parse_numbers(str(ids), "ids"), np.int64)
    if ids_file is not None:
        return read_texts_file(ids_file)
    return [each.strip() for each in str(ids).split(",") if each.strip()]


def read_id_numbers(index: Place, ids_file: Path) -> Any:
    """Read a file of ids as the numbers that stand for them in the index's files, int64 (n,)."""
    manifest = read_manifest(IndexPaths(index))
    if manifest.text_ids is None:
        return read_ids_file(ids_file)
    kind = manifest.schema.field(manifest.text_ids).type
    return digest_texts(as_texts(read_texts_file(ids_file), kind)).ids


def has_text_ids(index: Place) -> bool:
    """Whether an index's ids are texts."""
    return read_manifest(IndexPaths(index)).text_ids is not None
