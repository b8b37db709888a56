"""The manifest: a small file, written last, that names every sealed and valid file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from teravec.errors import CorruptFile, ForeignFile, MissingFile
from teravec.model.description import ModelDescription
from teravec.segments.entry import RowsEntry, SliceEntry
from teravec.storage.jsonfile import read_json, write_json
from teravec.storage.layout import IndexPaths
from teravec.storage.store import StorePath

__all__ = [
    "Manifest",
    "count_copies_of_id",
    "describe_repeated",
    "read_manifest",
    "read_model_description",
    "write_manifest",
]

_FORMAT, _VERSION = "teravec-index", 1


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``.

    Parameters
    ----------
    creator : str
        Version of teravec that wrote it.
    d, ntotal, nlist : int
    code_size : int
        Bytes of a code in the slices' list files; in a two-stage codec, of the sketch.
    metric, transform, codec : str
    model : str
        Checksum of the model.
    files : dict
        Size and checksum of other sealed files, by path below the index.
    slices : tuple of SliceEntry
        In list order, covering [0, nlist).
    source : dict
        Where the vectors came from: names, sizes and fingerprints.
    clipped : int
        Vectors outside the scalar quantizer's trained range. The file omits the key if it is 0.
    repeated_ids : dict, optional
        Ids of an id column that occur more than once: ``ids`` (their number), ``rows`` (rows that
        have one), ``most`` (largest number of rows with the same id), ``example`` (one id), and
        ``exact`` (false: estimated from some of the ids). The file omits the key if there are
        none.
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
    slices: tuple[SliceEntry, ...]
    source: dict[str, Any]
    clipped: int = 0
    repeated_ids: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return (
            f"<teravec.Manifest: {self.ntotal:,} x {self.d}, {self.metric}, {self.codec}, "
            f"{self.nlist:,} lists in {len(self.slices)} slice{'s' * (len(self.slices) != 1)}>"
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
    """Publish the manifest: from then on the directory is an index."""
    head = {"format": _FORMAT, "version": _VERSION}
    content = {**head, **vars(manifest), "slices": [_entry_content(s) for s in manifest.slices]}
    if not manifest.clipped:
        del content["clipped"]
    if manifest.repeated_ids is None:
        del content["repeated_ids"]
    write_json(paths.manifest, content)


def _entry_content(entry: SliceEntry) -> dict[str, Any]:
    content = {**asdict(entry), "lists": list(entry.lists)}
    if entry.fine is None:
        del content["fine"]
    return content


def _parse_entry(content: dict[str, Any]) -> SliceEntry:
    fine = RowsEntry(**content["fine"]) if "fine" in content else None
    return SliceEntry(**{**content, "lists": tuple(content["lists"]), "fine": fine})


def read_manifest(paths: IndexPaths) -> Manifest:
    """Read the manifest.

    Raises
    ------
    MissingFile
        The directory holds no index, or its build is not finished.
    CorruptFile, IncompatibleVersion
    """
    if not paths.manifest.exists():
        raise MissingFile(_explain_missing(paths))
    content = read_json(paths.manifest, _FORMAT, _VERSION)
    del content["format"], content["version"]
    try:
        slices = [_parse_entry(entry) for entry in content.pop("slices")]
        manifest = Manifest(**content, slices=tuple(slices))
    except (TypeError, KeyError) as error:
        raise CorruptFile(f"{paths.manifest}: unexpected fields: {error}") from error
    _check_slices(manifest.slices, manifest, paths.manifest)
    return manifest


def read_model_description(paths: IndexPaths, manifest: Manifest) -> ModelDescription:
    """Read the description of the manifest's model.

    Raises
    ------
    ForeignFile
        The description belongs to another model.
    MissingFile, CorruptFile, IncompatibleVersion
    """
    model = ModelDescription.read(paths.model)
    if model.checksum != manifest.model:
        raise ForeignFile(
            f"{paths.model / 'model.json'}: model {model.checksum} found, "
            f"{manifest.model} expected by {paths.manifest}"
        )
    return model


def _explain_missing(paths: IndexPaths) -> str:
    if paths.build.exists():
        return (
            f"{paths}: the build is not finished (no {paths.manifest.name}); "
            "run the same build again to finish it"
        )
    return f"{paths}: no teravec index there (no {paths.manifest.name})"


def _check_slices(slices: Sequence[SliceEntry], manifest: Manifest, path: StorePath) -> None:
    bounds = [0, *(s.lists[1] for s in slices)]
    starts = [s.lists[0] for s in slices]
    if starts != bounds[:-1] or bounds[-1] != manifest.nlist:
        raise CorruptFile(f"{path}: the slices do not cover lists 0 to {manifest.nlist:,} once")
