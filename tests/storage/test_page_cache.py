"""What the page cache holds: asking changes nothing."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from teravec.storage import page_cache
from teravec.storage.page_cache import knows_cached_bytes

SIZE = 64 * 4096


def cached_bytes(fd: int, offset: int, length: int) -> int:
    """Of one range."""
    (found,) = page_cache.cached_bytes(*(np.array([value]) for value in (fd, offset, length)))
    return int(found)


def test_cached_bytes_follow_the_page_cache(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(SIZE))
    fd = os.open(path, os.O_RDONLY)
    try:
        if not knows_cached_bytes(fd):
            pytest.skip("cachestat(2) came with Linux 6.5")
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        if cached_bytes(fd, 0, SIZE):
            pytest.skip("this file system keeps its pages")
        for _ in range(2):  # asking does not bring them in
            assert cached_bytes(fd, 0, SIZE) == 0
        os.pread(fd, 4096, 8 * 4096)
        assert cached_bytes(fd, 8 * 4096, 4096) == 4096
        assert cached_bytes(fd, 0, 4 * 4096) == 0
        assert 4096 <= cached_bytes(fd, 0, SIZE) < SIZE
    finally:
        os.close(fd)
    with pytest.raises(OSError, match="descriptor"):
        cached_bytes(fd, 0, 1)
