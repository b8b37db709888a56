"""The files of one Faiss index: a trained index, shards of its rows, slices of its lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from teravec.errors import InvalidSource
from teravec.interchange.faiss_layout import FaissLayout, read_layout
from teravec.interchange.faiss_lists import FaissFile, FaissLists
from teravec.interchange.faiss_steps import join_steps
from teravec.interchange.faiss_tables import FaissTable
from teravec.kernels.metric import Metric
from teravec.memory import require
from teravec.model.transform import Transform
from teravec.sources.fingerprint import fingerprint
from teravec.sources.natural import natural_key
from teravec.storage.files import allow_open_files
from teravec.storage.layout import absolute
from teravec.storage.listfile import ID_BYTES
from teravec.storage.local_store import open_file
from teravec.storage.store import OpenFile

__all__ = ["FaissSet", "open_faiss"]


@dataclass(frozen=True)
class FaissSet:
    """The files of one index, open.

    Parameters
    ----------
    trained : FaissLayout
        Of the file that holds the centroids.
    file : OpenFile
        That file.
    metric : Metric
        Cosine, if vectors are scaled to unit length and compared by inner products.
    transform : Transform
    lists : FaissLists
    described : list of dict
        Name, rows, bytes and fingerprint of each file, in order.
    """

    trained: FaissLayout
    file: OpenFile
    metric: Metric
    transform: Transform
    lists: FaissLists
    described: list[dict[str, Any]]

    @property
    def nlist(self) -> int:
        """Inverted lists."""
        return self.lists.nlist


@contextmanager
def open_faiss(paths: Sequence[Path], memory_bytes: int) -> Iterator[FaissSet]:
    """Open the files of one index; those that lie beside them on the disk as well.

    One file holds the centroids. Another may have all lists, of some rows, or the lists after
    those of the file before it. Files are taken in the natural order of their names.

    Raises
    ------
    InvalidSource
        A file is missing, cut off, damaged, of a kind that is not supported, or does not belong
        to the others.
    """
    ordered = sorted((absolute(path) for path in paths), key=natural_key)
    allow_open_files(2 * len(ordered))
    with ExitStack() as stack:
        files = [stack.enter_context(_open(path)) for path in ordered]
        layouts = [read_layout(file) for file in files]
        trained = _find_trained(layouts)
        for layout in layouts:
            _check_same(layout, layouts[trained])
        data = [
            file if not layout.lists.data_name else stack.enter_context(_open_data(path, layout))
            for path, file, layout in zip(ordered, files, layouts, strict=True)
        ]
        mapped = sum(ID_BYTES * layout.id_map.count for layout in layouts if layout.id_map)
        require(mapped, memory_bytes, "a map of ids (IndexIDMap)")
        yield _join(layouts, files, data, trained)


def _join(
    layouts: Sequence[FaissLayout],
    files: Sequence[OpenFile],
    data: Sequence[OpenFile],
    trained: int,
) -> FaissSet:
    whole = layouts[trained]
    nlist = whole.quantizer.centroids.count // whole.d_index
    parts: list[FaissFile] = []
    described: list[dict[str, Any]] = []
    after = 0  # the list after those of slices so far
    for layout, file, lists_file in zip(layouts, files, data, strict=True):
        rows = 0
        if layout.lists.kind != "il00":
            table = FaissTable(layout.lists, file, lists_file)
            first = 0 if table.nlist == nlist else after
            after += table.nlist if table.nlist != nlist else 0
            id_map = None if layout.id_map is None else layout.id_map.read(file)
            parts.append(FaissFile(first, table, lists_file, id_map))
            rows = table.ntotal
        described.append(_describe(file, rows))
        if lists_file is not file:
            described.append(_describe(lists_file, 0))
    if after not in (0, nlist):
        raise InvalidSource(
            f"{whole.path}: {nlist:,} lists expected, slices with {after:,} lists together found: "
            "give every slice"
        )
    transform, metric = join_steps(whole.steps, whole.path), Metric(whole.metric)
    if metric is Metric.IP and transform.unit_before:
        transform, metric = replace(transform, unit_before=False), Metric.COSINE
    lists = FaissLists(parts, nlist, _code_size(layouts))
    return FaissSet(whole, files[trained], metric, transform, lists, described)


def _code_size(layouts: Sequence[FaissLayout]) -> int:
    return max(layout.lists.code_size for layout in layouts)


def _find_trained(layouts: Sequence[FaissLayout]) -> int:
    """Return the number of the first file with the centroids of all lists."""
    for number, layout in enumerate(layouts):
        centroids = layout.quantizer.centroids.count
        if centroids and centroids >= layout.nlist * layout.d_index:
            return number
    names = ", ".join(Path(layout.path).name for layout in layouts[:3])
    raise InvalidSource(
        f"no centroids found in {names}: give the trained index as well, from which the shards or "
        "slices were made"
    )


def _check_same(layout: FaissLayout, trained: FaissLayout) -> None:
    """Raise InvalidSource unless both files were made from one trained index."""
    nlist = trained.quantizer.centroids.count // trained.d_index
    own = layout.quantizer.centroids.count
    same = (
        (layout.d, layout.d_index, layout.metric, layout.codec)
        == (trained.d, trained.d_index, trained.metric, trained.codec)
        and np.array_equal(layout.parameters, trained.parameters)
        and len(layout.steps) == len(trained.steps)
        and all(map(_are_same, layout.steps, trained.steps))
        and layout.nlist <= nlist
        and own in (0, trained.quantizer.centroids.count)
    )
    if not same:
        raise InvalidSource(f"{layout.path}: not made from the trained index in {trained.path}")


def _are_same(ours: Any, theirs: Any) -> bool:
    return all(map(np.array_equal, vars(ours).values(), vars(theirs).values()))


def _open(path: Path) -> OpenFile:
    if not path.is_file():
        why = "a directory" if path.is_dir() else "no such file"
        raise InvalidSource(f"{path}: {why}; a file that Faiss wrote expected")
    return open_file(path)


def _open_data(path: Path, layout: FaissLayout) -> OpenFile:
    """Open the lists of an ``OnDiskInvertedLists``: beside the index, or where they were."""
    lists, name = layout.lists, layout.lists.data_name
    places = [path.parent / Path(name).name, absolute(Path(name))]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InvalidSource(
            f"{path}: its inverted lists lie in a file of their own, which is neither "
            f"{places[0]} nor {places[1]}"
        )
    file = open_file(found)
    if file.size < lists.data_size:
        file.close()
        raise InvalidSource(
            f"{found}: {file.size:,} bytes found, {lists.data_size:,} expected by {path}: the "
            "file is cut off, or of another index"
        )
    return file


def _describe(file: OpenFile, rows: int) -> dict[str, Any]:
    path = Path(file.path)
    return {
        "name": path.name,
        "n": rows,
        "size_bytes": file.size,
        "fingerprint": fingerprint(path),
        "vector_column": None,
    }
