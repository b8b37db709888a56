"""Verifying every byte of an index against its checksums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from teravec.errors import CorruptFile, ForeignFile, MissingFile, StorageError, TeravecError
from teravec.index.calibration import read_calibration, read_kept
from teravec.index.known_queries import read_truth
from teravec.index.manifest import Manifest, read_manifest, read_model_description
from teravec.progress import Progress
from teravec.segments.delete_set import read_delete_set
from teravec.segments.segment import RowsEntry, Segment
from teravec.segments.voided import read_voided_lists
from teravec.storage.arrays import check_file
from teravec.storage.columnfile import ColumnFile, verify_columns
from teravec.storage.layout import IndexPaths
from teravec.storage.listfile import ListFile, verify_lists
from teravec.storage.rowfile import RowFile, verify_rows
from teravec.storage.store import Store, StorePath, check_size

__all__ = ["verify"]

_KINDS: dict[str, tuple[type[ListFile | RowFile | ColumnFile], Callable[[StorePath], None]]] = {
    "lists": (ListFile, verify_lists),
    "fine": (RowFile, verify_rows),
    "columns": (ColumnFile, verify_columns),
}
"""Reader and verifier of each kind of file, by the end of its name."""


def verify(where: str | Path | Store, progress: Progress) -> list[TeravecError]:
    """Read every file of an index and compare it with its checksums.

    Returns
    -------
    list of TeravecError
        One error per damaged, missing or foreign file; empty for a sound index.

    Raises
    ------
    MissingFile, CorruptFile
        The manifest itself cannot be read; nothing else can be checked then.
    """
    paths = IndexPaths(where)
    manifest = read_manifest(paths)
    damages: list[TeravecError] = []
    entries: list[Segment | RowsEntry] = [*manifest.slices]
    entries += [beside for entry in manifest.slices for beside in entry.beside]
    with progress.stage("verify", sum(entry.size for entry in entries), "bytes") as bar:
        for name, described in [
            *manifest.files.items(),
            *_list_model_files(paths, manifest, damages),
        ]:
            with _collecting(damages):
                check_file(paths.file(name), described)
        with _collecting(damages):
            read_calibration(paths, manifest)
        with _collecting(damages):
            if (kept := read_kept(paths, manifest)) is not None:
                read_truth(paths, manifest, kept)
        for deleted in manifest.deletes:
            with _collecting(damages):
                read_delete_set(paths, deleted)
        for voided in manifest.voided:
            with _collecting(damages):
                read_voided_lists(paths, voided)
        for entry in entries:
            with _collecting(damages):
                _verify_entry(paths.file(entry.file), entry)
            bar.advance(entry.size)
    return damages


@contextmanager
def _collecting(damages: list[TeravecError]) -> Iterator[None]:
    try:
        yield
    except (CorruptFile, MissingFile, StorageError) as damage:
        damages.append(damage)


def _list_model_files(
    paths: IndexPaths, manifest: Manifest, damages: list[TeravecError]
) -> list[tuple[str, dict[str, Any]]]:
    """List the files of the model, unless it is not the manifest's model."""
    with _collecting(damages):
        model = read_model_description(paths, manifest)
        return [(f"{manifest.model_path}/{name}", file) for name, file in model.files.items()]
    return []


def _verify_entry(path: StorePath, entry: Segment | RowsEntry) -> None:
    kind, verify_whole = _KINDS[path.name.rpartition(".")[2]]
    with path.open() as opened:
        check_size(opened, entry.size)
        file = kind(opened)
        if file.seal != entry.checksum:
            raise ForeignFile(f"{path}: seal {file.seal} found, {entry.checksum} expected")
    verify_whole(path)
