"""Describing an index: sizes, settings, and how its lists are filled."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.index.balance import describe_lists
from teravec.index.calibration import read_calibration, read_kept
from teravec.index.opened import OpenedIndex
from teravec.storage.listfile import ID_BYTES

__all__ = ["describe_index", "size_histogram"]


def size_histogram(sizes: npt.NDArray[np.int64]) -> list[dict[str, int]]:
    """Count the lists of 0, 1, 2 to 3, 4 to 7, ... vectors, and the vectors in them.

    Returns
    -------
    list of dict
        ``from``, ``to`` (inclusive), ``lists``, ``vectors``, from the smallest existing size to
        the largest.
    """
    # frexp returns e with size in [2^(e - 1), 2^e): 0 for 0, 1 for 1, 2 for 2 and 3, ...
    _, exponents = np.frexp(sizes.astype(np.float64))
    lists = np.bincount(exponents)
    vectors = np.bincount(exponents, weights=sizes)
    first = int(np.flatnonzero(lists)[0])
    return [
        {
            "from": 1 << (e - 1) if e else 0,
            "to": (1 << e) - 1,
            "lists": int(lists[e]),
            "vectors": int(vectors[e]),
        }
        for e in range(first, len(lists))
    ]


def describe_index(index: OpenedIndex) -> dict[str, Any]:
    """Return the content of ``teravec info``, ready for JSON; sizes are in bytes."""
    manifest, sizes = index.manifest, index.runs.list_sizes
    slice_bytes = sum(entry.files_size for entry in manifest.slices)
    model = index.model.description
    calibration = read_calibration(index.paths, manifest)
    return {
        "path": str(index.paths),
        "creator": manifest.creator,
        "version": manifest.number,
        "ntotal": manifest.ntotal,
        "deleted_ids": manifest.deleted_ids,
        "d": manifest.d,
        "d_index": model.d_index,
        "metric": manifest.metric,
        "transform": manifest.transform,
        "codec": manifest.codec,
        "clipped": manifest.clipped,
        "code_size": model.code_size,
        "sketch_size": model.sketch_size,
        "nlist": manifest.nlist,
        "quantizer": model.quantizer,
        "slices": len(manifest.slices),
        "bytes": {
            "slices": slice_bytes,
            "codes": manifest.ntotal * model.code_size,
            "ids": manifest.ntotal * ID_BYTES,
            "columns": sum(e.columns.size for e in manifest.segments if e.columns is not None),
            "inverted": sum(e.inverted.size for e in manifest.segments if e.inverted is not None),
            "model": sum(file["size"] for file in model.files.values()),
        },
        "open_memory_bytes": index.memory_bytes,
        "lists": {**describe_lists(sizes, model), "histogram": size_histogram(sizes)},
        "training": {
            "vectors": model.ntrain,
            "seed": model.seed,
            "assignment": model.assignment,
            "iterations": model.history,
            "lists": model.lists,
        },
        "calibration": None
        if calibration is None
        else {**calibration.summary(), "age": manifest.calibration_age, **_since(index)},
        "repeated_ids": manifest.repeated_ids,
        "columns": None if manifest.columns is None else _describe_columns(index),
        "source": {**manifest.source, "files": _add_first_rows(manifest.source["files"])},
    }


def _describe_columns(index: OpenedIndex) -> list[dict[str, Any]]:
    """Return name, type and bytes of each column, and those of its inverted files, if any."""
    assert index.manifest.columns is not None
    sizes = np.sum([file.column_bytes() for file in index.column_files], axis=0)
    files = [file for file in index.inverted_files if file is not None]
    inverted: dict[str, int] = {}
    for name, column in (each for file in files for each in file.columns.items()):
        inverted[name] = inverted.get(name, 0) + column.file_bytes
    return [
        {
            **column,
            "bytes": int(size),
            **({"inverted_bytes": inverted[name]} if (name := column["name"]) in inverted else {}),
        }
        for column, size in zip(index.manifest.columns, sizes, strict=True)
    ]


def _since(index: OpenedIndex) -> dict[str, Any]:
    """Return what has changed since the calibration measured the index, and what is kept for it."""
    manifest, kept = index.manifest, read_kept(index.paths, index.manifest)
    entry = manifest.calibration
    return {
        "since": {
            "version": 0 if entry is None else entry.measured,
            "added": 0 if entry is None else manifest.added - entry.added,
            "deleted": 0 if entry is None else manifest.deleted - entry.deleted,
            "another_model": entry is not None and entry.is_of_another_model(manifest.model),
        },
        "kept_queries": 0 if kept is None else kept.queries.count,
    }


def _add_first_rows(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each file of the source the number of its first row, the id without an id column."""
    rows = np.cumsum([0, *(file["n"] for file in files)]).tolist()
    return [{**file, "first_row": first} for file, first in zip(files, rows, strict=False)]
