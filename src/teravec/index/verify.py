"""Verifying every byte of an index against its checksums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from teravec.errors import CorruptFile, ForeignFile, MissingFile, StorageError, TeravecError
from teravec.index.calibration import read_calibration, read_kept
from teravec.index.known_queries import read_truth
from teravec.index.manifest import Manifest, list_versions, read_manifest, read_model_description
from teravec.progress import Progress
from teravec.segments.sealed_set import read_sealed_set
from teravec.segments.segment import RowsEntry, Segment
from teravec.storage.arrays import check_file
from teravec.storage.cached_store import without_cache
from teravec.storage.columnfile import ColumnFile, verify_columns
from teravec.storage.invertedfile import InvertedFile, verify_inverted
from teravec.storage.layout import IndexPaths
from teravec.storage.listfile import ListFile, verify_lists
from teravec.storage.rowfile import RowFile, verify_rows
from teravec.storage.store import OpenFile, Store, StorePath, check_size

__all__ = ["check_entry", "verify", "verify_entry"]

Verify = Callable[[OpenFile | StorePath], None]

_KINDS: dict[str, tuple[type[ListFile | RowFile | ColumnFile | InvertedFile], Verify]] = {
    "lists": (ListFile, verify_lists),
    "fine": (RowFile, verify_rows),
    "columns": (ColumnFile, verify_columns),
    "inverted": (InvertedFile, verify_inverted),
}
"""Reader and verifier of each kind of file, by the end of its name."""


def verify(where: str | Path | Store, progress: Progress) -> list[TeravecError]:
    """Read every file of an index and compare it with its checksums: of all of its versions.

    Returns
    -------
    list of TeravecError
        One error per damaged, missing or foreign file; empty for a sound index.

    Raises
    ------
    MissingFile, CorruptFile
        The newest manifest itself cannot be read; nothing else can be checked then.
    """
    paths = IndexPaths(where)
    paths = IndexPaths(without_cache(paths.store))  # what a cache has is not what the store has
    newest = read_manifest(paths)
    found: dict[int, list[TeravecError]] = {newest.number: []}
    manifests = [newest]
    for number in list_versions(paths):
        if number != newest.number:
            found[number] = []
            with _collecting(found[number]):
                manifests.append(read_manifest(paths, number))
    checks = {m.number: list(_list_checks(paths, m, found[m.number])) for m in manifests}
    sizes = {check.name: check.size for listed in checks.values() for check in listed}
    done: set[str] = set()
    with progress.stage("verify", sum(sizes.values()), "bytes") as bar:
        for number, listed in checks.items():
            for check in listed:
                if check.name in done:
                    continue
                done.add(check.name)
                with _collecting(found[number]):
                    check.run()
                bar.advance(check.size)
    there = {newest.number, *list_versions(paths)}  # a vacuum may have removed others meanwhile
    return [damage for number, each in found.items() if number in there for damage in each]


class _Check(NamedTuple):
    """One thing to check, by a name that is the same in every version that has it."""

    name: str
    run: Callable[[], object]
    size: int = 0


def _list_checks(
    paths: IndexPaths, manifest: Manifest, damages: list[TeravecError]
) -> Iterator[_Check]:
    """List what a version names."""
    for name, described in [*manifest.files.items(), *_list_model_files(paths, manifest, damages)]:
        yield _Check(name, partial(check_file, paths.file(name), described))
    calibration, known = manifest.calibration, manifest.known
    if calibration is not None:
        yield _Check(calibration.file, partial(read_calibration, paths, manifest))
    elif not manifest.number:  # a build's own calibration names its queries
        yield _Check(paths.calibration.name, partial(_read_queries, paths, manifest))
    if known is not None:
        yield _Check(" ".join(known.files), partial(_read_queries, paths, manifest))
    for sealed in (*manifest.deletes, *manifest.voided):
        yield _Check(sealed.file, partial(read_sealed_set, paths, sealed))
    entries: list[Segment | RowsEntry] = [*manifest.slices]
    entries += [beside for entry in manifest.slices for beside in entry.beside]
    for entry in entries:
        path = paths.file(entry.file)
        yield _Check(entry.file, partial(_verify_entry, path, entry), entry.size)


def _read_queries(paths: IndexPaths, manifest: Manifest) -> None:
    if (kept := read_kept(paths, manifest)) is not None:
        read_truth(paths, manifest, kept)


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
    with path.open() as opened:
        check_entry(opened, entry)
    verify_entry(path, entry)


def check_entry(file: OpenFile, entry: Segment | RowsEntry) -> None:
    """Raise CorruptFile or ForeignFile unless an open file has its entry's size and seal."""
    check_size(file, entry.size)
    kind, _ = _KINDS[entry.file.rpartition(".")[2]]
    found = kind(file).seal
    if found != entry.checksum:
        raise ForeignFile(f"{file.path}: seal {found} found, {entry.checksum} expected")


def verify_entry(file: OpenFile | StorePath, entry: Segment | RowsEntry) -> None:
    """Read a file of a segment whole; raise CorruptFile unless its bytes match its own seal."""
    _KINDS[entry.file.rpartition(".")[2]][1](file)
