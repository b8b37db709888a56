"""Names of an index's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from teravec.errors import StorageError
from teravec.storage.cached_store import without_cache
from teravec.storage.local_store import LocalStore
from teravec.storage.places import Place, PlaceLike, place_of, work_directory, work_name
from teravec.storage.store import Store, StorePath

__all__ = ["IndexPaths", "absolute", "absolute_place", "is_of_system", "resolved_place", "store_at"]

_OF_SYSTEM = ("lost+found", "system volume information", "$recycle.bin", "@eadir", "#recycle")


def absolute(path: str | Path) -> Path:
    """Return the path from the root on, which stays valid when the process changes its directory.

    Links stay as they are: if a link is moved to another index, that index is meant.

    Raises
    ------
    StorageError
        The path is relative, and the working directory was removed or may not be seen.
    """
    try:
        return Path(path).absolute()
    except OSError as error:
        raise StorageError(
            f"{path}: the working directory cannot be found; give a path that begins with /"
        ) from error


def absolute_place(place: Place) -> Place:
    """Return a path from the root on; a store is where it is."""
    return absolute(place) if isinstance(place, Path) else place


def resolved_place(place: Place) -> Place:
    """Return where a path leads now, through links that may be moved on; a store is as it is."""
    return place.resolve() if isinstance(place, Path) else place


def is_of_system(name: str) -> bool:
    """Whether an entry is hidden or the system's; a directory of only such entries is empty."""
    return name.startswith(".") or name.lower() in _OF_SYSTEM


def store_at(where: PlaceLike) -> Store:
    """Return the store at a path, at a URL, or as it was given."""
    place = place_of(where, "the index")
    return LocalStore(absolute(place)) if isinstance(place, Path) else place


@dataclass(frozen=True, init=False)
class IndexPaths:
    """Names of an index's files in its store.

    ``str`` of it is what messages show: the store's path or address.

    Parameters
    ----------
    where : path-like or Store
        The index's directory, a URL of an object store, or the store of its files.
    """

    store: Store

    def __init__(self, where: PlaceLike) -> None:
        object.__setattr__(self, "store", store_at(where))

    def __str__(self) -> str:
        return self.store.locate("")

    @property
    def is_local(self) -> bool:
        """Whether the index lies in a directory: only there are locks, and names that change."""
        return isinstance(without_cache(self.store), LocalStore)

    @property
    def root(self) -> Path:
        """The index's directory, for what only a local index has: locks, and a swap of names.

        Raises
        ------
        StorageError
            The index lies in another kind of store.
        """
        store = without_cache(self.store)
        if not isinstance(store, LocalStore):
            raise StorageError(f"{self}: a directory of a local file system expected")
        return store.root

    def file(self, name: str) -> StorePath:
        """Return the file of a name, such as the manifest's entries have."""
        return StorePath(self.store, name)

    @property
    def manifest(self) -> StorePath:
        """Names everything that is sealed; an index is complete when this is there."""
        return self.file("manifest.json")

    @property
    def build(self) -> StorePath:
        """Options of the build, with which a rerun continues it."""
        return self.file("build.json")

    @property
    def imported(self) -> StorePath:
        """Files of another library that the index was imported from, instead of a build."""
        return self.file("import.json")

    @property
    def skipped(self) -> StorePath:
        """Rows of the source that are no vectors, if they were left out."""
        return self.file("skipped.json")

    @property
    def device(self) -> StorePath:
        """What a disk can do: older releases kept it here. It is read, and never written."""
        return self.file("device.json")

    @property
    def model(self) -> StorePath:
        """Parent of the files of the empty trained index."""
        return self.file("model")

    @property
    def training(self) -> StorePath:
        """Parent of the sample and the checkpoint, while training."""
        return self.file("training")

    @property
    def shards(self) -> StorePath:
        """Parent of the shards, while building."""
        return self.file("shards")

    @property
    def slices(self) -> StorePath:
        """Parent of the slices."""
        return self.file("slices")

    @property
    def versions(self) -> StorePath:
        """Directory of the versions, once the index was changed."""
        return self.file("versions")

    def version(self, number: int) -> StorePath:
        """Return the manifest of a version."""
        return self.versions / f"{number:010d}.json"

    @property
    def calibration(self) -> StorePath:
        """Recall measured against effort; an index works without it."""
        return self.file("calibration.json")

    @property
    def known(self) -> StorePath:
        """Directory of the known queries and their neighbours, for calibrating again."""
        return self.file("known")

    @property
    def calibrating(self) -> StorePath:
        """Parent of the checkpoint of a calibration's true neighbours, until they are found."""
        return self.file("calibration.partial")

    @property
    def spool(self) -> Path:
        """Vectors of a stream, while it is built and calibrated: a file beside the index.

        Of an index in another kind of store, a file in its local work directory.
        """
        if not self.is_local:
            return work_directory(self.store) / (work_name(self.store) + ".spool")
        root = self.root.resolve() if self.root.name in ("", "..") else self.root
        return root.parent / (root.name + ".spool")

    def shard(self, row_start: int, row_stop: int) -> StorePath:
        """Return the shard of rows [row_start, row_stop)."""
        return self.shards / f"{row_start:013d}-{row_stop:013d}.lists"

    def shard_columns(self, row_start: int, row_stop: int) -> StorePath:
        """Return the column file of that shard, in an index with columns."""
        return self.shards / f"{row_start:013d}-{row_stop:013d}.columns"

    def slice(self, number: int) -> StorePath:
        """Return the slice of this number."""
        return self.slices / f"{number:05d}.lists"

    def fine(self, number: int) -> StorePath:
        """Return the row file of this slice's fine codes, in a two-stage codec."""
        return self.slices / f"{number:05d}.fine"

    def columns(self, number: int) -> StorePath:
        """Return the column file of this slice, in an index with columns."""
        return self.slices / f"{number:05d}.columns"
