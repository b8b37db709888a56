"""The row file: rows of fixed size in pages, each with its own checksum.

In a two-stage codec, one lies beside each slice. It holds the fine code and the id of each vector,
in the slice's order. So a few rows, anywhere, cost a few pages of the device. ``docs/format.md``
describes it field by field::

    header   128 bytes: magic, version, row size, page size, list range, rows, model;
             then zeros up to byte 4,096
    pages    as many whole rows as fit, zeros, and 8 bytes of checksum, each page
    footer   32 bytes: seal, checksum of header and seal, magic

A page is as small as possible with few unused bytes. A device reads 512 bytes as slowly as 4,096
(measured: 50,000 reads a second of either, eight in flight). But a search that reads one page for
each candidate moves, copies and hashes all bytes of the page.

A page's checksum is seeded with the header's checksum plus the page's number, so a page from
another place or another model is detected. The seal is the XXH3-64 of the header and all pages'
checksums; a manifest that names the seal names the content.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import xxhash

from teravec.errors import CorruptFile
from teravec.native.pages import first_wrong
from teravec.storage.files import byte_view
from teravec.storage.local_store import AnyPath
from teravec.storage.sealed_file import SealedFile, pack_header, unpack_header
from teravec.storage.store import OpenFile, Writer

__all__ = ["RowFile", "RowFileHeader", "RowFileWriter", "page_bytes_for", "verify_rows"]

FORMAT_VERSION = 1
MAGIC = b"TVROWS\x00\x00"
_FIRST_PAGE = 4096  # byte at which pages begin
_SECTOR_BYTES = 512  # the smallest read of a device
_HEADER = struct.Struct("<8sIIQQQQQ64xQ")
_FOOTER = struct.Struct("<QQ8x8s")
_CHECKSUM_BYTES = 8
_FILLED = 5 / 6  # least share of a page that rows fill
_BATCH_BYTES = 4 << 20
_SEEDS = 1 << 64

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]
IntOrArray = TypeVar("IntOrArray", int, Int64)


def page_bytes_for(row_size: int) -> int:
    """Return the smallest page, in whole sectors, that rows of this size fill by five sixths."""
    page = -(-(row_size + _CHECKSUM_BYTES) // _SECTOR_BYTES) * _SECTOR_BYTES
    while (page - _CHECKSUM_BYTES) // row_size * row_size < _FILLED * page:
        page += _SECTOR_BYTES
    return page


@dataclass(frozen=True)
class RowFileHeader:
    """What a row file holds.

    Parameters
    ----------
    row_size : int
        Bytes of a row.
    page_bytes : int
        Bytes of a page: a multiple of 512 that holds a row and its checksum.
    list_start, list_stop : int
        Inverted lists [list_start, list_stop). Rows belong to their vectors, list after list.
    ntotal : int
        Rows.
    model : int
        Checksum of the model that encoded them, as an unsigned 64-bit number.
    """

    row_size: int
    page_bytes: int
    list_start: int
    list_stop: int
    ntotal: int
    model: int

    @property
    def page_rows(self) -> int:
        """Rows of a page."""
        return (self.page_bytes - _CHECKSUM_BYTES) // self.row_size

    @property
    def npages(self) -> int:
        """Pages of the file."""
        return -(-self.ntotal // self.page_rows)

    @property
    def footer_offset(self) -> int:
        """Byte at which the footer begins."""
        return _FIRST_PAGE + self.npages * self.page_bytes

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return self.footer_offset + _FOOTER.size

    def pack(self) -> bytes:
        """The header's 128 bytes; the last 8 are the checksum of the others."""
        return pack_header(
            _HEADER,
            MAGIC,
            FORMAT_VERSION,
            self.row_size,
            self.page_bytes,
            self.list_start,
            self.list_stop,
            self.ntotal,
            self.model,
        )

    @classmethod
    def unpack(cls, data: bytes, path: str) -> RowFileHeader:
        """Check and return a header; ``path`` names the file in messages."""
        header = cls(
            *unpack_header(
                _HEADER, data, path, magic=MAGIC, version=FORMAT_VERSION, kind="row file"
            )
        )
        fits = 0 < header.row_size <= header.page_bytes - _CHECKSUM_BYTES
        if not fits or header.page_bytes % _SECTOR_BYTES or header.pack() != data:
            raise CorruptFile(f"{path}: the header's fields disagree")
        return header

    @cached_property
    def seed(self) -> int:
        """Seed of page 0's checksum; each following page's seed is one more."""
        return int.from_bytes(self.pack()[-8:], "little")

    def page_checksum(self, number: int, page: memoryview) -> int:
        """Return the checksum that the last bytes of a page must hold."""
        seed = (self.seed + number) % _SEEDS
        return xxhash.xxh3_64_intdigest(page[: self.page_bytes - _CHECKSUM_BYTES], seed)


def _footer(head: bytes, seal: int) -> bytes:
    own = xxhash.xxh3_64_intdigest(head + seal.to_bytes(8, "little"))
    return _FOOTER.pack(seal, own, MAGIC)


class RowFileWriter:
    """Writes one row file, rows in order, in as many pieces as memory asks for.

    Parameters
    ----------
    file : Writer
        From ``Store.publish``; leaving that context after ``finish`` seals the file.
    header : RowFileHeader
    """

    def __init__(self, file: Writer, header: RowFileHeader) -> None:
        self._file, self._header = file, header
        self._seal = xxhash.xxh3_64(header.pack())
        self._page = 0
        self._held = np.empty((0, header.row_size), np.uint8)
        file.reserve(header.file_size)

    def write(self, rows: Bytes) -> None:
        """Append rows, uint8 of shape (n, row_size)."""
        rows_each = max(1, _BATCH_BYTES // self._header.page_bytes) * self._header.page_rows
        for start in range(0, len(rows), rows_each):
            rows_now = np.concatenate([self._held, rows[start : start + rows_each]])
            whole = len(rows_now) // self._header.page_rows * self._header.page_rows
            self._write_pages(rows_now[:whole])
            self._held = rows_now[whole:].copy()

    def _write_pages(self, rows: Bytes) -> None:
        header = self._header
        npages = -(-len(rows) // header.page_rows)
        if not npages:
            return
        pages = np.zeros((npages, header.page_bytes), np.uint8)
        wide = np.zeros((npages * header.page_rows, header.row_size), np.uint8)
        wide[: len(rows)] = rows
        pages[:, : header.page_rows * header.row_size] = wide.reshape(npages, -1)
        checksums = pages[:, -_CHECKSUM_BYTES:]
        for i, page in enumerate(pages):
            digest = header.page_checksum(self._page + i, page.data)
            checksums[i] = np.frombuffer(digest.to_bytes(8, "little"), np.uint8)
        self._seal.update(checksums.tobytes())
        self._file.write(byte_view(pages), _FIRST_PAGE + self._page * header.page_bytes)
        self._page += npages

    def finish(self) -> str:
        """Write last page, footer and header; return the seal, 16 hexadecimal digits."""
        self._write_pages(self._held)
        assert self._page == self._header.npages
        head = self._header.pack()
        footer = _footer(head, self._seal.intdigest())
        self._file.write(footer, self._header.footer_offset)
        self._file.write(head + bytes(_FIRST_PAGE - len(head)), 0)
        return self._seal.hexdigest()


class RowFile(SealedFile):
    """A sealed row file, open for reading at random places.

    Opening reads header and footer, and checks them and the file's size. Pages are checked when
    they are read.

    Attributes
    ----------
    header : RowFileHeader
    seal : str
        16 hexadecimal digits.
    """

    def __init__(self, source: OpenFile | AnyPath) -> None:
        super().__init__(source)
        with self._closed_on_error():
            head = self._read_header(_HEADER.size, _FIRST_PAGE + _FOOTER.size, "row file")
            self.header = RowFileHeader.unpack(head, self.path)
            footer = self._read_footer(_FOOTER.size, self.header.file_size)
            seal = int.from_bytes(footer[:8], "little")
            if footer != _footer(head, seal):
                raise CorruptFile(f"{self.path}: the footer does not match the header")
            self.seal = f"{seal:016x}"

    @staticmethod
    def first_reads(size: int) -> list[tuple[int, int]]:
        """Return what opening a file of so many bytes reads, as (start, stop)."""
        return [(0, _HEADER.size), (max(0, size - _FOOTER.size), size)]

    def page_offset(self, number: IntOrArray) -> IntOrArray:
        """Return the byte of the file at which a page begins."""
        return _FIRST_PAGE + number * self.header.page_bytes

    def check_pages(self, numbers: Int64, read: Bytes, begins: Int64) -> None:
        """Check pages that were read.

        Parameters
        ----------
        numbers : ndarray of shape (n,), int64
        read : ndarray of uint8
        begins : ndarray of shape (n,), int64
            Byte of ``read`` at which each page begins.

        Raises
        ------
        CorruptFile
            A page is wrong; the message names the file and the page.
        """
        size = self.header.page_bytes
        wrong = first_wrong(size, self.header.seed, numbers, read, begins)
        if wrong < 0:
            return
        number, begin = int(numbers[wrong]), int(begins[wrong])
        page = read[begin : begin + size].data
        found = self.header.page_checksum(number, page)
        expected = int.from_bytes(page[-_CHECKSUM_BYTES:], "little")
        self.file.distrust()
        raise CorruptFile(
            f"{self.path}: page {number} has checksum {found:016x}, {expected:016x} expected"
        )

    def rows_of(self, pages: Bytes) -> Bytes:
        """Return the rows of pages, uint8 (n * page_rows, row_size); a view if possible."""
        header = self.header
        wide = pages[:, : header.page_rows * header.row_size]
        return wide.reshape(-1, header.row_size)

    def read_rows(self, start: int, stop: int) -> Bytes:
        """Read and verify rows [start, stop), uint8 of shape (stop - start, row_size)."""
        header = self.header
        if start == stop:
            return np.empty((0, header.row_size), np.uint8)
        first, last = start // header.page_rows, -(-stop // header.page_rows)
        length = (last - first) * header.page_bytes
        data = self.file.read(length, self.page_offset(first))
        pages = np.frombuffer(data, np.uint8)
        numbers = np.arange(first, last)
        self.check_pages(numbers, pages, (numbers - first) * header.page_bytes)
        skipped = first * header.page_rows
        return self.rows_of(pages.reshape(-1, header.page_bytes))[start - skipped : stop - skipped]

    def check_belongs(self, *, model: int, row_size: int) -> None:
        """Raise ForeignFile unless the file was encoded by this model."""
        found = self.header.model, self.header.row_size
        self._check_encoded_by(found, (model, row_size), "row")


def verify_rows(source: OpenFile | AnyPath) -> None:
    """Read a row file whole, a few megabytes at a time, and check every page and the seal.

    Raises
    ------
    CorruptFile
        A page is wrong; the message names the file and the first such page.
    """
    with RowFile(source) as file:
        header = file.header
        head = file.file.read(_FIRST_PAGE, 0)
        if any(head[_HEADER.size :]):
            raise CorruptFile(f"{file.path}: bytes behind the header that are not zero")
        seal = xxhash.xxh3_64(header.pack())
        step = max(1, _BATCH_BYTES // header.page_bytes)
        for first in range(0, header.npages, step):
            count = min(step, header.npages - first)
            data = file.file.read(count * header.page_bytes, file.page_offset(first))
            pages: Bytes = np.frombuffer(data, np.uint8)
            numbers = np.arange(count)
            file.check_pages(numbers + first, pages, numbers * header.page_bytes)
            pages = pages.reshape(count, header.page_bytes)
            seal.update(pages[:, -_CHECKSUM_BYTES:].tobytes())
        if seal.hexdigest() != file.seal:
            raise CorruptFile(
                f"{file.path}: pages have seal {seal.hexdigest()}, {file.seal} expected"
            )
