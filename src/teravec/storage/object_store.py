"""The store of a bucket: objects of S3, Google Cloud Storage, Azure, and of memory in tests."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from teravec.errors import AlreadyThere, MissingFile, StorageError
from teravec.storage.object_address import ObjectAddress, StoreOptions
from teravec.storage.object_files import ObjectFile, ObjectReader, head_object
from teravec.storage.object_requests import Conflict, Requests, requests_of
from teravec.storage.object_uploads import abort_uploads
from teravec.storage.object_writer import ObjectWriter, upload
from teravec.storage.store import (
    UNFINISHED_AGE,
    OpenFile,
    Reader,
    ReadFiles,
    Sealed,
    Store,
    Verify,
    Writer,
    check_name,
)

__all__ = ["ObjectStore"]

_WRITER = "teravec-writer"  # metadata of a created object: who wrote it
_CONFLICTS = 6  # answers of 409 while the name stays free, until creating fails
_FIRST_WAIT_S = 0.05


@dataclass(frozen=True)
class ObjectStore(Store):
    """Objects whose keys begin with a prefix.

    Parameters
    ----------
    address : ObjectAddress
        Bucket and prefix.
    options : StoreOptions
        How the bucket is reached; see ``connect``. May hold secrets, and is not shown.
    work : str, optional
        Local directory of files that are being written; by default that for temporary files.
    """

    address: ObjectAddress
    options: StoreOptions = field(default=(), repr=False)
    work: str | None = None

    def __str__(self) -> str:
        return str(self.address)

    @property
    def _requests(self) -> Requests:
        return requests_of(self.address, self.options)

    @property
    def gap_bytes(self) -> int:
        return -1

    @property
    def depth(self) -> int:
        return self._requests.connection.depth

    @property
    def alignment(self) -> int:
        return 1

    def _key(self, name: str) -> str:
        check_name(name)
        return (self.address / name).key

    def locate(self, name: str) -> str:
        if name:
            check_name(name)
        return str(self.address / name)

    def exists(self, name: str) -> bool:
        try:
            self.size(name)
        except MissingFile:
            return False
        return True

    def size(self, name: str) -> int:
        requests = self._requests
        found = requests.wait(head_object(requests, self._key(name), self.locate(name)))
        return int(found["size"])

    def open(
        self,
        name: str,
        *,
        in_order: bool = False,
        sealed: Sealed | None = None,
        ahead: Sequence[tuple[int, int]] | None = None,
    ) -> OpenFile:
        at = self._requests, self._key(name), self.locate(name)
        file = ObjectFile(*at, sealed, ahead or ())
        return file if ahead is not None else file.wait()

    def group(self, files: Sequence[OpenFile]) -> ReadFiles:
        return ReadFiles(files)

    def reader(self) -> Reader:
        return ObjectReader(self._requests)

    @contextmanager
    def publish(self, name: str, verify: Verify | None = None) -> Iterator[Writer]:
        key, path = self._key(name), self.locate(name)
        writer = ObjectWriter(path, self.work)
        try:
            yield writer
            written = writer.reading()
            if verify is not None:
                verify(written)
            requests = self._requests
            requests.wait(upload(requests, key, path, written))
        finally:
            writer.close()

    def create(self, name: str, data: bytes) -> None:
        requests = self._requests
        requests.wait(_create(requests, self._key(name), self.locate(name), data))

    def names(self, prefix: str = "") -> list[str]:
        directory = prefix.rpartition("/")[0]
        if directory:
            check_name(directory)
        requests, above = self._requests, f"{self.address.key}/" if self.address.key else ""
        keys = requests.wait(_list(requests, (self.address / directory).key, self.locate("")))
        return sorted(key.removeprefix(above) for key in keys if key.startswith(f"{above}{prefix}"))

    def remove(self, name: str) -> None:
        self._remove_keys([self._key(name)], self.locate(name))

    def remove_all(self, prefix: str) -> None:
        check_name(prefix)
        keys = [self._key(name) for name in self.names(f"{prefix}/")]
        self._remove_keys(keys, self.locate(prefix))

    def _remove_keys(self, keys: list[str], where: str) -> None:
        requests = self._requests
        if keys:
            requests.wait(_remove(requests, keys, where))

    def remove_unfinished(self, prefix: str, older_than: timedelta = UNFINISHED_AGE) -> None:
        if prefix:
            check_name(prefix)
        abort_uploads(self.address / prefix, self.options, older_than)


async def _list(requests: Requests, prefix: str, where: str) -> list[str]:
    import obstore

    async def send() -> list[str]:
        stream = obstore.list(requests.connection.client, prefix or None, chunk_size=1000)
        return [entry["path"] async for chunk in stream for entry in chunk]

    return await requests.attempt(send, where, "list")


async def _remove(requests: Requests, keys: list[str], where: str) -> None:
    import obstore

    async def send(some: list[str]) -> None:
        await obstore.delete_async(requests.connection.client, some)

    for start in range(0, len(keys), 1000):
        some = keys[start : start + 1000]
        try:
            await requests.attempt(lambda some=some: send(some), where, "remove")  # type: ignore[misc]
        except MissingFile:  # some stores complain; the others of a batch may be there still
            for key in some if len(some) > 1 else []:
                with suppress(MissingFile):
                    await requests.attempt(lambda key=key: send([key]), where, "remove")  # type: ignore[misc]


async def _create(requests: Requests, key: str, path: str, data: bytes) -> None:
    """Put an object if its key is free.

    An attempt whose answer was lost may have succeeded; then the next one finds the key taken. So
    each object says who wrote it. A store answers 409 when writers meet, also to all of them:
    whether one of them was first, only a look tells.
    """
    import obstore

    me, uncertain = secrets.token_hex(16), [False]

    async def send() -> None:
        await obstore.put_async(
            requests.connection.client,
            key,
            data,
            mode="create",
            use_multipart=False,
            attributes={_WRITER: me},
        )

    for number in range(_CONFLICTS):
        try:
            await requests.attempt(
                send, path, "write", uncertain=lambda: uncertain.__setitem__(0, True)
            )
        except Conflict:
            writer = await _find_writer(requests, key, path)
            if writer is not None and uncertain[0] and writer == me:
                return
            if writer is not None:
                raise AlreadyThere(
                    f"{path}: this name is taken, and stays as it is; a free name expected"
                ) from None
            await asyncio.sleep(_FIRST_WAIT_S * 2**number)
        else:
            return
    raise StorageError(
        f"{path}: cannot write: the store refused {_CONFLICTS} times although the name is free"
    )


async def _find_writer(requests: Requests, key: str, path: str) -> str | None:
    """Return who created an object, "" if it does not say so, or None if there is none."""
    import obstore

    async def send() -> dict[Any, Any]:
        result = await obstore.get_async(requests.connection.client, key, options={"head": True})
        return dict(result.attributes)

    try:
        return str((await requests.attempt(send, path, "read")).get(_WRITER, ""))
    except MissingFile:
        return None
