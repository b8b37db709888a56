"""Files by URL: in object stores, on web servers, and in the data sets of Hugging Face.

A `RemotePath` stands for a file as a ``Path`` does. It is opened once a process: an open object has
no connection, only its size and the name that the store gives to its content.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from teravec.errors import InvalidArgument, InvalidSource, shown
from teravec.storage.object_address import SCHEMES, ObjectAddress, StoreOptions
from teravec.storage.object_address import store_options as as_options
from teravec.storage.store import OpenFile

if TYPE_CHECKING:
    from teravec.storage.object_files import ObjectFile

__all__ = [
    "RemoteFolder",
    "RemotePath",
    "RemoteURL",
    "SourcePath",
    "as_file",
    "is_remote",
    "local_name",
    "parse_folder",
    "remote_files",
]

_WEB = ("http", "https")
_HUB = "hf"
_HUB_ENDPOINT = "https://huggingface.co"
_LARGEST_LISTING = 256 << 20  # bytes of a data set's description


def is_remote(path: Any) -> bool:
    """Whether a user's path is a URL of a file elsewhere."""
    scheme, found, _ = path.partition("://") if isinstance(path, str) else ("", "", "")
    return bool(found) and scheme.lower() in (*SCHEMES, *_WEB, _HUB) and scheme != "memory"


class RemoteURL(str):
    """A URL of files elsewhere, with the options by which their own store is reached.

    It shows as the URL alone: options may be secrets.

    Parameters
    ----------
    url : str
    options : StoreOptions
    """

    options: StoreOptions

    def __new__(cls, url: str, options: StoreOptions = ()) -> RemoteURL:
        self = super().__new__(cls, url)
        self.options = options
        return self

    @classmethod
    def of(cls, text: str, other: str) -> RemoteURL:
        """Return a text as a URL with the options of another one, if that has some."""
        return cls(text, other.options if isinstance(other, RemoteURL) else ())


def remote_files(url: str, store_options: Mapping[str, object] | None = None) -> str:
    """Return files by URL as data, with options of their own store.

    Parameters
    ----------
    url : str
        A file, folder or pattern: ``s3://bucket/path``, ``gs://``, ``az://``, ``https://`` or
        ``hf://datasets/OWNER/NAME``.
    store_options : mapping, optional
        What is not in the environment, as for ``teravec.store``: ``{"endpoint": ..., "region": ...,
        "access_key_id": ...}``. They are written nowhere; a stage that reads the files again needs
        them again.

    Returns
    -------
    str
        To be given as data, alone or in a list.

    Raises
    ------
    InvalidArgument
        No URL of files, or no options.
    """
    if not is_remote(url):
        raise InvalidArgument(
            f"files {shown(str(url).partition('?')[0])}; a URL such as s3://bucket/path expected"
        )
    return RemoteURL(url, as_options(store_options))


class RemotePath:
    """A file elsewhere; its ``str`` is the URL.

    Parameters
    ----------
    address : ObjectAddress
        For a web server, ``kind`` is http or https, and ``bucket`` is the host.
    options : StoreOptions
    """

    def __init__(self, address: ObjectAddress, options: StoreOptions = ()) -> None:
        self.address, self.options = address, options
        self.pure = PurePosixPath(f"/{address.key}")

    def __str__(self) -> str:
        return str(self.address)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self.address == other.address

    def __hash__(self) -> int:
        return hash(self.address)

    @property
    def url(self) -> RemoteURL:
        """The URL with the options: what finds exactly this file."""
        return RemoteURL(str(self), self.options)

    def __fspath__(self) -> str:
        return str(self)

    @property
    def name(self) -> str:
        """The part after the last slash."""
        return self.pure.name

    @property
    def suffix(self) -> str:
        """The extension, with its dot."""
        return self.pure.suffix

    @property
    def parent(self) -> PurePosixPath:
        """The folder, without the store."""
        return self.pure.parent

    def is_file(self) -> bool:
        """Whether it is a file: a listing has no other things."""
        return True

    @cached_property
    def file(self) -> ObjectFile:
        """The open file.

        Raises
        ------
        MissingFile, StorageError
        """
        from teravec.storage.object_files import ObjectFile  # imports asyncio, as those below
        from teravec.storage.object_requests import requests_of

        requests = requests_of(self.address, self.options)
        return ObjectFile(requests, self.address.key, str(self)).wait()

    def __reduce__(self) -> Any:
        return RemotePath, (self.address, self.options)


SourcePath = Path | RemotePath
"""Where a file of vectors lies."""


def local_name(path: SourcePath) -> Path:
    """Return a file's name as a path that can be taken apart; of a local file, its path."""
    return Path(path.name) if isinstance(path, RemotePath) else path


class RemoteFolder:
    """A folder elsewhere, whose files can be listed.

    Parameters
    ----------
    shown : str
        The user's URL.
    """

    def __init__(self, shown: str, root: RemotePath, listing: ObjectAddress | None) -> None:
        self.shown, self.root, self._listing = shown, root, listing

    def names(self, below: str) -> list[str]:
        """List the files in a folder of it, by names relative to that one.

        Raises
        ------
        InvalidSource
            Nothing can be listed there.
        StorageError
        """
        address = self.root.address
        if self._listing is not None:
            found = _list_data_set(self._listing, self.root.options)
            start = f"{below}/" if below else ""
            return [name.removeprefix(start) for name in found if name.startswith(start)]
        if address.kind in _WEB:
            raise InvalidSource(
                f"{self.shown}: no such file, and a web server lists none; name each file by its "
                "URL"
            )
        from teravec.storage.object_store import ObjectStore

        return ObjectStore(address / below, self.root.options).names()

    def __truediv__(self, name: str) -> RemotePath:
        address = self.root.address
        return RemotePath(address / name, self.root.options) if name else self.root


def parse_folder(url: str) -> tuple[RemoteFolder, str]:
    """Divide a URL into the folder that is certainly one, and the path or pattern below it.

    Raises
    ------
    InvalidArgument
    """
    scheme, _, rest = url.partition("://")
    if any(mark in rest.partition("/")[2] for mark in "#\0") or "@" in rest.partition("/")[0]:
        raise InvalidArgument(f"{scheme}://: a URL without user and fragment expected")
    if scheme.lower() == _HUB:
        return _parse_data_set(url, rest)
    if scheme.lower() in _WEB:
        host, _, below = rest.partition("/")
        if not host or ("?" in below and "*" not in below):
            raise InvalidArgument(
                f"{scheme}://{host}: a URL of a host and a path without a query expected"
            )
        own = {"allow_http": "true"} if scheme.lower() == "http" else {}
        root = RemotePath(ObjectAddress(scheme.lower(), host, ""), _joined(own, url))
        return RemoteFolder(url, root, None), below
    bucket, _, below = rest.partition("/")
    address = ObjectAddress.parse(f"{scheme}://{bucket}")
    return RemoteFolder(url, RemotePath(address, _joined({}, url)), None), below.strip("/")


def _joined(own: dict[str, str], url: str) -> StoreOptions:
    """Return the options that follow from a URL, and those given with it, which come first."""
    return tuple(sorted({**own, **dict(RemoteURL.of(url, url).options)}.items()))


def _parse_data_set(url: str, rest: str) -> tuple[RemoteFolder, str]:
    """Parse ``hf://datasets/owner/name[@revision][/path]``."""
    parts = rest.split("/", 3)
    if parts[0] != "datasets" or len(parts) < 3 or not all(parts[1:3]):
        raise InvalidArgument(f"{url}: hf://datasets/OWNER/NAME or a path below it expected")
    owner, (name, _, revision) = parts[1], parts[2].partition("@")
    revision = revision or "main"
    endpoint = os.environ.get("HF_ENDPOINT", _HUB_ENDPOINT).rstrip("/")
    scheme, _, host = endpoint.partition("://")
    if scheme not in _WEB or not host or "/" in host:
        raise InvalidArgument("HF_ENDPOINT: http://HOST or https://HOST expected")
    options: dict[str, str] = {"allow_http": "true"} if scheme == "http" else {}
    if token := os.environ.get("HF_TOKEN"):
        options["default_headers"] = json.dumps({"authorization": f"Bearer {token}"})
    all_options = _joined(options, url)
    files = ObjectAddress(scheme, host, f"datasets/{owner}/{name}/resolve/{revision}")
    listing = ObjectAddress(scheme, host, f"api/datasets/{owner}/{name}/revision/{revision}")
    folder = RemoteFolder(url, RemotePath(files, all_options), listing)
    return folder, parts[3].strip("/") if len(parts) > 3 else ""


def _list_data_set(listing: ObjectAddress, options: StoreOptions) -> list[str]:
    from teravec.storage.object_files import read_object
    from teravec.storage.object_requests import requests_of

    requests = requests_of(listing, options)
    data = requests.wait(read_object(requests, listing.key, str(listing), _LARGEST_LISTING))
    try:
        siblings = json.loads(data)["siblings"]
        return [str(each["rfilename"]) for each in siblings]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidSource(f"{listing}: no description of a data set: {error}") from error


def as_file(file: OpenFile) -> io.RawIOBase:
    """Return an open file as a file object of Python, for pyarrow."""
    return _Positions(file)


class _Positions(io.RawIOBase):
    def __init__(self, file: OpenFile) -> None:
        super().__init__()
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._file.size - self._at))
        if count:
            self._file.read_into(view[:count], self._at)
        self._at += count
        return count
