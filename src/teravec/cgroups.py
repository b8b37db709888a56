"""Limits of Linux control groups on this process: a container's memory and processors.

A process is in one group of each hierarchy, and every group above limits it too. Version 1 has
one hierarchy per controller, version 2 one for all controllers. A machine may have both.

References
----------
Linux kernel documentation, "Control Group v2" and "cgroup-v1/memory"; cgroups(7), proc(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["memory_limits", "processor_quotas"]

_ROOT = Path("/")
_NO_LIMIT = 1 << 60  # version 1 writes "no limit" as the largest multiple of a page


def memory_limits(root: Path = _ROOT) -> Iterator[tuple[int, Path]]:
    """Yield every limit on this process's memory, in bytes, with the file that states it.

    Parameters
    ----------
    root : Path
        Directory that has ``proc`` and the mounted groups; tests pass another one.
    """
    for group in _find_groups(root, "memory"):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            limit = _read_number(group / name)
            if limit is not None and 0 <= limit < _NO_LIMIT:
                yield limit, group / name
        # In version 1 a container cannot see the groups above its own; this line has their limit.
        for limit in _read_numbers(group / "memory.stat", "hierarchical_memory_limit"):
            if limit < _NO_LIMIT:
                yield limit, group / "memory.stat"


def processor_quotas(root: Path = _ROOT) -> Iterator[float]:
    """Yield every quota of processors, such as 1.5."""
    for group in _find_groups(root, "cpu"):
        quota, _, period = _read_text(group / "cpu.max").partition(" ")
        if not quota:
            quota = _read_text(group / "cpu.cfs_quota_us")
            period = _read_text(group / "cpu.cfs_period_us")
        if quota.strip().isdigit() and period.strip().isdigit() and int(quota) and int(period):
            yield int(quota) / int(period)


def _find_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the directories of the groups that may limit this process, the innermost first."""
    mounts = list(_find_mounts(root, controller))
    for line in _read_text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for version2, mounted, place in mounts:
            if controller in controllers.split(",") if not version2 else not controllers:
                yield from _walk_up(root / place.lstrip("/"), _path_below(path, mounted))


def _find_mounts(root: Path, controller: str) -> Iterator[tuple[bool, str, str]]:
    """Yield the hierarchies of a controller: is it version 2, the mounted group, the mount."""
    for line in _read_text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or not kind or kind[0] not in ("cgroup", "cgroup2"):
            continue
        version2 = kind[0] == "cgroup2"
        if version2 or controller in kind[-1].split(","):
            yield version2, _unescape(fields[3]), _unescape(fields[4])


def _path_below(path: str, mounted: str) -> str:
    """Return a group's path relative to the mounted group, or "" if it is not below that."""
    if mounted == "/":
        return path.strip("/")
    inside = path == mounted or path.startswith(mounted + "/")
    return path[len(mounted) :].strip("/") if inside else ""


def _walk_up(mount: Path, path: str) -> Iterator[Path]:
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for n in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:n])


def _unescape(text: str) -> str:
    """Undo mountinfo's escapes, such as ``\\040`` for a blank."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _read_text(path: Path) -> str:
    """Read a file; return "" if it is missing or unreadable."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _read_number(path: Path) -> int | None:
    text = _read_text(path)
    return int(text) if text.isascii() and text.isdigit() else None


def _read_numbers(path: Path, name: str) -> Iterator[int]:
    for line in _read_text(path).splitlines():
        found, _, value = line.partition(" ")
        if found == name and value.isascii() and value.isdigit():
            yield int(value)
