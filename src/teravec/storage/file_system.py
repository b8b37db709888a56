"""Which file system a path lies on, by a name that outlasts a restart of the machine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import xxhash

from teravec.errors import storage_errors

__all__ = ["FileSystem", "find_file_system"]

MOUNTS = Path("/proc/self/mountinfo")
"""The system's list of mounts."""

_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class FileSystem:
    """A mounted file system, as one machine sees it.

    Parameters
    ----------
    host : str
        The machine: each reaches a network's disk at its own speed.
    kind : str
        Such as "ext4" or "nfs4"; empty where the system does not list its mounts.
    source : str
        What is mounted: a device, or a server's export.
    number : int
        The system's number for it; 0 on many networks.
    """

    host: str
    kind: str
    source: str
    number: int

    @property
    def key(self) -> str:
        """XXH3 of all of it, 16 hexadecimal digits."""
        parts = "\0".join((self.host, self.kind, self.source, str(self.number)))
        return xxhash.xxh3_64_hexdigest(parts.encode("utf-8", "surrogateescape"))


def find_file_system(path: Path) -> FileSystem:
    """Find the file system of a path, or of its nearest parent that exists.

    Raises
    ------
    StorageError
    """
    with storage_errors(path, "find the file system of"):
        found = Path(os.path.realpath(path))
        while not os.path.lexists(found) and found != found.parent:
            found = found.parent
        number = os.statvfs(found).f_fsid
    kind, source = _find_mount(found)
    return FileSystem(os.uname().nodename, kind, source, number)


def _find_mount(path: Path) -> tuple[str, str]:
    """Return type and source of the innermost mount above ``path``; empty if there is no list.

    References
    ----------
    proc_pid_mountinfo(5): ``id parent major:minor root point options [...] - type source ...``
    """
    try:
        lines = MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return "", ""
    innermost, kind, source = Path(), "", ""
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(_unescape(before.split()[4]))
        # A later mount on the same point hides the earlier one.
        if path.is_relative_to(point) and len(point.parts) >= len(innermost.parts):
            innermost = point
            kind, source = (_unescape(field) for field in after.split()[:2])
    return kind, source


def _unescape(field: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), field)
