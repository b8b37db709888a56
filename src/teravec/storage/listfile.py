"""The list file: inverted lists, whole and contiguous, sealed.

One format serves shards (all lists of one id range) and slices (all ids of one list range).
``docs/format.md`` writes it field by field::

    header   128 bytes: magic, version, code size, list range, row range, vectors, model
    codes    list after list: size[i] * code_size bytes each
    ids      list after list: size[i] int64 each
    table    size and checksums of every list, and a directory of its blocks (listtable.py)
    footer   32 bytes: seal, offset of the table, magic

The seal is the XXH3-64 of header and directory. The directory holds a checksum for every block of
the table, and the table one for every list. So the seal vouches for every byte, and a manifest that
names the seal names the content. A reader of some lists does not need the whole table.
"""

from __future__ import annotations

import struct
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import xxhash

from teravec.engines.threads import ordered_map
from teravec.errors import CorruptFile
from teravec.storage.files import byte_view
from teravec.storage.listtable import ListTable, TableReader, table_size, write_table
from teravec.storage.local_store import AnyPath
from teravec.storage.sealed_file import SealedFile, pack_header, unpack_header
from teravec.storage.store import OpenFile, Writer

__all__ = ["ID_BYTES", "ListFile", "ListFileHeader", "ListFileWriter", "verify_lists"]

FORMAT_VERSION = 2
ID_BYTES = 8
MAGIC = b"TVLISTS\x00"
_HEADER = struct.Struct("<8sIIQQQQQQQ48xQ")
_FOOTER = struct.Struct("<QQ8x8s")
_VERIFY_BYTES = 8 << 20
_SYNC_BYTES = 16 << 20
_EMPTY = xxhash.xxh3_64_intdigest(b"")

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
IntOrArray = TypeVar("IntOrArray", int, Int64)


@dataclass(frozen=True)
class ListFileHeader:
    """What a list file holds.

    Parameters
    ----------
    code_size : int
        Bytes per code.
    list_start, list_stop : int
        Inverted lists [list_start, list_stop).
    row_start, row_stop : int
        Rows of the source [row_start, row_stop) that were encoded.
    ntotal : int
        Vectors in the file.
    model : int
        Checksum of the model that encoded them, as an unsigned 64-bit number.
    clipped : int
        In a shard: vectors outside the trained range of the codec's scalar quantizer.
    """

    code_size: int
    list_start: int
    list_stop: int
    row_start: int
    row_stop: int
    ntotal: int
    model: int
    clipped: int = 0

    @property
    def nlist(self) -> int:
        """Lists in this file."""
        return self.list_stop - self.list_start

    @property
    def codes_offset(self) -> int:
        """Byte at which the codes begin."""
        return _HEADER.size

    @property
    def ids_offset(self) -> int:
        """Byte at which the ids begin."""
        return self.codes_offset + self.ntotal * self.code_size

    @property
    def table_offset(self) -> int:
        """Byte at which the table begins."""
        return self.ids_offset + self.ntotal * ID_BYTES

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return self.table_offset + table_size(self.nlist) + _FOOTER.size

    def pack(self) -> bytes:
        """The header's 128 bytes; the last 8 are the checksum of the others."""
        return pack_header(
            _HEADER,
            MAGIC,
            FORMAT_VERSION,
            self.code_size,
            self.list_start,
            self.list_stop,
            self.row_start,
            self.row_stop,
            self.ntotal,
            self.model,
            self.clipped,
        )

    @classmethod
    def unpack(cls, data: bytes, path: str) -> ListFileHeader:
        """Check and return a header; ``path`` names the file in messages."""
        return cls(
            *unpack_header(
                _HEADER, data, path, magic=MAGIC, version=FORMAT_VERSION, kind="list file"
            )
        )


class _Checksums:
    """Computes checksums of consecutive lists from pieces that may end anywhere."""

    def __init__(self, sizes: Int64, row_bytes: int) -> None:
        self.values: UInt64 = np.full(len(sizes), _EMPTY, np.uint64)
        self._row_bytes = row_bytes
        # Empty lists are passed over: a segment of few rows has many.
        self._there = np.flatnonzero(sizes)
        self._stops = np.cumsum(sizes[self._there])
        self._next_list = 0
        self._row = 0
        self._open = xxhash.xxh3_64()

    def feed(self, data: memoryview) -> None:
        """Add the next bytes, a whole number of rows."""
        start, stop = self._row, self._row + len(data) // self._row_bytes
        first, whole = self._next_list, int(np.searchsorted(self._stops, stop, side="right"))
        ends = ((self._stops[first:whole] - start) * self._row_bytes).tolist()
        position = 0
        if ends:  # the first one began in earlier rows
            position = ends[0]
            self._open.update(data[:position])
            self.values[self._there[first]] = self._open.intdigest()
            self._open.reset()
            digest = xxhash.xxh3_64_intdigest
            others = self._there[first + 1 : whole]
            self.values[others] = [digest(data[a:b]) for a, b in pairwise(ends)]
            position = ends[-1]
        self._open.update(data[position:])
        self._next_list, self._row = whole, stop


class ListFileWriter:
    """Writes one list file, rows in list order, in as many pieces as memory asks for.

    While rows are computed, earlier rows go to the disk: the sync at the end then waits for the
    last megabytes, not for the whole file. Leave the context before the file closes.

    Parameters
    ----------
    file : Writer
        From ``Store.publish``; leaving that context after ``finish`` seals the file.
    header : ListFileHeader
    sizes : ndarray of shape (header.nlist,), int64
        Vectors of each list; must be known before the first row is written.
    """

    def __init__(self, file: Writer, header: ListFileHeader, sizes: Int64) -> None:
        assert len(sizes) == header.nlist
        assert int(sizes.sum()) == header.ntotal
        self._file, self._header, self._sizes = file, header, sizes
        self._codes = _Checksums(sizes, header.code_size)
        self._ids = _Checksums(sizes, ID_BYTES)
        self._codes_at, self._ids_at = header.codes_offset, header.ids_offset
        # One thread writes, one syncs: there is never more than one of each.
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="teravec-write")
        self._syncs: list[Future[None]] = []
        self._unsynced_bytes = 0
        file.reserve(header.file_size)

    def write(self, codes: Bytes, ids: Int64) -> None:
        """Append rows: codes of shape (n, code_size), uint8, and their n ids."""
        code_bytes, id_bytes = byte_view(codes), byte_view(ids)
        written = self._pool.submit(self._write_both, code_bytes, id_bytes)
        try:  # hash meanwhile: it takes about as long as copying into the page cache
            self._codes.feed(code_bytes)
            self._ids.feed(id_bytes)
        finally:
            written.result()
        self._codes_at += len(code_bytes)
        self._ids_at += len(id_bytes)
        self._unsynced_bytes += len(code_bytes) + len(id_bytes)
        if self._unsynced_bytes >= _SYNC_BYTES and all(sync.done() for sync in self._syncs):
            self._syncs.append(self._pool.submit(self._file.sync))
            self._unsynced_bytes = 0

    def _write_both(self, code_bytes: memoryview, id_bytes: memoryview) -> None:
        self._file.write(code_bytes, self._codes_at)
        self._file.write(id_bytes, self._ids_at)

    def __enter__(self) -> ListFileWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def finish(self) -> str:
        """Write header, table and footer; return the seal, 16 hexadecimal digits."""
        self._pool.shutdown()
        for sync in self._syncs:
            sync.result()  # the system reports an error of the disk only to the sync that met it
        self._codes.feed(memoryview(b""))
        self._ids.feed(memoryview(b""))
        header = self._header
        assert self._codes_at == header.ids_offset
        assert self._ids_at == header.table_offset
        head = header.pack()
        seal = xxhash.xxh3_64(head)
        table = ListTable(self._sizes, self._codes.values, self._ids.values)
        write_table(self._file, header.table_offset, table, seal)
        footer = _FOOTER.pack(seal.intdigest(), header.table_offset, MAGIC)
        self._file.write(footer, header.file_size - len(footer))
        self._file.write(head, 0)
        return seal.hexdigest()


class ListFile(SealedFile):
    """A sealed list file, open for reading at random places.

    Opening reads header, directory, footer and the table's entries of ``lists``, and checks them
    against the seal and the file's size. Codes and ids are checked list by list, when they are
    read.

    Parameters
    ----------
    source : OpenFile or StorePath or Path
    lists : tuple of int, optional
        Keep only the table's entries of lists [start, stop). Not given: of all lists.

    Attributes
    ----------
    header : ListFileHeader
    seal : str
        16 hexadecimal digits.
    lists : tuple of int
        The lists whose table entries are kept.
    sizes : ndarray of shape (lists[1] - lists[0],), int64
    starts : ndarray of shape (lists[1] - lists[0] + 1,), int64
        First row, in the file, of each list.
    code_checksums, id_checksums : ndarray of uint64
    """

    def __init__(self, source: OpenFile | AnyPath, *, lists: tuple[int, int] | None = None) -> None:
        super().__init__(source)
        with self._closed_on_error():
            self._open(lists)

    @staticmethod
    def first_reads(size: int, nlist: int) -> list[tuple[int, int]]:
        """Return what opening a file of so many bytes and lists reads, as (start, stop)."""
        tail = max(0, size - table_size(nlist) - _FOOTER.size)
        return [(0, _HEADER.size), (tail, size)]

    def _open(self, lists: tuple[int, int] | None) -> None:
        path = self.path
        head = self._read_header(_HEADER.size, _HEADER.size + _FOOTER.size, "list file")
        header = self.header = ListFileHeader.unpack(head, path)
        footer, seal = self._read_footer(_FOOTER.size, header.file_size), xxhash.xxh3_64(head)
        reader = TableReader(self.file, header.table_offset, header.nlist, header.ntotal, seal)
        if footer != _FOOTER.pack(seal.intdigest(), header.table_offset, MAGIC):
            raise CorruptFile(f"{path}: header and directory do not match the footer's seal")
        self.seal = seal.hexdigest()
        self.lists = lists or (header.list_start, header.list_stop)
        table = reader.read(*(list_no - header.list_start for list_no in self.lists))
        self.sizes, self.code_checksums = table.sizes, table.code_checksums
        self.id_checksums = table.id_checksums
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)]) + table.row

    def code_offset(self, row: IntOrArray) -> IntOrArray:
        """Return the byte of the file at which a row's code begins."""
        return self.header.codes_offset + row * self.header.code_size

    def id_offset(self, row: IntOrArray) -> IntOrArray:
        """Return the byte of the file at which a row's id begins."""
        return self.header.ids_offset + row * ID_BYTES

    def read_codes(self, start: int, stop: int) -> Bytes:
        """Read codes of the file's rows [start, stop), uint8 (n, code_size), unverified."""
        codes = np.empty((stop - start, self.header.code_size), np.uint8)
        self.file.read_into(byte_view(codes), self.code_offset(start))
        return codes

    def read_ids(self, start: int, stop: int) -> Int64:
        """Read ids of the file's rows [start, stop), unverified."""
        ids = np.empty(stop - start, "<i8")
        self.file.read_into(byte_view(ids), self.id_offset(start))
        return ids

    def checksums(self, part: str) -> npt.NDArray[np.uint64]:
        """Return the checksums of the kept lists' ``part``: "codes" or "ids"."""
        return self.code_checksums if part == "codes" else self.id_checksums

    def damaged(self, list_no: int, part: str, found: int) -> CorruptFile:
        """Make the error for a list whose checksum is wrong; ``part`` is "codes" or "ids"."""
        expected = int(self.checksums(part)[list_no - self.lists[0]])
        return self.mismatch(list_no, part, found, expected)

    def mismatch(self, list_no: int, part: str, found: int, expected: int) -> CorruptFile:
        """Make the same error where the table's entries were kept elsewhere."""
        self.file.distrust()
        return CorruptFile(
            f"{self.path}: {part} of list {list_no} have checksum {found:016x}, "
            f"{expected:016x} expected"
        )

    def check_belongs(self, *, model: int, code_size: int) -> None:
        """Raise ForeignFile unless the file was encoded by this model."""
        found = self.header.model, self.header.code_size
        self._check_encoded_by(found, (model, code_size), "code")


def verify_lists(source: OpenFile | AnyPath) -> None:
    """Read a list file whole, a few megabytes at a time, and check every list.

    Raises
    ------
    CorruptFile
        A list is wrong; the message names the file and the first such list.
    """
    with ListFile(source) as file:
        header = file.header
        sections = (
            ("codes", header.codes_offset, header.code_size, file.code_checksums),
            ("ids", header.ids_offset, ID_BYTES, file.id_checksums),
        )
        for part, offset, row_bytes, expected in sections:
            checksums = _Checksums(file.sizes, row_bytes)
            rows_each = max(1, _VERIFY_BYTES // row_bytes)
            pieces = (
                (offset + row * row_bytes, min(rows_each, header.ntotal - row) * row_bytes)
                for row in range(0, header.ntotal, rows_each)
            )
            for data in ordered_map(
                lambda piece: file.file.read(piece[1], piece[0]), pieces, threads=2
            ):
                checksums.feed(memoryview(data))
            checksums.feed(memoryview(b""))
            wrong = np.flatnonzero(checksums.values != expected)
            if len(wrong):
                found = int(checksums.values[wrong[0]])
                raise file.damaged(header.list_start + int(wrong[0]), part, found)
