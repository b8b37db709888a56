"""Random inverted lists, and a list file's bytes put together by the book."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from teravec.storage.listfile import ListFileHeader, ListFileWriter
from teravec.storage.local_store import stored


@dataclass(frozen=True)
class Lists:
    """What a list file holds: sizes, and codes and ids list after list."""

    sizes: np.ndarray
    codes: np.ndarray
    ids: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """Row at which each list begins, and the number of rows."""
        return np.concatenate([[0], np.cumsum(self.sizes)])

    def list_of(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Codes and ids of the list at position i."""
        rows = slice(self.starts[i], self.starts[i + 1])
        return self.codes[rows], self.ids[rows]


def random_lists(sizes: list[int] | np.ndarray, code_size: int, seed: int = 0) -> Lists:
    """Lists of these sizes, with random codes and ids."""
    rng = np.random.default_rng(seed)
    n = int(np.sum(sizes))
    codes = rng.integers(0, 256, (n, code_size), np.uint8)
    return Lists(np.array(sizes, np.int64), codes, rng.integers(-(2**63), 2**63, n, np.int64))


def header_of(lists: Lists, list_start: int = 0, model: int = 2**64 - 5) -> ListFileHeader:
    """The header of a file of these lists."""
    n, code_size = lists.codes.shape
    return ListFileHeader(
        code_size, list_start, list_start + len(lists.sizes), 3, 3 + 2 * n, n, model
    )


def write_lists(path: Path, lists: Lists, cuts: list[int] | None = None, **header: Any) -> str:
    """Publish a list file, its rows in pieces that end at ``cuts``; return its seal."""
    with stored(path).publish() as file:
        writer = ListFileWriter(file, header_of(lists, **header), lists.sizes)
        bounds = [0, *sorted(min(cut, len(lists.ids)) for cut in cuts or []), len(lists.ids)]
        for start, stop in pairwise(bounds):
            writer.write(lists.codes[start:stop], lists.ids[start:stop])
        return writer.finish()


def file_bytes(lists: Lists, header: ListFileHeader, block_lists: int = 4096) -> bytes:
    """The whole file, from the format's description alone."""
    head = (
        b"TVLISTS\0"
        + struct.pack(
            "<IIQQQQQQ",
            2,
            header.code_size,
            header.list_start,
            header.list_stop,
            header.row_start,
            header.row_stop,
            header.ntotal,
            header.model,
        )
        + bytes(56)
    )
    head += struct.pack("<Q", xxhash.xxh3_64_intdigest(head))
    codes, ids = lists.codes.tobytes(), lists.ids.astype("<i8").tobytes()
    each = [lists.list_of(i) for i in range(len(lists.sizes))]
    columns = [
        lists.sizes.astype("<u8"),
        np.array([xxhash.xxh3_64_intdigest(c.tobytes()) for c, _ in each], "<u8"),
        np.array([xxhash.xxh3_64_intdigest(i.tobytes()) for _, i in each], "<u8"),
    ]
    table, directory = b"".join(column.tobytes() for column in columns), b""
    for start in range(0, len(lists.sizes), block_lists):
        block = b"".join(column[start : start + block_lists].tobytes() for column in columns)
        checksum = xxhash.xxh3_64_intdigest(block)
        directory += struct.pack("<QQ", int(lists.starts[start]), checksum)
    seal = xxhash.xxh3_64_intdigest(head + directory)
    at = len(head) + len(codes) + len(ids)
    footer = struct.pack("<QQQ", seal, at, 0) + b"TVLISTS\0"
    return head + codes + ids + table + directory + footer
