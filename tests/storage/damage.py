"""Damage: every byte of a file flipped in turn, and every shorter length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

FLIPS = (0x01, 0x20, 0x80, 0xFF)


def flipped(
    path: Path, start: int = 0, stop: int | None = None, flips: Sequence[int] = FLIPS
) -> Iterator[int]:
    """Yield each offset of [start, stop), for each flip, while its byte in the file is wrong."""
    whole = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for offset in range(start, len(whole) if stop is None else stop):
            for flip in flips:
                file.seek(offset)
                file.write(bytes([whole[offset] ^ flip]))
                yield offset
            file.seek(offset)
            file.write(whole[offset : offset + 1])
    assert path.read_bytes() == whole


def truncated(path: Path) -> Iterator[int]:
    """Yield each length less than the file's, while the file has it."""
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        yield length
    path.write_bytes(whole)
