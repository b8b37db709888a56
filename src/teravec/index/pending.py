"""Changes in progress: each has a record and a lock until its version is committed.

``adding/TOKEN.json`` is written before the change's first file, and removed after the commit. So
``vacuum`` knows which files nobody names yet, and a killed addition can go on. A change's files are
named by its token, also where their content would name them: a file that an older version left
may be removed at any time, so no change relies on finding it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from teravec.errors import MissingFile, OutputExists
from teravec.index.versions import TIME_FORMAT
from teravec.storage.files import make_directory
from teravec.storage.jsonfile import read_json, write_json
from teravec.storage.layout import IndexPaths
from teravec.storage.output_lock import hold_file
from teravec.storage.store import Store, StorePath

__all__ = [
    "PendingPaths",
    "begin_change",
    "check_pending",
    "hold_change",
    "list_pending",
    "read_record",
]

_FORMAT, _VERSION = "teravec-pending-change", 1


@dataclass(frozen=True, init=False)
class PendingPaths(IndexPaths):
    """Names of a change's files: the index's, but those that the change writes are its own.

    Parameters
    ----------
    store : Store
        The index's.
    token : str
        Distinguishes changes; part of the names of all of its files.
    model_path : str
        Parent of the files of the model that encodes the change's rows.
    part : str
        Distinguishes several sets of segments that one change makes.
    """

    token: str
    model_path: str
    part: str

    def __init__(self, store: Store, token: str, model_path: str = "model", part: str = "") -> None:
        super().__init__(store)
        object.__setattr__(self, "token", token)
        object.__setattr__(self, "model_path", model_path)
        object.__setattr__(self, "part", part)

    @property
    def record(self) -> StorePath:
        """What is being changed."""
        return self.file("adding") / f"{self.token}.json"

    @property
    def model(self) -> StorePath:
        """Parent of the files of the model that encodes the change's rows."""
        return self.file(self.model_path)

    @property
    def work(self) -> StorePath:
        """Parent of what is removed when the change ends."""
        return self.file("adding") / self.token

    @property
    def shards(self) -> StorePath:
        """Parent of the shards, while they are merged into segments."""
        return self.work / self.part if self.part else self.work

    def slice(self, number: int) -> StorePath:
        """Return the list file of a segment."""
        return self.file("segments") / f"{self._stem}-{number:05d}.lists"

    def fine(self, number: int) -> StorePath:
        """Return the row file of a segment's finer codes."""
        return self.file("segments") / f"{self._stem}-{number:05d}.fine"

    @property
    def _stem(self) -> str:
        return f"{self.token}-{self.part}" if self.part else self.token

    @property
    def derived_model(self) -> StorePath:
        """Parent of the files of the model that the change makes."""
        return self.file("models") / self.token

    @property
    def voided(self) -> StorePath:
        """The lists that the change writes anew."""
        return self.file("voided") / f"{self.token}.npy"

    def columns(self, number: int) -> StorePath:
        """Return the column file of a segment."""
        return self.file("segments") / f"{self._stem}-{number:05d}.columns"

    @property
    def deletes(self) -> StorePath:
        """The ids that the change hides."""
        return self.file("deletes") / f"{self.token}.npy"

    def deletes_file(self, seal: str) -> StorePath:
        """Return a file of joined delete sets, of this content."""
        return self.file("deletes") / f"{self.token}-{seal}.npy"

    def known_file(self, kind: str, seal: str) -> StorePath:
        """Return a file of the known queries or of their neighbours, of this content."""
        return self.known / f"{kind}-{self.token}-{seal}.npy"

    def calibration_file(self, seal: str) -> StorePath:
        """Return the file of a calibration of this content."""
        return self.file(f"calibration-{self.token}-{seal}.json")

    def owns(self, name: str) -> bool:
        """Whether a name is that of one of the change's files."""
        return self.token in name


@contextmanager
def begin_change(
    paths: IndexPaths,
    content: dict[str, Any],
    is_same: Callable[[dict[str, Any]], bool],
    token: str | None = None,
) -> Iterator[PendingPaths]:
    """Begin a change, or go on with a killed one; the body commits it.

    Parameters
    ----------
    paths : IndexPaths
    content : dict
        What the change does, as JSON.
    is_same : callable
        Given the content of another record: whether that change is this one.
    token : str, optional
        Not given: random.

    Raises
    ------
    OutputExists
        Another process is making the same change now.
    """
    for pending in list_pending(paths):
        record = read_record(pending)
        if record is None or not is_same(record):
            continue
        with hold_change(pending):
            if pending.record.exists():  # or its process ended it just before we had the lock
                yield from _made(pending)
                return
    pending = PendingPaths(paths.store, token or secrets.token_hex(8))
    with hold_change(pending):
        created = datetime.now(UTC).strftime(TIME_FORMAT)
        write_json(
            pending.record, {"format": _FORMAT, "version": _VERSION, "created": created, **content}
        )
        yield from _made(pending)


def _made(pending: PendingPaths) -> Iterator[PendingPaths]:
    yield pending
    pending.work.remove_all()
    pending.record.remove()


def check_pending(pending: PendingPaths) -> None:
    """Raise OutputExists if a change's record is gone: ``vacuum`` took it for a killed one.

    A change looks before it commits, because its files may be gone as well.
    """
    if not pending.record.exists():
        raise OutputExists(
            f"{pending}: this change was ended meanwhile, by vacuum or by another process that "
            "made it; look at teravec versions, and make it again if it is not there"
        )


def list_pending(paths: IndexPaths) -> list[PendingPaths]:
    """List the changes that were begun and not ended."""
    names = [path.last_name for path in paths.file("adding").children()]
    tokens = [name.removesuffix(".json") for name in names if name.endswith(".json")]
    return [PendingPaths(paths.store, token) for token in tokens]


def read_record(pending: PendingPaths) -> dict[str, Any] | None:
    """Read a change's record: ``created``, and what ``begin_change`` was given.

    None if the change has ended meanwhile.
    """
    try:
        content = read_json(pending.record, _FORMAT, _VERSION)
    except MissingFile:
        return None
    del content["format"], content["version"]
    return content


@contextmanager
def hold_change(pending: PendingPaths) -> Iterator[None]:
    """Hold a change's lock, or raise OutputExists if its process is alive."""
    with ExitStack() as stack:
        try:
            if pending.is_local:  # elsewhere age decides: ``vacuum``
                make_directory(pending.root / "adding")
                stack.enter_context(hold_file(pending.root / "adding" / pending.token))
        except OutputExists as error:
            raise OutputExists(f"{pending}: another process is making this change now") from error
        yield
