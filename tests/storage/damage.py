"""Damage: every byte of a file flipped in turn, and every shorter length."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

FLIPS = (0x01, 0x20, 0x80, 0xFF)


def flipped(path: Path, start: int = 0, stop: int | None = None) -> Iterator[int]:
    """Yield each offset of [start, stop), several times, while its byte in the file is wrong."""
    whole = path.read_bytes()
    for offset in range(start, len(whole) if stop is None else stop):
        for flip in FLIPS:
            path.write_bytes(
                whole[:offset] + bytes([whole[offset] ^ flip]) + whole[offset + 1 :],
            )
            yield offset
    path.write_bytes(whole)


def truncated(path: Path) -> Iterator[int]:
    """Yield each length less than the file's, while the file has it."""
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        yield length
    path.write_bytes(whole)
