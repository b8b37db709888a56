"""What opening an index reads, begun before it is asked for: two waves of requests.

The first wave brings the names of the versions, and files of known names. What the manifest names
is the second.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from teravec.index.manifest import Manifest
from teravec.model.description import ModelDescription
from teravec.segments.segment import Segment
from teravec.storage.early_reads import FIRST_BYTES, EarlyReads
from teravec.storage.layout import IndexPaths
from teravec.storage.listfile import ListFile
from teravec.storage.rowfile import RowFile
from teravec.storage.sealed_file import DirectoryFile
from teravec.storage.store import Sealed

__all__ = ["FirstReads"]


class FirstReads:
    """Reads of one opening.

    Parameters
    ----------
    paths : IndexPaths

    Attributes
    ----------
    paths : IndexPaths
        The same names; files that were begun are opened there. Of a local index, the same.
    """

    def __init__(self, paths: IndexPaths) -> None:
        self._early = None if paths.is_local else EarlyReads(paths.store)
        self.paths = paths if self._early is None else IndexPaths(self._early)

    def begin(self) -> None:
        """Begin with the files whose names every index has."""
        if self._early is not None:
            paths = self.paths
            for path in (paths.manifest, paths.model / "model.json", paths.calibration):
                self._early.begin(path.name)

    def begin_model(self, directory: str, description: ModelDescription) -> None:
        """Begin with all files of the model."""
        if self._early is not None:
            for name, entry in description.files.items():
                self._early.begin(f"{directory}/{name}", _sealed(entry))

    def begin_segments(self, entries: Iterable[Segment]) -> None:
        """Begin with what opening the files of segments reads."""
        if self._early is None:
            return
        for entry in entries:
            nlist = entry.lists[1] - entry.lists[0]
            ahead = ListFile.first_reads(entry.size, nlist)
            if entry.sequences[1] and entry.size <= FIRST_BYTES:
                ahead = [(0, entry.size)]  # searches hold small additions in memory
            self._early.begin(entry.file, Sealed(entry.size, entry.checksum), ahead)
            for other in entry.beside:
                kind = RowFile if other == entry.fine else DirectoryFile
                sealed = Sealed(other.size, other.checksum)
                self._early.begin(other.file, sealed, kind.first_reads(other.size))

    def begin_sets(self, manifest: Manifest, before: Manifest | None) -> None:
        """Begin with delete sets, voided lists and the calibration that a version names."""
        if self._early is None:
            return
        known = set() if before is None else {e.file for e in (*before.deletes, *before.voided)}
        for entry in (*manifest.deletes, *manifest.voided):
            if entry.file not in known:
                self._early.begin(entry.file, Sealed(entry.size, entry.checksum))
        if manifest.calibration is not None:
            found = manifest.calibration
            self._early.begin(found.file, Sealed(found.size, found.checksum))

    def close(self) -> None:
        """End what was begun and not asked for."""
        if self._early is not None:
            self._early.close()


def _sealed(entry: dict[str, Any]) -> Sealed:
    return Sealed(int(entry["size"]), str(entry["checksum"]))
