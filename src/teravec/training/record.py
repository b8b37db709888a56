"""The build record: a build's options and source, by which a rerun recognises the build."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

from teravec.arguments import whole_number
from teravec.errors import (
    AlreadyThere,
    CorruptFile,
    InvalidArgument,
    InvalidSource,
    OutputExists,
    TeravecError,
    storage_errors,
)
from teravec.filters.kinds import check_filterable
from teravec.model.description import ModelDescription
from teravec.sources import Source, Weights
from teravec.storage.column_types import mark_filterable, parse_schema
from teravec.storage.files import make_directory
from teravec.storage.jsonfile import read_json, sealed_text, write_json
from teravec.storage.layout import IndexPaths, is_of_system
from teravec.storage.output_lock import hold_index
from teravec.training.given_centroids import GivenCentroids
from teravec.training.options import TrainOptions, TrainPlan, plan_training

__all__ = ["BuildRecord", "LayoutOptions", "OtherBuild", "begin_build", "check_free", "read_record"]

_FORMAT, _VERSION = "teravec-build", 1


class OtherBuild(OutputExists):
    """The output holds a sound build with other options or vectors.

    Attributes
    ----------
    found : str
        The first half of the message: the build that was found, without advice.
    """

    def __init__(self, found: str, advice: str = "") -> None:
        super().__init__(f"{found}: {advice}choose another --out, or add --overwrite to replace it")
        self.found = found

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.found,)


@dataclass(frozen=True)
class LayoutOptions:
    """How the index is cut into shards and slices.

    Parameters
    ----------
    shards : int, optional
        Not given: as few as possible, each small enough to be sorted in memory.
    slices : int, optional
        Not given: slices of about 1 GiB.
    filterable : tuple of str
        Columns with an inverted file: docs/filters.md.
    """

    shards: int | None = None
    slices: int | None = None
    filterable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("shards", "slices"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole_number(value, name, 1))
        object.__setattr__(self, "filterable", tuple(self.filterable))

    def content(self) -> dict[str, Any]:
        """Return the options as JSON; the record omits columns where there are none."""
        content = {key: value for key, value in asdict(self).items() if key != "filterable"}
        return {**content, **({"filterable": self.filterable} if self.filterable else {})}


@dataclass(frozen=True)
class BuildRecord:
    """The content of ``build.json``.

    Parameters
    ----------
    train : TrainOptions
    layout : LayoutOptions
    source : dict
        ``Source.describe()``: names, sizes and fingerprints of the files.
    weights : dict, optional
        ``Weights.describe()``, if training vectors have weights.
    centroids : dict, optional
        ``GivenCentroids.describe()``, if the user gave the centroids.
    """

    train: TrainOptions
    layout: LayoutOptions
    source: dict[str, Any]
    weights: dict[str, Any] | None = None
    centroids: dict[str, Any] | None = None

    @property
    def ntotal(self) -> int:
        """Vectors of the source."""
        return int(self.source["ntotal"])

    @property
    def schema(self) -> Any:
        """The pyarrow.Schema of the columns that the index keeps; None without any."""
        described = self.source.get("columns")
        if described is None:
            return None
        schema = parse_schema(described["schema"], "build.json")
        return mark_filterable(schema, self.layout.filterable)

    def plan(self) -> TrainPlan:
        """Return the training options with every choice made."""
        given = None if self.centroids is None else int(self.centroids["ntotal"])
        return plan_training(self.train, self.ntotal, int(self.source["d"]), given)

    def content(self) -> dict[str, Any]:
        """Return the JSON object to seal."""
        head = {"format": _FORMAT, "version": _VERSION}
        weights = {} if self.weights is None else {"weights": self.weights}
        centroids = {} if self.centroids is None else {"centroids": self.centroids}
        return {
            **head,
            "train": asdict(self.train),
            "layout": self.layout.content(),
            "source": self.source,
            **weights,
            **centroids,
        }

    def check_source(self, source: Source, where: IndexPaths) -> None:
        """Raise OutputExists if the build began with another source."""
        if source.is_described_by(self.source):
            self._check_columns(source, where)
            return
        found = source.describe()
        ours, theirs = _describe_files(self.source), _describe_files(found)
        detail = f"{theirs} found, {ours} expected" if ours != theirs else "its content changed"
        raise OtherBuild(f"{where} was begun with other vectors: {detail}")

    def _check_columns(self, source: Source, where: IndexPaths) -> None:
        ours, theirs = self.source.get("columns"), source.describe_columns()
        if ours == theirs:
            return
        named = [_name_columns(described) for described in (theirs, ours)]
        detail = "columns of other values" if named[0] == named[1] else named[0]
        raise OtherBuild(f"{where} was begun with {named[1]}, not {detail}")


def _name_columns(described: dict[str, Any] | None) -> str:
    if described is None:
        return "no columns"
    return "columns " + ", ".join(f"{c['name']} ({c['type']})" for c in described["schema"])


def _describe_files(description: dict[str, Any]) -> str:
    names = [file["name"] for file in description["files"]]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{description['ntotal']:,} x {description['d']} from {shown}"


def _describe_weights(record: BuildRecord) -> str:
    if record.weights is None:
        return "no weights"
    return f"weights {record.weights['name']} ({record.weights['fingerprint']})"


def _describe_centroids(record: BuildRecord) -> str:
    if record.centroids is None:
        return "no given centroids"
    file = record.centroids["files"][0]
    return f"centroids of {file['name']} ({file['fingerprint']})"


def read_record(paths: IndexPaths) -> BuildRecord:
    """Read ``build.json``.

    Raises
    ------
    MissingFile
        The directory holds no build.
    CorruptFile
    """
    content = read_json(paths.build, _FORMAT, _VERSION)
    try:
        return BuildRecord(
            TrainOptions(**content["train"]),
            LayoutOptions(**content["layout"]),
            content["source"],
            content.get("weights"),
            content.get("centroids"),
        )
    except (TypeError, KeyError) as error:
        raise CorruptFile(f"{paths.build}: unexpected fields: {error}") from error


@contextmanager
def begin_build(
    paths: IndexPaths,
    source: Source,
    train: TrainOptions,
    layout: LayoutOptions,
    weights: Weights | None = None,
    centroids: GivenCentroids | None = None,
) -> Iterator[BuildRecord]:
    """Begin a build in a new or empty directory, or continue the same build, under its lock.

    All options are checked before anything is written. No other command can write to the
    directory until the body ends. If the body meets bad input, a new build is removed again.

    Raises
    ------
    OutputExists
        The directory holds something else or a build with other options, or another process
        is writing to it.
    InvalidArgument
        An option is out of range or does not fit the source.
    """
    record = _check_record(source, train, layout, weights, centroids)
    check_free(paths)  # before the lock file is created: a foreign directory must stay untouched
    with hold_index(paths, create=True):
        begun = _begin(paths, record)
        if not begun:
            _check_same_build(read_record(paths), record, paths, source)
        try:
            yield record
        except InvalidArgument as error:
            if begun and not isinstance(error, OutputExists):
                _remove_bad_build(paths, record, vectors_are_bad=isinstance(error, InvalidSource))
            raise


def _begin(paths: IndexPaths, record: BuildRecord) -> bool:
    """Write a new build's record; return False if a build has begun."""
    if not check_free(paths):
        return False
    if paths.is_local:
        make_directory(paths.root)
        write_json(paths.build, record.content())
        return True
    try:
        paths.build.create(sealed_text(record.content()))
    except AlreadyThere:  # another process began at the same time
        return False
    return True


def _check_record(
    source: Source,
    train: TrainOptions,
    layout: LayoutOptions,
    weights: Weights | None,
    centroids: GivenCentroids | None,
) -> BuildRecord:
    if weights is not None and centroids is not None:
        raise InvalidArgument("weights count in k-means; with given centroids there is none")
    described = None if weights is None else weights.describe()
    given = None if centroids is None else centroids.describe()
    if centroids is not None:
        centroids.check_nlist(train.nlist)
    record = BuildRecord(train, layout, source.describe(), described, given)
    check_filterable(layout.filterable, record.schema)
    plan = record.plan()
    if layout.shards is not None and layout.shards > record.ntotal:
        raise InvalidArgument(f"{layout.shards:,} shards of {record.ntotal:,} vectors")
    if layout.slices is not None and layout.slices > plan.nlist:
        raise InvalidArgument(f"{layout.slices:,} slices of {plan.nlist:,} lists")
    return record


def check_free(paths: IndexPaths) -> bool:
    """Return True if a build can begin here, False if one has begun; raise for anything else."""
    if paths.build.exists():
        return False
    if paths.imported.exists():
        raise OtherBuild(f"{paths} holds an index that was imported")
    entries = _list_entries(paths)
    if entries is None:
        raise OutputExists(
            f"{paths} exists and is not a teravec build: a file found, a new or empty "
            "directory expected; choose another output"
        )
    others = sorted(
        name for name in entries if not is_of_system(name) and name != f"{paths.build.name}.tmp"
    )
    if others:
        raise OutputExists(
            f"{paths} exists and is not a teravec build: {', '.join(others[:3])} found, a new "
            "or empty directory expected; choose another output"
        )
    return True


def _list_entries(paths: IndexPaths) -> list[str] | None:
    """List what lies at the place of an index; None if that is a file."""
    if not paths.is_local:
        return paths.store.names()
    with storage_errors(paths.root, "read"):
        if not paths.root.exists():
            return []
        return [p.name for p in paths.root.iterdir()] if paths.root.is_dir() else None


def _check_same_build(
    before: BuildRecord, now: BuildRecord, paths: IndexPaths, source: Source
) -> None:
    _check_same_options(before, now, paths)
    before.check_source(source, paths)
    if before.weights != now.weights:
        raise OtherBuild(
            f"{paths} was begun with {_describe_weights(before)}, not {_describe_weights(now)}"
        )
    if before.centroids != now.centroids:
        raise OtherBuild(
            f"{paths} was begun with {_describe_centroids(before)}, not {_describe_centroids(now)}"
        )


def _remove_bad_build(paths: IndexPaths, record: BuildRecord, *, vectors_are_bad: bool) -> None:
    """Remove a build whose input turned out to be bad, unless part of it is still useful.

    Bad vectors can never be indexed, and before the model is sealed nothing is useful. Only this
    build's own files are removed: on file systems without locks, another process may have begun
    a build too.
    """
    if paths.manifest.exists() or (ModelDescription.is_sealed(paths.model) and not vectors_are_bad):
        return
    try:
        if read_record(paths) != record:
            return
    except TeravecError:
        return
    for parent in (paths.training, paths.model, paths.shards, paths.slices):
        parent.remove_all()
    paths.skipped.remove()
    paths.build.remove()


def _check_same_options(before: BuildRecord, now: BuildRecord, paths: IndexPaths) -> None:
    for ours, theirs in ((before.train, now.train), (before.layout, now.layout)):
        for field in fields(ours):
            old, new = getattr(ours, field.name), getattr(theirs, field.name)
            if old != new:
                shown_old = "left to the rules" if old is None else old
                shown_new = "left to the rules" if new is None else new
                flag = f"--{field.name.replace('_', '-')}"
                same = f"leave {flag} out" if old is None else f"give {flag} {old}"
                raise OtherBuild(
                    f"{paths} holds another index: {field.name} {shown_old}, not {shown_new}",
                    f"{same} to go on with it, ",
                )
