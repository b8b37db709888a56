"""Pages of finer codes: comparing their checksums, and a cache of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xxhash

from teravec.native import extensions

__all__ = ["find_units", "first_wrong", "keep_units"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

# _pages.c has these too.
_MOST_WANTED = 3
_CHECKSUM_BYTES = 8
_SEEDS = 1 << 64


def first_wrong(page_bytes: int, seed: int, numbers: Int64, read: Bytes, begins: Int64) -> int:
    """Find the first page whose checksum is wrong; -1 if there is none.

    Parameters
    ----------
    page_bytes : int
        The last 8 hold the checksum, XXH3-64 of the others.
    seed : int
        Seed of page 0; a page's number is added to it.
    numbers : ndarray of shape (n,), int64
    read : ndarray of uint8
    begins : ndarray of shape (n,), int64
        Byte of ``read`` at which each page begins.
    """
    if extensions.paging is not None:
        return int(extensions.paging.wrong(page_bytes, seed, numbers, read, begins))
    hashed = page_bytes - _CHECKSUM_BYTES
    for i, (number, begin) in enumerate(zip(numbers.tolist(), begins.tolist(), strict=True)):
        page = read[begin : begin + page_bytes].data
        found = xxhash.xxh3_64_intdigest(page[:hashed], (seed + number) % _SEEDS)
        if found != int.from_bytes(page[hashed:], "little"):
            return i
    return -1


def find_units(ways: int, unit_bytes: int, tags: Int64, wanted: Bytes, units: Int64) -> Int64:
    """Find units in a cache, and count them as wanted.

    Parameters
    ----------
    ways : int
        Places of a set; unit u may be in any of set ``u % nsets``.
    unit_bytes : int
    tags, wanted : ndarray of shape (nsets * ways,), int64 and uint8
        Unit at each place, -1 for none, and how often it was wanted. There is at least one place.
    units : ndarray of shape (n,), int64

    Returns
    -------
    ndarray of shape (n,), int64
        Byte of the cache at which each unit begins; -1 if it is not kept.
    """
    begins = np.empty(len(units), np.int64)
    if extensions.paging is not None:
        extensions.paging.find(ways, unit_bytes, tags, wanted, units, begins)
        return begins
    begins.fill(-1)
    places = (units % (len(tags) // ways) * ways)[:, None] + np.arange(ways)
    same = tags[places] == units[:, None]
    kept = same.any(axis=1)
    found = places[kept, same[kept].argmax(axis=1)]
    wanted[found] = np.minimum(wanted[found] + 1, _MOST_WANTED)
    begins[kept] = found * unit_bytes
    return begins


def keep_units(
    ways: int,
    unit_bytes: int,
    tags: Int64,
    wanted: Bytes,
    units: Int64,
    kept: Bytes,
    read: Bytes,
    begins: Int64,
) -> None:
    """Copy units into a cache, as far as it has places for them.

    Parameters
    ----------
    ways, unit_bytes, tags, wanted, units
        As for ``find_units``.
    kept : ndarray of shape (nsets * ways * unit_bytes,), uint8
        The cache.
    read : ndarray of uint8
    begins : ndarray of shape (n,), int64
        Byte of ``read`` at which each unit begins.
    """
    if extensions.paging is not None:
        extensions.paging.keep(ways, unit_bytes, tags, wanted, units, kept, read, begins)
        return
    for unit, begin in zip(units.tolist(), begins.tolist(), strict=True):
        if (place := _place_for(unit, ways, tags, wanted)) is not None:
            at = place * unit_bytes
            kept[at : at + unit_bytes] = read[begin : begin + unit_bytes]
            tags[place], wanted[place] = unit, 0


def _place_for(unit: int, ways: int, tags: Int64, wanted: Bytes) -> int | None:
    """Choose a free place or the least wanted, as _pages.c does; None if all were wanted."""
    first, of_set = divmod(unit, len(tags) // ways)
    places = np.roll(of_set * ways + np.arange(ways), -(first % ways))
    if (tags[places] == unit).any():
        return None
    counts = np.where(tags[places] < 0, -1, wanted[places].astype(np.int64))
    if counts.min() > 0:
        wanted[places] -= 1
        return None
    return int(places[counts.argmin()])
