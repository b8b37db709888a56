"""Copying a version of an index from one store to another: resumable, and verified."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from teravec.engines.threads import ordered_map
from teravec.errors import AlreadyThere, MissingFile, OutputExists, TeravecError
from teravec.index.calibration import read_kept
from teravec.index.kept_queries import NeighboursEntry, QueriesEntry
from teravec.index.manifest import Manifest, list_versions, read_manifest, read_model_description
from teravec.index.pending import begin_change
from teravec.index.verify import check_entry, verify_entry
from teravec.index.versions import note_newest
from teravec.progress import Progress
from teravec.segments.delete_set import DeleteSet
from teravec.segments.segment import RowsEntry, Segment
from teravec.segments.voided import VoidedLists
from teravec.storage.arrays import check_file
from teravec.storage.files import make_directory
from teravec.storage.layout import IndexPaths, is_of_system
from teravec.storage.output_lock import hold_index
from teravec.storage.store import OpenFile, StorePath, Writer

__all__ = ["Copied", "copy_index"]

_PIECE_BYTES = 32 << 20  # read at a time; in an object store, several requests
_FILES_AT_ONCE = 2

Check = Callable[[OpenFile], None]
"""Raises unless an open file is what it should be."""


@dataclass(frozen=True)
class Copied:
    """What ``copy`` did.

    Parameters
    ----------
    version : int
    files, size : int
        Files copied, and their bytes.
    kept : int
        Files that were there already.
    """

    version: int
    files: int
    size: int
    kept: int


@dataclass(frozen=True)
class _File:
    """A file to copy.

    Parameters
    ----------
    name : str
    size : int
    check : callable
        Reads all of it.
    is_there : callable
        Raises unless a file is this one, as quickly as its format allows.
    """

    name: str
    size: int
    check: Check
    is_there: Check


def copy_index(
    source: IndexPaths, target: IndexPaths, version: int | None, progress: Progress
) -> Copied:
    """Copy what a version of an index needs; the version itself is written last.

    The target is new, empty, or holds other versions of the same index. Files that are there and
    sound are kept, so a killed copy goes on, and a newer version costs what is new in it.

    Raises
    ------
    OutputExists
        The target holds something else, or another version of this number.
    CorruptFile
        A file of the source is damaged; nothing of it was written.
    """
    manifest = read_manifest(source, version)
    sealed = _read(source.version(manifest.number) if list_versions(source) else source.manifest)
    if target.is_local:
        make_directory(target.root)
    with hold_index(target):
        _check_target(manifest, source, target)
        files = list(_files(source, manifest))
        with (
            _protecting(target, manifest, files),
            progress.stage("copy", sum(file.size for file in files), "bytes") as bar,
        ):

            def copy(file: _File) -> bool:
                copied = _copy(source.file(file.name), target.file(file.name), file)
                bar.advance(file.size)
                return copied

            done = list(ordered_map(copy, files, threads=_FILES_AT_ONCE))
            _commit(source, target, manifest, sealed)
    size = sum(file.size for file, copied in zip(files, done, strict=True) if copied)
    return Copied(manifest.number, sum(done), size, len(done) - sum(done))


@contextmanager
def _protecting(target: IndexPaths, manifest: Manifest, files: Sequence[_File]) -> Iterator[None]:
    """Keep ``vacuum`` from removing files that are there before the version that names them."""
    content = {"copy": manifest.number, "files": [file.name for file in files]}

    def is_same(found: dict[str, Any]) -> bool:
        return {key: found.get(key) for key in content} == content

    if not target.manifest.exists():  # nothing can be removed from a place that holds no index
        yield
        return
    with begin_change(target, content, is_same):
        yield


def _check_target(manifest: Manifest, source: IndexPaths, target: IndexPaths) -> None:
    """Check that the target is free, or holds the same build or import."""
    begun = [path for path in (target.build, target.imported) if path.exists()]
    if begun:
        known = [path for path in begun if path.name in manifest.files]
        if known != begun or any(_read(path) != _read(source.file(path.name)) for path in begun):
            raise OutputExists(f"{target}: another index found; a new place expected")
        return
    others = [name for name in target.store.names() if not is_of_system(name)]
    if others:
        raise OutputExists(
            f"{target}: {', '.join(others[:3])} found; a new or empty place, or versions of the "
            "same index expected"
        )


def _files(source: IndexPaths, manifest: Manifest) -> Iterator[_File]:
    """List the files of a version; that by which a target is recognised is the first."""
    model = read_model_description(source, manifest)
    described: dict[str, dict[str, Any]] = dict(manifest.files)
    described |= {f"{manifest.model_path}/{name}": file for name, file in model.files.items()}
    if (known := read_kept(source, manifest)) is not None:
        entries: list[QueriesEntry | NeighboursEntry] = [known.queries, *known.neighbours]
        for kept in entries:
            described[kept.file] = {"size": kept.size, "checksum": kept.checksum}
    arrays: list[DeleteSet | VoidedLists] = [*manifest.deletes, *manifest.voided]
    for sealed in arrays:
        described[sealed.file] = {"size": sealed.size, "checksum": sealed.checksum}
    if manifest.calibration is not None:
        measured = manifest.calibration
        described[measured.file] = {"size": measured.size, "checksum": measured.checksum}
    for name, file in described.items():
        check = partial(check_file, expected=file)
        yield _File(name, file["size"], check, check)
    plain = [source.file(manifest.model_path) / "model.json"]
    plain += [] if list_versions(source) else [source.calibration]
    for path in plain:
        if path.exists():
            data = _read(path)
            check = partial(_check_bytes, expected=data)
            yield _File(path.name, len(data), check, check)
    files: list[Segment | RowsEntry] = [*manifest.segments]
    files += [beside for segment in manifest.segments for beside in segment.beside]
    for entry in files:
        quick = partial(check_entry, entry=entry)
        yield _File(entry.file, entry.size, partial(_verify, entry=entry), quick)


def _copy(source: StorePath, target: StorePath, file: _File) -> bool:
    """Copy a file unless it is there; return whether it was copied."""
    try:
        with target.open() as there:
            file.is_there(there)
    except TeravecError:  # missing, cut, or of something else
        pass
    else:
        return False

    with source.open(in_order=True) as opened, target.publish(file.check) as writer:
        _copy_bytes(opened, writer)
    return True


def _copy_bytes(opened: OpenFile, writer: Writer) -> None:
    writer.reserve(opened.size)
    piece = memoryview(bytearray(min(_PIECE_BYTES, opened.size)))
    for start in range(0, opened.size, _PIECE_BYTES):
        part = piece[: opened.size - start]
        opened.read_into(part, start)
        writer.write(part, start)


def _commit(source: IndexPaths, target: IndexPaths, manifest: Manifest, sealed: bytes) -> None:
    """Write the version, after everything that it names."""
    if not list_versions(source):
        if not list_versions(target):
            _publish(target.manifest, sealed)
        return
    path = target.version(manifest.number)
    try:
        path.create(sealed)
    except AlreadyThere:
        if _read(path) != sealed:
            raise OutputExists(
                f"{path}: another version of this number found; choose another place"
            ) from None
    note_newest(target, sealed)


def _publish(path: StorePath, data: bytes) -> None:
    try:
        if _read(path) == data:
            return
    except MissingFile:
        pass
    with path.publish(partial(_check_bytes, expected=data)) as writer:
        writer.write(data, 0)


def _read(path: StorePath) -> bytes:
    with path.open() as file:
        return bytes(file.read(file.size, 0))


def _check_bytes(file: OpenFile, expected: bytes) -> None:
    if bytes(file.read(file.size, 0)) != expected:
        raise OutputExists(f"{file.path}: other bytes found")


def _verify(file: OpenFile, entry: Segment | RowsEntry) -> None:
    check_entry(file, entry)
    verify_entry(file, entry)
