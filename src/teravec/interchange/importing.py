"""Importing an index of Faiss: its codes stay as they are, its lists become sealed slices."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from teravec.engines.resources import Resources
from teravec.errors import InvalidArgument, OutputExists
from teravec.index.manifest import Manifest, describe_repeated, read_manifest, write_manifest
from teravec.interchange.faiss_set import FaissSet, open_faiss
from teravec.interchange.imported_model import model_bytes, seal_model
from teravec.memory import require
from teravec.model.description import ModelDescription
from teravec.segments.merge import plan_span, plan_window
from teravec.segments.repeated import find_repeated
from teravec.segments.segment import Segment
from teravec.segments.slice_files import SliceFiles
from teravec.segments.slice_plan import slice_count, slice_ranges
from teravec.storage.arrays import describe_file
from teravec.storage.files import make_directory
from teravec.storage.jsonfile import read_json, write_json
from teravec.storage.layout import IndexPaths
from teravec.storage.listfile import ID_BYTES, ListFile
from teravec.storage.output_lock import hold_index
from teravec.training.record import check_free
from teravec.training.train import EXACT_QUANTIZER_NLIST

__all__ = ["import_faiss"]

log = logging.getLogger(__name__)

_FORMAT, _VERSION = "teravec-import", 1
_ID_COLUMN = "id"  # of files with rows to add, unless the caller names another


def import_faiss(
    files: Sequence[Path],
    paths: IndexPaths,
    slices: int | None,
    resources: Resources,
    *,
    exact_most: int = EXACT_QUANTIZER_NLIST,
) -> Manifest:
    """Make an index of the files of one Faiss index; a rerun does only what is missing.

    Lists are read a window at a time. Nothing is written before all files were looked at.

    Parameters
    ----------
    files : sequence of Path
    paths : IndexPaths
        A new or empty directory, or one where the same import was begun.
    slices : int, optional
        Not given: slices of about 1 GiB.
    resources : Resources
    exact_most : int
        Lists above which a graph over the centroids is kept.

    Raises
    ------
    InvalidSource
        Files that cannot be imported; see ``open_faiss``.
    OutputExists
        The directory holds something else.
    MemoryLimitTooSmall
    """
    with open_faiss(files, resources.memory_bytes) as index:
        nlist = index.nlist
        _require(index, resources)
        if slices is not None and not 1 <= slices <= nlist:
            raise InvalidArgument(f"slices is {slices:,}; 1 to {nlist:,} lists expected")
        record = {
            "format": _FORMAT,
            "version": _VERSION,
            "slices": slices,
            "files": index.described,
        }
        with _begin(paths, record):
            if paths.manifest.exists():
                return read_manifest(paths)
            sizes = index.lists.sizes()
            model = seal_model(index, sizes, paths, resources.threads, exact_most)
            sealed = _write_slices(index, sizes, model, paths, slices, resources)
            manifest = _make_manifest(index, model, sealed, paths, resources)
            write_manifest(paths, manifest)
    return manifest


def _require(index: FaissSet, resources: Resources) -> None:
    mapped = sum(ID_BYTES * len(f.id_map) for f in index.lists.files if f.id_map is not None)
    needed = model_bytes(index) + 4 * ID_BYTES * index.nlist + mapped + (8 << 20)
    require(needed, resources.memory_bytes, f"importing {index.nlist:,} lists")


@contextmanager
def _begin(paths: IndexPaths, record: dict[str, Any]) -> Iterator[None]:
    """Begin an import, or go on with the same one, under the directory's lock.

    If the body meets files that cannot be imported, a new import is removed again.
    """
    begun = paths.imported.exists()
    if not begun and not check_free(paths):
        raise OutputExists(f"{paths} holds a build: choose another --out")
    with hold_index(paths, create=True):
        if paths.imported.exists():
            found = read_json(paths.imported, _FORMAT, _VERSION)
            if found != record:
                raise OutputExists(
                    f"{paths} holds another import, of {found['files'][0]['name']} and "
                    f"{len(found['files']) - 1:,} more files: choose another --out"
                )
        else:
            if paths.is_local:
                make_directory(paths.root)
            write_json(paths.imported, record)
        try:
            yield
        except InvalidArgument:
            if not begun:
                for parent in (paths.model, paths.slices):
                    parent.remove_all()
                paths.imported.remove()
            raise


def _write_slices(
    index: FaissSet,
    sizes: np.ndarray,
    model: ModelDescription,
    paths: IndexPaths,
    slices: int | None,
    resources: Resources,
) -> list[Segment]:
    """Write every slice that is not sealed yet."""
    ntotal, row_bytes = int(sizes.sum()), model.code_size + ID_BYTES
    memory, threads = resources.memory_bytes, resources.threads
    window = plan_window(len(index.lists.files), memory, threads, resources.sizes)
    span = plan_span(max(1, len(index.lists.files)), memory, resources.sizes)
    count = slice_count(slices, index.nlist, ntotal * row_bytes)
    sealed = []
    with resources.progress.stage("import", ntotal * row_bytes, "bytes") as bar:
        for number, lists in enumerate(slice_ranges(sizes, count)):
            own = sizes[slice(*lists)]
            files = SliceFiles(
                paths.slice(number),
                paths.fine(number),
                paths.columns(number),
                lists,
                int(own.sum()),
                ntotal,
                model.tag,
                model.code_size,
                0,
            )
            if files.are_sealed():
                bar.advance(files.ntotal * row_bytes)
            else:
                with files.writing(own) as writer:
                    for first in range(*lists, span):
                        stop = min(first + span, lists[1])
                        for codes, ids in index.lists.read(first, stop, window, threads):
                            writer.write(codes, ids)
                            bar.advance(codes.nbytes + ids.nbytes)
            sealed.append(files.entry())
    return sealed


def _make_manifest(
    index: FaissSet,
    model: ModelDescription,
    sealed: Sequence[Segment],
    paths: IndexPaths,
    resources: Resources,
) -> Manifest:
    ntotal = sum(segment.ntotal for segment in sealed)
    files = [paths.file(segment.file) for segment in sealed]
    sizes = resources.sizes
    repeated = find_repeated(
        files, ntotal, resources.memory_bytes, resources.progress, sizes.id_block
    )
    if repeated is not None:
        log.warning("%s: %s", paths, describe_repeated(asdict(repeated)))
    # Rows that are added without ids are numbered from ntotal on, which must be free.
    numbered = _largest_id(files, sizes.id_block) < ntotal
    source = {
        "d": model.d,
        "ntotal": ntotal,
        "dtype": "float32",
        "id_column": None if numbered else _ID_COLUMN,
        "files": index.described,
    }
    return Manifest(
        creator=f"teravec {version('teravec')}",
        d=model.d,
        ntotal=ntotal,
        nlist=model.nlist,
        code_size=model.code_size,
        metric=model.metric,
        transform=model.transform,
        codec=model.codec,
        model=model.checksum,
        files={paths.imported.name: describe_file(paths.imported)},
        segments=tuple(sealed),
        source=source,
        repeated_ids=None if repeated is None else asdict(repeated),
    )


def _largest_id(files: Sequence[Any], block: int) -> int:
    largest = -1
    for path in files:
        with ListFile(path) as file:
            for start in range(0, file.header.ntotal, block):
                ids = file.read_ids(start, min(start + block, file.header.ntotal))
                largest = max(largest, int(ids.max()))
    return largest
