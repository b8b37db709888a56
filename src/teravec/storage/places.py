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
from teravec.memory import parse_bytes
from teravec.storage.cache_files import LEAST_BYTES
from teravec.storage.cached_store import CachedStore, without_cache
from teravec.storage.local_store import LocalStore
from teravec.storage.object_address import ObjectAddress, is_address
from teravec.storage.object_address import store_options as as_options
from teravec.storage.store import Store

__all__ = ["Place", "PlaceLike", "cached", "open_store", "place_of", "work_directory", "work_name"]

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
    url: str,
    store_options: Mapping[str, object] | None = None,
    *,
    work: PathArgument | None = None,
    cache: PathArgument | None = None,
    cache_bytes: str | int | None = None,
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
    cache, cache_bytes : optional
        See ``cached``.

    Raises
    ------
    InvalidArgument
        No such kind of store, or options that it does not have.
    """
    if not isinstance(url, str) or not is_address(url):
        raise InvalidArgument(
            f"store {shown(str(url).partition('?')[0])}; a URL such as s3://bucket/name expected"
        )
    return cached(_open_store(url, store_options, work), cache, cache_bytes)


def _open_store(url: str, options: Mapping[str, object] | None, work: PathArgument | None) -> Store:
    if _is_file(url):
        return LocalStore(_path_of_url(url))
    from teravec.storage.object_store import ObjectStore  # imports asyncio: local indexes need none

    directory = None if work is None else str(path_of(work, "work"))
    return ObjectStore(ObjectAddress.parse(url), as_options(options), directory)


def cached(
    store: Store, directory: PathArgument | None, cache_bytes: str | int | None = None
) -> Store:
    """Put a cache on a local disk in front of a store.

    Parameters
    ----------
    store : Store
    directory : path-like, optional
        Keeps what is read of sealed files; processes may share it. Not given: there is no cache.
    cache_bytes : str or int, optional
        Its largest size, as "200GiB". Not given: that which it has, or 16 GiB.

    Raises
    ------
    InvalidArgument
        A size without a directory, or too small a one.
    """
    if directory is None:
        if cache_bytes is not None:
            raise InvalidArgument("a size of a cache found; a directory for it expected as well")
        return store
    size = None if cache_bytes is None else parse_bytes(cache_bytes, "cache_bytes")
    if size is not None and size < LEAST_BYTES:
        raise InvalidArgument(
            f"cache_bytes is {size:,}; at least {LEAST_BYTES:,} expected: the lists of some queries"
        )
    return CachedStore(without_cache(store), str(path_of(directory, "cache").absolute()), size)


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
