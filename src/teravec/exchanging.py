"""The package's functions that read and write indexes of other libraries."""

from __future__ import annotations

from collections.abc import Sequence

from teravec.arguments import path_of, whole_number
from teravec.errors import InvalidArgument, shown
from teravec.granting import resources
from teravec.index.manifest import Manifest
from teravec.interchange.export import export_faiss as _export_faiss
from teravec.interchange.importing import import_faiss as _import_faiss
from teravec.progress import Progress, as_progress
from teravec.sources import PathLike, are_paths
from teravec.storage.layout import IndexPaths
from teravec.storage.places import PlaceLike, place_of

__all__ = ["export_faiss", "import_faiss"]


def import_faiss(
    files: PathLike | Sequence[PathLike],
    out: PlaceLike,
    *,
    slices: int | None = None,
    memory: str | int | None = None,
    threads: int | None = None,
    progress: Progress | bool | None = None,
) -> Manifest:
    """Make an index of an IVF index that Faiss wrote; codes and ids stay as they are.

    Codes may be flat, fp16, scalar, PQ or RaBitQ, of vectors or of residuals; the coarse quantizer
    flat or HNSW. Rotations, PCA, OPQ, centering and L2 normalization in front of the index become
    the transform. Lists are read a window at a time. A killed import goes on with the same call.

    Parameters
    ----------
    files : path-like or sequence of path-like
        One file of ``faiss.write_index``; or several of one index: the trained index and shards
        of its rows, or slices of its lists, in the natural order of their names. Lists on disk
        (``OnDiskInvertedLists``) are looked for beside their file, then where they were.
    out : path-like
        Index directory: new, empty, or holding the same import.
    slices : int, optional
        Files for the lists. Not given: of about 1 GiB.
    memory, threads, progress
        As for ``build``.

    Returns
    -------
    Manifest

    Raises
    ------
    InvalidSource
        A file is missing, cut off, of another library, or of a kind that is not supported.
    OutputExists
        ``out`` holds something else.
    """
    given = are_paths(files)
    if given is None:
        raise InvalidArgument(f"files are {shown(files)}; paths of files of Faiss expected")
    chosen = [
        path_of(path, "a file") for path in (given if isinstance(given, list | tuple) else [given])
    ]
    if slices is not None:
        slices = whole_number(slices, "slices", 1)
    with resources(memory, threads, progress) as granted:
        paths = IndexPaths(place_of(out, "out"))
        return _import_faiss(chosen, paths, slices, granted)


def export_faiss(
    path: PlaceLike, out: PathLike, *, progress: Progress | bool | None = None
) -> None:
    """Write an index file that ``faiss.read_index`` opens, with the same ids and results."""
    _export_faiss(place_of(path, "the index"), path_of(out, "out"), as_progress(progress))
