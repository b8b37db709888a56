"""Exporting an index to Faiss."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import cast

from teravec.errors import InvalidArgument, OutputExists, StorageError, storage_errors
from teravec.index.opened import OpenedIndex
from teravec.interchange.faiss_file import ExportedIndex, write_faiss_index
from teravec.progress import Progress
from teravec.storage.concatenation import concatenate
from teravec.storage.files import publishing
from teravec.storage.listfile import ID_BYTES
from teravec.storage.output_lock import hold_file
from teravec.storage.store import Store

__all__ = ["export_faiss"]

_WINDOW_BYTES = 8 << 20
_BUFFER_BYTES = 4 << 20


def export_faiss(
    root: str | Path | Store, out: str | Path, progress: Progress, window_bytes: int = _WINDOW_BYTES
) -> None:
    """Write an index that ``faiss.read_index`` opens and searches with the same results.

    A two-stage codec exports its fine codes. Lists are verified and streamed, one list in memory
    at a time. Faiss itself will hold them all, unless it opens the file with ``IO_FLAG_MMAP``.

    Parameters
    ----------
    root : path-like or Store
    out : path-like
    progress : Progress
    window_bytes : int
        Codes and ids read at a time.

    Raises
    ------
    OutputExists
        ``out`` exists, or another process is writing it.
    InvalidArgument
        Rows were added or deleted, and the index was not compacted since.
    CorruptFile
        A list is damaged; no file remains.
    """
    path = Path(out)
    with storage_errors(path, "write"):
        taken = path.exists()
        nowhere = not path.parent.is_dir()
    if taken:
        raise OutputExists(f"{path} exists")
    if nowhere:
        raise StorageError(f"{path}: cannot write: no directory {path.parent}")
    with hold_file(path), OpenedIndex(root) as index, publishing(path) as raw:
        model = index.model
        if (
            not index.runs.one_layer
            or index.has_id_bases
            or any(hidden.any for hidden in index.deleted)
        ):
            raise InvalidArgument(
                f"{index.paths} was changed since its build, and Faiss's format holds one run a "
                "list: run teravec compact INDEX --full first"
            )
        exported = ExportedIndex(model.ivf_of_used(), model.metric, model.d, model.transform)
        total = index.ntotal * (model.code_size - model.sketch_size + ID_BYTES)
        lists = _read_fine_lists(index) if model.sketch_size else _read_lists(index, window_bytes)
        buffered = io.BufferedWriter(cast(io.RawIOBase, raw), _BUFFER_BYTES)
        with progress.stage("export", total, "bytes") as bar:

            def counted() -> Iterator[tuple[bytes, bytes]]:
                for codes, ids in lists:
                    yield codes, ids
                    bar.advance(len(codes) + len(ids))

            sizes = (
                index.runs.list_sizes if model.used is None else index.runs.list_sizes[model.used]
            )
            write_faiss_index(cast(io.BytesIO, buffered), exported, sizes, counted())
        buffered.flush()
        buffered.detach()


def _read_lists(index: OpenedIndex, window_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield codes and ids of every list, in order.

    A list larger than a window comes in parts, which are joined: Faiss's format has all codes of
    a list before its ids.
    """
    for file in index.segments:
        sizes = iter(file.sizes.tolist())
        codes_parts, ids_parts, size, held = [], [], next(sizes, 0), 0
        for codes, ids in concatenate([file], window_bytes, 1):
            at = 0
            while True:
                take = min(size - held, len(codes) - at)
                codes_parts.append(codes[at : at + take].tobytes())
                ids_parts.append(ids[at : at + take].tobytes())
                at, held = at + take, held + take
                if held < size:
                    break
                yield b"".join(codes_parts), b"".join(ids_parts)
                codes_parts, ids_parts, held = [], [], 0
                following = next(sizes, None)
                if following is None:
                    break
                size = following


def _read_fine_lists(index: OpenedIndex) -> Iterator[tuple[bytes, bytes]]:
    """Yield fine codes and ids of every list of a two-stage codec, in order."""
    for file, rows in zip(index.segments, index.fine, strict=True):
        for start, stop in pairwise(file.starts.tolist()):
            held = rows.read_rows(start, stop)
            yield held[:, :-ID_BYTES].tobytes(), held[:, -ID_BYTES:].tobytes()
