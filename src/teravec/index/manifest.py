"""The manifest: a small file, written last, that names every sealed and valid file.

A build seals ``manifest.json``: that is version 0. Each later change of the index commits a version
with the next number, ``versions/0000000001.json`` and so on. A version is complete in itself.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from teravec.errors import CorruptFile, ForeignFile, MissingFile, TeravecError
from teravec.index.kept_queries import KeptQueries, parse_kept
from teravec.model.description import ModelDescription
from teravec.segments.delete_set import DeleteSet
from teravec.segments.segment import BESIDE, RowsEntry, Segment, group_layers
from teravec.segments.voided import VoidedLists
from teravec.storage.column_types import parse_schema
from teravec.storage.jsonfile import json_checksum, parse_json, read_json, write_json
from teravec.storage.layout import IndexPaths
from teravec.storage.store import StorePath
from teravec.storage.text_ids import is_text_id

__all__ = [
    "NEWEST",
    "CalibrationEntry",
    "Manifest",
    "count_copies_of_id",
    "describe_repeated",
    "list_versions",
    "read_manifest",
    "read_model_description",
    "version_content",
    "write_manifest",
]

log = logging.getLogger(__name__)

_FORMAT, _VERSION = "teravec-index", 1
_MOVED = 2  # the version that manifest.json states once the index has versions/
_VERSION_FORMAT, _VERSION_VERSION = "teravec-version", 1
_ONLY_VERSIONS = ("number", "parent", "next_id", "added", "created", "what")
NEWEST = "newest"
"""Key of ``manifest.json`` in an object store: the text of the newest version's file, if known."""

_MODEL = "model"  # the build's
# Written where they say something.
_BESIDE = ("deletes", "deleted", "calibration", "known", "committed")
_VERSION_NAME = re.compile(r"\d{10}\.json")


@dataclass(frozen=True)
class CalibrationEntry:
    """The calibration that a version uses.

    Parameters
    ----------
    file : str
        Path below the index directory.
    size : int
        Bytes of the file.
    checksum : str
        XXH3-64 of the file.
    measured : int
        The version whose searches were measured.
    added, deleted : int
        Rows that had been added, and ids deleted, until then. Later ones make the calibration old.
    model : str, optional
        Checksum of the model that was measured, if versions name it; else the index has no other.
    """

    file: str
    size: int
    checksum: str
    measured: int
    added: int = 0
    deleted: int = 0
    model: str | None = None

    def is_of_another_model(self, model: str) -> bool:
        """Whether lists were split or joined since the calibration measured them."""
        return self.model is not None and self.model != model


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``, or of a version's file.

    Parameters
    ----------
    creator : str
        Version of teravec that wrote it.
    d, ntotal, nlist : int
    code_size : int
        Bytes of a code in the list files; in a two-stage codec, of the sketch.
    metric, transform, codec : str
    model : str
        Checksum of the model.
    files : dict
        Size and checksum of other sealed files, by path below the index.
    segments : tuple of Segment
        Those of a build first, in list order, covering [0, nlist); then what was added.
    source : dict
        Where the vectors came from: names, sizes and fingerprints.
    clipped : int
        Vectors outside the scalar quantizer's trained range. The file omits the key if it is 0.
    repeated_ids : dict, optional
        Ids of an id column that occur more than once: ``ids`` (their number), ``rows`` (rows that
        have one), ``most`` (largest number of rows with the same id), ``example`` (one id), and
        ``exact`` (false: estimated from some of the ids). The file omits the key if there are
        none.
    number : int
        The version's number; 0 for the build.
    parent : int, optional
        The version that this one changed; None for the build.
    deletes : tuple of DeleteSet
        By ascending sequence. ``ntotal`` counts the rows that they hide too.
    next_id : int
        The id of the next row without an id of its own; 0 for the build.
    added : int
        Rows that were added since the build, in all versions before this one and in it.
    created : str, optional
        When the version was committed, as ``2026-11-27T06:30:00Z``; None for the build.
    what : str
        The change, in a few words, as ``add 1,000 rows``.
    watermarks : dict
        From where on ``add`` reads each query of a database, by the query's digest. What the build
        read is in ``source``. The file omits the key if there are none.
    calibration : CalibrationEntry, optional
        Only from version 1 on: ``calibration.json`` names the build that it measured.
    columns : list of dict, optional
        Name and type of each column that is kept; the file omits the key if there are none.
    model_path : str
        Parent of the model's files, below the index directory. The file omits the build's.
    voided : tuple of VoidedLists
        Lists that rebalances wrote anew, by ascending sequence; those that still apply to some
        segment. The file omits the key if there are none.
    deleted : int
        Ids that were deleted since the build, as ``added``; not those that additions replaced.
    known : KeptQueries, optional
        Queries to calibrate with again, and their neighbours in this version. Those of a build are
        named by ``calibration.json``.
    committed : tuple of str
        Additions whose rows are committed, by the names of their records, while those may be
        there: so a rerun of a killed addition adds nothing twice, whatever became of its files.
        The file omits the key if there are none.
    """

    creator: str
    d: int
    ntotal: int
    nlist: int
    code_size: int
    metric: str
    transform: str
    codec: str
    model: str
    files: dict[str, dict[str, Any]]
    segments: tuple[Segment, ...]
    source: dict[str, Any]
    clipped: int = 0
    repeated_ids: dict[str, Any] | None = None
    number: int = 0
    parent: int | None = None
    deletes: tuple[DeleteSet, ...] = ()
    next_id: int = 0
    added: int = 0
    created: str | None = None
    what: str = "build"
    calibration: CalibrationEntry | None = None
    watermarks: dict[str, dict[str, Any]] = field(default_factory=dict)
    columns: list[dict[str, Any]] | None = None
    model_path: str = _MODEL
    voided: tuple[VoidedLists, ...] = ()
    deleted: int = 0
    known: KeptQueries | None = None
    committed: tuple[str, ...] = ()

    @cached_property
    def schema(self) -> Any:
        """The pyarrow.Schema of the columns; None if the index has none."""
        return None if self.columns is None else parse_schema(self.columns, "manifest")

    def watermark(self, digest: str) -> dict[str, Any] | None:
        """Return the watermark of a query, by the query's digest; None if it was never read."""
        return {**self.source.get("watermarks", {}), **self.watermarks}.get(digest)

    @property
    def text_ids(self) -> str | None:
        """The column of the ids, if they are texts; None if they are numbers."""
        name = self.source.get("id_column")
        if self.schema is None or name not in self.schema.names:
            return None
        return name if is_text_id(self.schema.field(name).type) else None

    @property
    def slices(self) -> tuple[Segment, ...]:
        """The segments: the name of earlier releases, whose indexes had slices only."""
        return self.segments

    @property
    def layers(self) -> tuple[tuple[Segment, ...], ...]:
        """The segments in layers, in each of which a list occurs at most once."""
        return group_layers(self.segments)

    @property
    def deleted_ids(self) -> int:
        """Number of ids in the delete sets; an id may be in several, and have no row."""
        return sum(deleted.count for deleted in self.deletes)

    @property
    def seal(self) -> str:
        """A checksum of all that decides what searches find."""
        content = _fields(self)
        for counted in ("clipped", "repeated_ids"):  # counted late, from the same rows
            content.pop(counted, None)
        if self.number:
            content["deletes"] = [asdict(deleted) for deleted in self.deletes]
        else:  # as the first release computed it
            segments = content.pop("segments")
            slices = [{**_slice_content(s), "fine": s.get("fine")} for s in segments]
            source = content.pop("source")
            content |= {"slices": slices, "source": source}
        return json_checksum(content)

    @property
    def calibration_age(self) -> float:
        """Share of the rows that were added or deleted since the calibration measured the index."""
        if self.calibration is None:
            return 0.0
        changed = self.added - self.calibration.added + self.deleted - self.calibration.deleted
        return min(1.0, max(0.0, changed / max(1, self.ntotal)))

    def __repr__(self) -> str:
        count, version = len(self.segments), f", version {self.number}" if self.number else ""
        return (
            f"<teravec.Manifest: {self.ntotal:,} x {self.d}, {self.metric}, {self.codec}, "
            f"{self.nlist:,} lists in {count} segment{'s' * (count != 1)}{version}>"
        )


def count_copies_of_id(manifest: Manifest) -> int:
    """Return the largest number of vectors with the same id."""
    return 1 if manifest.repeated_ids is None else int(manifest.repeated_ids["most"])


def describe_repeated(repeated: dict[str, Any], rows: Sequence[int] = ()) -> str:
    """Describe the repeated ids in words; ``rows`` are some rows of the example."""
    about = "" if repeated["exact"] else "about "
    where = f" in rows {' and '.join(f'{row:,}' for row in rows)}" if rows else ""
    return (
        f"{about}{repeated['ids']:,} ids occur twice or more, in {repeated['rows']:,} rows, "
        f"e.g. id {repeated['example']}{where}"
    )


def write_manifest(paths: IndexPaths, manifest: Manifest) -> None:
    """Publish the manifest of a build: from then on the directory is an index."""
    content: dict[str, Any] = {"format": _FORMAT, "version": _VERSION}
    for key, value in _fields(manifest).items():  # the bytes are those of the first release
        if key == "segments":
            content["slices"] = [_slice_content(entry) for entry in value]
        else:
            content[key] = value
    write_json(paths.manifest, content)


def _slice_content(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a segment's entry as ``manifest.json`` has it."""
    beside: dict[str, Any] = {k: entry[k] for k in BESIDE if k in entry}
    kept = {key: entry[key] for key in ("file", "lists", "ntotal", "size", "checksum")}
    return {**kept, "generation": 0, **beside}


def version_content(manifest: Manifest) -> dict[str, Any]:
    """Return the content of a version's file, as JSON."""
    content = {"format": _VERSION_FORMAT, "version": _VERSION_VERSION, **_fields(manifest)}
    content |= {key: vars(manifest)[key] for key in _ONLY_VERSIONS}
    content["deletes"] = [asdict(deleted) for deleted in manifest.deletes]
    if manifest.calibration is not None:
        content["calibration"] = asdict(manifest.calibration)
        for key in ("deleted", "model"):  # that earlier releases did not have
            if not content["calibration"][key]:
                del content["calibration"][key]
    if manifest.deleted:
        content["deleted"] = manifest.deleted
    if manifest.known is not None:
        content["known"] = manifest.known.content()
    if manifest.committed:
        content["committed"] = list(manifest.committed)
    return content


def _fields(manifest: Manifest) -> dict[str, Any]:
    """Return the fields that a build and a version share, as JSON."""
    content = dict(vars(manifest))
    for key in (*_ONLY_VERSIONS, *_BESIDE):
        del content[key]
    content["segments"] = [_entry_content(segment) for segment in manifest.segments]
    content["voided"] = [asdict(entry) for entry in manifest.voided]
    if not manifest.voided:
        del content["voided"]
    if manifest.model_path == _MODEL:
        del content["model_path"]
    if not manifest.clipped:
        del content["clipped"]
    for optional in ("repeated_ids", "columns"):
        if content[optional] is None:
            del content[optional]
    content.pop("schema", None)  # which was made from the columns
    if not manifest.watermarks:
        del content["watermarks"]
    return content


def _entry_content(entry: Segment) -> dict[str, Any]:
    content = {**asdict(entry), "lists": list(entry.lists), "sequences": list(entry.sequences)}
    for beside in BESIDE:
        if content[beside] is None:
            del content[beside]
    for key in ("voids_through", "voided"):
        if not content[key]:
            del content[key]
    return content


def _parse_entry(content: dict[str, Any]) -> Segment:
    beside: dict[str, Any] = {key: RowsEntry(**content[key]) for key in BESIDE if key in content}
    known = {key: value for key, value in content.items() if key != "generation"}
    for key in ("lists", "sequences"):
        if key in known:
            start, stop = known[key]
            known[key] = int(start), int(stop)
    return Segment(**{**known, **beside})


def list_versions(paths: IndexPaths) -> list[int]:
    """List the numbers of the versions in ``versions/``, ascending.

    Empty if the index was never changed: its only version is then 0, in ``manifest.json``.
    """
    names = (path.last_name for path in paths.versions.children())
    return sorted(int(name[:10]) for name in names if _VERSION_NAME.fullmatch(name))


def read_manifest(
    paths: IndexPaths,
    number: int | None = None,
    known: Manifest | None = None,
    *,
    noted: bool = False,
) -> Manifest:
    """Read the manifest of a version.

    Parameters
    ----------
    paths : IndexPaths
    number : int, optional
        The version; the newest if not given.
    known : Manifest, optional
        Of some version of this index: if it is the one asked for, it is not read again.
    noted : bool
        A copy of the version's file will do, where ``manifest.json`` has one.

    Raises
    ------
    MissingFile
        The directory holds no index, or its build is not finished, or it has no such version.
    CorruptFile, IncompatibleVersion
    """
    numbers = list_versions(paths)
    if number is not None and number not in (numbers or [0]):
        present = ", ".join(map(str, numbers or [0]))
        raise MissingFile(f"{paths}: version {number} asked for; the index has {present}")
    if numbers:
        number = numbers[-1] if number is None else number
        # Versions never change; but number 0 may have been read from the build's manifest.
        if known is not None and number == known.number > 0:
            return known
        return _read_version(paths, number, noted=noted)
    try:
        content = read_json(paths.manifest, _FORMAT, _VERSION, _MOVED)
    except MissingFile:
        raise MissingFile(_explain_missing(paths)) from None
    if content["version"] == _MOVED:
        raise MissingFile(f"{paths.versions}: the index's versions are missing")
    del content["format"], content["version"]
    return _parse(content, "slices", paths.manifest)


def _read_version(paths: IndexPaths, number: int, *, noted: bool) -> Manifest:
    path = paths.version(number)
    content = _read_noted(paths, number) if noted and not paths.is_local else None
    if content is None:
        content = read_json(path, _VERSION_FORMAT, _VERSION_VERSION)
    del content["format"], content["version"]
    try:
        content["deletes"] = tuple(DeleteSet(**entry) for entry in content["deletes"])
        content["voided"] = tuple(VoidedLists(**entry) for entry in content.get("voided", ()))
        if "calibration" in content:
            content["calibration"] = CalibrationEntry(**content["calibration"])
        content["committed"] = tuple(content.get("committed", ()))
        if "known" in content:
            content["known"] = parse_kept(content["known"])
    except (TypeError, KeyError, ValueError) as error:
        raise CorruptFile(f"{path}: unexpected fields: {error}") from error
    manifest = _parse(content, "segments", path)
    if manifest.number != number:
        raise ForeignFile(f"{path}: version {manifest.number} found, {number} expected")
    return manifest


def _read_noted(paths: IndexPaths, number: int) -> dict[str, Any] | None:
    """Return a version's content as ``manifest.json`` has it; None if it has another one, or none.

    In an object store its writer puts it there, so that opening the index waits once less.
    """
    try:
        text = read_json(paths.manifest, _FORMAT, _MOVED).get(NEWEST)
        if text is None:
            return None
        where = str(paths.manifest)
        content = parse_json(text.encode(), where, _VERSION_FORMAT, _VERSION_VERSION)
    except (TeravecError, AttributeError) as error:
        log.debug("%s; version %d is read instead", error, number)
        return None
    return content if content.get("number") == number else None


def _parse(content: dict[str, Any], segments: str, path: StorePath) -> Manifest:
    """Make a manifest of a file's content; ``segments`` is the key of its segments."""
    try:
        entries = tuple(_parse_entry(entry) for entry in content.pop(segments))
        manifest = Manifest(**content, segments=entries)
        if manifest.columns is not None:
            parse_schema(manifest.columns, str(path))
    except (TypeError, KeyError, ValueError) as error:
        raise CorruptFile(f"{path}: unexpected fields: {error}") from error
    _check_segments(manifest, path)
    return manifest


def read_model_description(paths: IndexPaths, manifest: Manifest) -> ModelDescription:
    """Read the description of the manifest's model.

    Raises
    ------
    ForeignFile
        The description belongs to another model.
    MissingFile, CorruptFile, IncompatibleVersion
    """
    directory = paths.file(manifest.model_path)
    model = ModelDescription.read(directory)
    if model.checksum != manifest.model:
        raise ForeignFile(
            f"{directory / 'model.json'}: model {model.checksum} found, "
            f"{manifest.model} expected by {paths.manifest}"
        )
    return model


def _explain_missing(paths: IndexPaths) -> str:
    if paths.build.exists():
        return (
            f"{paths}: the build is not finished (no {paths.manifest.name}); "
            "run the same build again to finish it"
        )
    if paths.imported.exists():
        return f"{paths}: the import is not finished; run the same import again to finish it"
    return f"{paths}: no teravec index there (no {paths.manifest.name})"


def _check_segments(manifest: Manifest, path: StorePath) -> None:
    """Raise CorruptFile unless every list has a place, and no segment an unknown list.

    The first layer has all lists that there were when it was written. A rebalance appends lists.
    """
    first, *others = manifest.layers or ((),)
    bounds = [0, *(segment.lists[1] for segment in first)]
    starts = [segment.lists[0] for segment in first]
    whole = bounds[-1] == manifest.nlist or (manifest.voided and bounds[-1] < manifest.nlist)
    if starts != bounds[:-1] or not whole:
        raise CorruptFile(f"{path}: the slices do not cover lists 0 to {manifest.nlist:,} once")
    for segment in (segment for layer in others for segment in layer):
        if not 0 <= segment.lists[0] <= segment.lists[1] <= manifest.nlist:
            raise CorruptFile(
                f"{path}: {segment.file} has lists {segment.lists}; the index has "
                f"{manifest.nlist:,}"
            )
    for segment in manifest.segments:
        if (segment.columns is None) != (manifest.columns is None):
            found = "no columns" if segment.columns is None else "columns"
            raise CorruptFile(f"{path}: {segment.file} has {found}, unlike the index")
    total = sum(segment.valid for segment in manifest.segments)
    if manifest.number and total != manifest.ntotal:
        raise CorruptFile(f"{path}: {total:,} vectors in segments, {manifest.ntotal:,} expected")
