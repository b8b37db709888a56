"""Bytes in memory that have a path, for libraries that read from paths only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["memory_file"]


@contextmanager
def memory_file(data: bytes) -> Iterator[Path]:
    """Yield the path of a nameless file with these bytes; it never touches a disk.

    The path is valid in this process, and until the context ends.
    """
    with os.fdopen(os.memfd_create("teravec"), "wb", buffering=0) as file:
        file.write(data)
        yield Path(f"/proc/self/fd/{file.fileno()}")
