"""A file of an object store while it is written: a nameless local file, uploaded when it is whole.

Writers write pieces in any order, and read back what they have written; objects are uploaded from
front to back. The local file has no name, so a kill leaves nothing of it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from teravec.errors import CorruptFile, storage_errors
from teravec.storage.files import read_into, reserve, write_all
from teravec.storage.object_files import head_object
from teravec.storage.object_requests import Requests
from teravec.storage.store import OpenFile, Writer

__all__ = ["ObjectWriter", "upload"]

_PART_BYTES = 8 << 20
_MOST_PARTS = 10_000
_PARTS_AT_ONCE = 4


class ObjectWriter(Writer):
    """A nameless file in a local directory.

    Parameters
    ----------
    path : str
        The object's address, for messages.
    work : str or None
        The local directory; not given, the system's for temporary files.
    """

    def __init__(self, path: str, work: str | None) -> None:
        self._path = path
        directory = work or tempfile.gettempdir()
        with storage_errors(directory, "write"):
            self.file: BinaryIO = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115
        self._where = f"{path} (temporary file in {directory})"

    def write(self, data: bytes | memoryview, offset: int) -> None:
        with storage_errors(self._where, "write"):
            write_all(self.file, data, offset)

    def reserve(self, size: int) -> None:
        if size:
            with storage_errors(self._where, "write"):
                reserve(self.file.fileno(), size)

    def sync(self) -> None:
        """The upload makes the file durable, not the local disk."""

    def reading(self) -> OpenFile:
        """Return what was written, open for reading."""
        return _Written(self._path, self.file.fileno())

    def close(self) -> None:
        """Remove the file."""
        self.file.close()


class _Written(OpenFile):
    def __init__(self, path: str, number: int) -> None:
        self.path, self.size = path, os.fstat(number).st_size
        self._number = number

    def read_into(self, buffer: memoryview, offset: int) -> None:
        read_into(self._number, buffer, offset, self.path)

    def close(self) -> None:
        pass


async def upload(requests: Requests, key: str, path: str, file: OpenFile) -> None:
    """Upload a file under its key; it appears whole, or stays as it was.

    Small files are one request, which is tried again here. The parts of large ones are tried again
    by obstore, so that one failure does not cost the whole file. The store compares each part with
    its checksum, where it can; afterwards its size is asked for.
    """
    import obstore

    async def send_whole() -> None:
        data = bytes(file.read(file.size, 0))
        await obstore.put_async(requests.connection.client, key, data, use_multipart=False)

    async def send_parts() -> None:
        part_bytes = max(_PART_BYTES, -(-file.size // _MOST_PARTS))
        await obstore.put_async(
            requests.connection.uploads,
            key,
            _parts(file, part_bytes),
            use_multipart=True,
            chunk_size=part_bytes,
            max_concurrency=_PARTS_AT_ONCE,
        )

    if file.size <= _PART_BYTES:
        await requests.attempt(send_whole, path, "write")
        return
    await requests.attempt(send_parts, path, "write")
    found = (await head_object(requests, key, path))["size"]
    if found != file.size:
        raise CorruptFile(f"{path}: {found:,} bytes found after the upload, {file.size:,} expected")


def _parts(file: OpenFile, part_bytes: int) -> Iterator[bytes]:
    for start in range(0, file.size, part_bytes):
        yield bytes(file.read(min(part_bytes, file.size - start), start))
