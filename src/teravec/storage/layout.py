"""Where things lie inside an index directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from teravec.errors import StorageError

__all__ = ["IndexPaths", "absolute", "is_of_system"]

_OF_SYSTEM = ("lost+found", "system volume information", "$recycle.bin", "@eadir", "#recycle")


def absolute(path: str | Path) -> Path:
    """The path from the root on, which stays right when the process changes its directory.

    Links stay as they are: where a link is moved to another index, that index is meant.

    Raises
    ------
    StorageError
        A relative path, and the working directory was removed, or may not be seen.
    """
    try:
        return Path(path).absolute()
    except OSError as error:
        raise StorageError(
            f"{path}: the working directory cannot be found; give a path that begins with /"
        ) from error


def is_of_system(name: str) -> bool:
    """Whether an entry is hidden, or the system's: a directory that holds only such is empty."""
    return name.startswith(".") or name.lower() in _OF_SYSTEM


@dataclass(frozen=True)
class IndexPaths:
    """Names of an index's files, all below ``root``, which is made absolute."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", absolute(self.root))

    @property
    def manifest(self) -> Path:
        """Names everything that is sealed; an index is whole when this is there."""
        return self.root / "manifest.json"

    @property
    def build(self) -> Path:
        """What the build was asked for; lets a rerun continue the same build."""
        return self.root / "build.json"

    @property
    def skipped(self) -> Path:
        """Rows of the source that are no vectors, where they were left out."""
        return self.root / "skipped.json"

    @property
    def device(self) -> Path:
        """What a disk can do: older releases kept it here. It is read, and never written."""
        return self.root / "device.json"

    @property
    def model(self) -> Path:
        """Directory of the empty trained index."""
        return self.root / "model"

    @property
    def training(self) -> Path:
        """Directory of the sample and the checkpoint, while training."""
        return self.root / "training"

    @property
    def shards(self) -> Path:
        """Directory of the shards, while building."""
        return self.root / "shards"

    @property
    def slices(self) -> Path:
        """Directory of the slices."""
        return self.root / "slices"

    @property
    def calibration(self) -> Path:
        """Recall measured against effort; an index does without it."""
        return self.root / "calibration.json"

    @property
    def calibrating(self) -> Path:
        """Checkpoint of the true neighbours, while they are searched for a calibration."""
        return self.root / "calibration.partial"

    @property
    def spool(self) -> Path:
        """Vectors of a stream, beside the index, while it is built and calibrated."""
        root = self.root.resolve() if self.root.name in ("", "..") else self.root
        return root.parent / (root.name + ".spool")

    def shard(self, row_start: int, row_stop: int) -> Path:
        """The shard of rows [row_start, row_stop)."""
        return self.shards / f"{row_start:013d}-{row_stop:013d}.lists"

    def slice(self, number: int) -> Path:
        """The slice of this number."""
        return self.slices / f"{number:05d}.lists"

    def fine(self, number: int) -> Path:
        """The row file of the finer codes of this slice, where codes have two stages."""
        return self.slices / f"{number:05d}.fine"
