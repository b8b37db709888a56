"""The servers that a coordinator should know: a list of addresses, or a file that may change."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teravec.errors import InvalidArgument, storage_errors
from teravec.index.opened import OPEN_END
from teravec.serving.server.served import ranges_text
from teravec.serving.wire.rotation import FileStamps
from teravec.serving.wire.security import Address
from teravec.storage.files import publishing, write_all
from teravec.storage.layout import absolute

__all__ = ["ServerEntry", "Topology", "parse_ranges"]

_LARGEST_FILE = 16 << 20


@dataclass(frozen=True)
class ServerEntry:
    """One server.

    Parameters
    ----------
    address : Address
    lists : tuple of (start, stop), optional
        The lists that it should own; a server that reports others is refused. Not given: the lists
        that it reports.
    """

    address: Address
    lists: tuple[tuple[int, int], ...] | None = None


class Topology:
    """The servers of a deployment.

    Parameters
    ----------
    entries : sequence of ServerEntry
    path : Path, optional
        The file that they came from, which may change.
    """

    def __init__(self, entries: Sequence[ServerEntry], path: Path | None = None) -> None:
        self.entries, self._path = tuple(entries), None if path is None else absolute(path)
        self._stamps = FileStamps([] if self._path is None else [self._path])
        addresses = [str(entry.address) for entry in self.entries]
        if not addresses or len(set(addresses)) != len(addresses):
            raise InvalidArgument(f"servers {addresses} found; one at least, each once, expected")

    @classmethod
    def parse(cls, text: str) -> Topology:
        """Read addresses that are separated by commas."""
        return cls([ServerEntry(Address.parse(part)) for part in text.split(",")])

    @classmethod
    def read(cls, path: Path) -> Topology:
        """Read a topology file.

        It is JSON: ``{"servers": [{"address": "host:port", "lists": "0:100,200:300"}, ...]}``;
        ``lists`` may be left out.
        """
        with storage_errors(path, "read"):
            if path.stat().st_size > _LARGEST_FILE:
                raise InvalidArgument(f"{path}: more than {_LARGEST_FILE:,} bytes found")
            text = path.read_text("utf-8", "replace")
        try:
            entries = [_entry(entry) for entry in json.loads(text)["servers"]]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, InvalidArgument):
                raise InvalidArgument(f"{path}: {error}") from None
            raise InvalidArgument(
                f'{path}: {{"servers": [{{"address": "host:port"}}, ...]}} expected'
            ) from None
        return cls(entries, path)

    def write(self, path: Path) -> None:
        """Write the file that ``read`` reads.

        Raises
        ------
        StorageError
        """
        servers = [
            {"address": str(entry.address)}
            | ({} if entry.lists is None else {"lists": ranges_text(entry.lists)})
            for entry in self.entries
        ]
        text = json.dumps({"servers": servers}, indent=1) + "\n"
        with publishing(path) as file:
            write_all(file, text.encode(), 0)

    def changed(self) -> Topology | None:
        """Return the topology in the file; None if the file has not changed."""
        if self._path is None or not self._stamps.changed():
            return None
        return Topology.read(self._path)


def _entry(entry: dict[str, Any]) -> ServerEntry:
    lists = entry.get("lists")
    return ServerEntry(
        Address.parse(entry["address"]), None if lists is None else parse_ranges(lists)
    )


def parse_ranges(text: str) -> tuple[tuple[int, int], ...]:
    """Read ranges of lists written as ``0:100,200:``: ascending, without overlap.

    The last range may end with the index's lists, however many later versions have.
    """
    try:
        pairs = [part.split(":") for part in text.split(",")]
        ranges = tuple((int(start), int(stop) if stop else OPEN_END) for start, stop in pairs)
    except (ValueError, AttributeError):
        raise InvalidArgument(f"lists {text!r} found; A:B, A: or A:B,C:D expected") from None
    ends = [end for pair in ranges for end in pair]
    if ends != sorted(ends) or any(start >= stop for start, stop in ranges) or ends[0] < 0:
        raise InvalidArgument(f"lists {text!r} found; ascending ranges from 0 expected")
    return ranges
