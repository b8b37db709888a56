"""The build record: what a build was asked for, so that a rerun continues that build."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from teravec.arguments import whole_number
from teravec.errors import CorruptFile, InvalidArgument, OutputExists, storage_errors
from teravec.sources import Source, Weights
from teravec.storage.files import make_directory
from teravec.storage.jsonfile import read_json, write_json
from teravec.storage.layout import IndexPaths
from teravec.training.options import TrainOptions, TrainPlan, plan_training

__all__ = ["BuildRecord", "LayoutOptions", "OtherBuild", "begin_build", "read_record"]

_FORMAT, _VERSION = "teravec-build", 1


class OtherBuild(OutputExists):
    """The output holds a sound build, of other options or vectors.

    Attributes
    ----------
    found : str
        What is there, without what to do about it.
    """

    def __init__(self, found: str, advice: str = "") -> None:
        super().__init__(f"{found}: {advice}choose another --out, or add --overwrite to replace it")
        self.found = found

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.found,)


@dataclass(frozen=True)
class LayoutOptions:
    """How the index is cut; None leaves it to the stages.

    Parameters
    ----------
    shards : int, optional
        Not given: as many as the memory limit needs for one to be sorted in memory.
    slices : int, optional
        Not given: slices of about 1 GiB.
    """

    shards: int | None = None
    slices: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None:
                object.__setattr__(self, name, whole_number(value, name, 1))


@dataclass(frozen=True)
class BuildRecord:
    """What ``build.json`` says.

    Parameters
    ----------
    train : TrainOptions
    layout : LayoutOptions
    source : dict
        ``Source.describe()``: names, sizes and fingerprints of the files.
    weights : dict, optional
        ``Weights.describe()``, where training vectors have weights.
    """

    train: TrainOptions
    layout: LayoutOptions
    source: dict[str, Any]
    weights: dict[str, Any] | None = None

    @property
    def ntotal(self) -> int:
        """Vectors of the source."""
        return int(self.source["ntotal"])

    def plan(self) -> TrainPlan:
        """The training options with every choice made."""
        return plan_training(self.train, self.ntotal, int(self.source["d"]))

    def content(self) -> dict[str, Any]:
        """The JSON object to seal."""
        head = {"format": _FORMAT, "version": _VERSION}
        weights = {} if self.weights is None else {"weights": self.weights}
        return {**head, "train": asdict(self.train), "layout": asdict(self.layout),
                "source": self.source, **weights}  # fmt: skip

    def check_source(self, source: Source, where: Path) -> None:
        """Raise OutputExists unless this is the source that the build began with."""
        found = source.describe()
        if found == self.source:
            return
        ours, theirs = _file_names(self.source), _file_names(found)
        detail = f"{theirs} found, {ours} expected" if ours != theirs else "its content changed"
        raise OtherBuild(f"{where} was begun with other vectors: {detail}")


def _file_names(description: dict[str, Any]) -> str:
    names = [file["name"] for file in description["files"]]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{description['ntotal']:,} x {description['d']} from {shown}"


def _named(record: BuildRecord) -> str:
    if record.weights is None:
        return "no weights"
    return f"weights {record.weights['name']} ({record.weights['fingerprint']})"


def read_record(paths: IndexPaths) -> BuildRecord:
    """Read ``build.json``.

    Raises
    ------
    MissingFile
        No build was begun there.
    CorruptFile
    """
    content = read_json(paths.build, _FORMAT, _VERSION)
    try:
        return BuildRecord(
            TrainOptions(**content["train"]), LayoutOptions(**content["layout"]),
            content["source"], content.get("weights"),
        )  # fmt: skip
    except (TypeError, KeyError) as error:
        raise CorruptFile(f"{paths.build}: unexpected fields: {error}") from error


def begin_build(
    paths: IndexPaths, source: Source, train: TrainOptions, layout: LayoutOptions,
    weights: Weights | None = None,
) -> BuildRecord:  # fmt: skip
    """Begin a build in a new or empty directory, or continue the same build.

    Nothing is written before every option is known to fit.

    Raises
    ------
    OutputExists
        The directory holds something else, or a build with other options.
    InvalidArgument
        An option is out of range or does not fit the source.
    """
    described = None if weights is None else weights.describe()
    record = BuildRecord(train, layout, source.describe(), described)
    plan = record.plan()
    if layout.shards is not None and layout.shards > record.ntotal:
        raise InvalidArgument(f"{layout.shards:,} shards of {record.ntotal:,} vectors")
    if layout.slices is not None and layout.slices > plan.nlist:
        raise InvalidArgument(f"{layout.slices:,} slices of {plan.nlist:,} lists")
    with storage_errors(paths.root, "read"):
        begun = paths.build.exists()
    if begun:
        before = read_record(paths)
        _check_same_options(before, record, paths)
        before.check_source(source, paths.root)
        if before.weights != record.weights:
            raise OtherBuild(f"{paths.root} was begun with {_named(before)}, not {_named(record)}")
        return before
    if paths.root.exists() and (not paths.root.is_dir() or any(paths.root.iterdir())):
        leftovers = [p.name for p in paths.root.iterdir()] if paths.root.is_dir() else []
        if leftovers != [paths.build.name + ".tmp"]:
            raise OutputExists(
                f"{paths.root} exists and is not a teravec build: choose another --out; what is "
                "not an index is not overwritten"
            )
    make_directory(paths.root)
    write_json(paths.build, record.content())
    return record


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
                    f"{paths.root} holds another index: {field.name} {shown_old}, not {shown_new}",
                    f"{same} to go on with it, ",
                )
