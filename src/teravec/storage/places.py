"""Places of indexes: a directory, the URL of an object store, or a store that was made before."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from teravec.arguments import PathArgument, path_of
from teravec.errors import InvalidArgument, shown
from teravec.storage.local_store import LocalStore
from teravec.storage.object_address import ObjectAddress, is_address
from teravec.storage.object_address import store_options as as_options
from teravec.storage.store import Store

__all__ = ["Place", "PlaceLike", "open_store", "place_of", "work_directory", "work_name"]

Place = Path | Store
PlaceLike = PathArgument | Store
"""What users may give as the place of an index."""


def place_of(value: Any, what: str) -> Place:
    """Return the path or the store that a user's argument names, or raise InvalidArgument.

    URLs are texts: ``s3://bucket/name``, ``gs://``, ``az://``, or ``file:///path``.
    """
    if isinstance(value, Store):
        return value
    if isinstance(value, str) and is_address(value):
        return _path_of_url(value) if _is_file(value) else open_store(value)
    return path_of(value, what)


def open_store(
    url: str, store_options: Mapping[str, object] | None = None, *, work: PathArgument | None = None
) -> Store:
    """Return a store by its URL: wherever an index path is taken, it may be given instead.

    Nothing is sent yet. Credentials come from the usual environment of each kind of store.

    Parameters
    ----------
    url : str
        ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``az://container/prefix``, or
        ``file:///path``.
    store_options : mapping, optional
        What is not in the environment, as ``{"endpoint": ..., "region": ..., "allow_http": True}``:
        names that obstore takes for this kind of store and for its HTTP client. Also ``depth``
        (requests at once, 64), ``gap_bytes`` (largest gap that one request reads across, 1 MiB),
        and ``retry_timeout`` (seconds until a request that fails is given up, 60).
    work : path-like, optional
        Local directory for files until they are uploaded. Not given: that for temporary files.

    Raises
    ------
    InvalidArgument
        No such kind of store, or options that it does not have.
    """
    if not isinstance(url, str) or not is_address(url):
        raise InvalidArgument(
            f"store {shown(str(url).partition('?')[0])}; a URL such as s3://bucket/name expected"
        )
    if _is_file(url):
        return LocalStore(_path_of_url(url))
    from teravec.storage.object_store import ObjectStore  # imports asyncio: local indexes need none

    directory = None if work is None else str(path_of(work, "work"))
    return ObjectStore(ObjectAddress.parse(url), as_options(store_options), directory)


def _is_file(url: str) -> bool:
    return url.lower().startswith("file://")


def _path_of_url(url: str) -> Path:
    path = Path(url[len("file://") :])
    if not path.is_absolute():
        raise InvalidArgument(f"{url}: a path from the root on expected, as file:///data/index")
    return path


def work_directory(store: Store) -> Path:
    """Return the local directory for a store's work files: its own, or that for temporary files."""
    work = getattr(store, "work", None)
    return Path(work) if work else Path(tempfile.gettempdir())


def work_name(store: Store) -> str:
    """Return a file name that tells stores apart, for work files of this user."""
    digest = hashlib.sha256(f"{os.getuid()} {store.locate('')}".encode()).hexdigest()
    return f"teravec-{digest[:16]}"
