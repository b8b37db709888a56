"""Addresses of object stores: URLs, and the options with which a store is reached."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from teravec.errors import InvalidArgument, shown

__all__ = ["ObjectAddress", "StoreOptions", "is_address", "store_options"]

SCHEMES = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "azure": "az",
    "abfs": "az",
    "abfss": "az",
    "memory": "memory",
}
"""Schemes that users write, and the store that each means."""

StoreOptions = tuple[tuple[str, str], ...]
"""Options of a store as sorted pairs of name and value: a value itself, which can be sent."""


def is_address(text: str | os.PathLike[str]) -> bool:
    """Whether a text is a URL of an object store, or a ``file://`` URL."""
    scheme = os.fspath(text).partition("://")[0].lower()
    return "://" in os.fspath(text) and (scheme in SCHEMES or scheme == "file")


@dataclass(frozen=True)
class ObjectAddress:
    """A place in an object store.

    Parameters
    ----------
    kind : str
        ``s3``, ``gs``, ``az`` or ``memory``.
    bucket : str
        Bucket or container.
    key : str
        Key of an object, or the prefix of several; "" is the whole bucket.
    """

    kind: str
    bucket: str
    key: str

    @classmethod
    def parse(cls, url: str) -> ObjectAddress:
        """Parse a URL such as ``s3://bucket/some/prefix``.

        Raises
        ------
        InvalidArgument
            Another scheme, no bucket, or user names, queries and fragments, which may be secrets
            and so do not occur in the message.
        """
        scheme, _, rest = url.partition("://")
        bucket, _, key = rest.partition("/")
        kind, where = SCHEMES.get(scheme.lower()), f"{scheme}://{bucket.rpartition('@')[2]}"
        if kind is None:
            raise InvalidArgument(
                f"{scheme}://: unknown scheme; one of {', '.join(sorted(SCHEMES))} expected"
            )
        if "@" in bucket or any(mark in rest for mark in "?#\0"):
            raise InvalidArgument(
                f"{where.partition('?')[0]}: a URL such as {kind}://bucket/name expected, without "
                "user, query and fragment; give credentials by the environment"
            )
        if not bucket:
            raise InvalidArgument(f"{where}: no bucket found; {kind}://bucket/name expected")
        key = key.strip("/")
        if key and any(part in ("", ".", "..") for part in key.split("/")):
            raise InvalidArgument(f"{where}/{key}: a key without empty parts, . and .. expected")
        return cls(kind, bucket, key)

    def __truediv__(self, name: str) -> ObjectAddress:
        joined = f"{self.key}/{name}" if self.key and name else self.key or name
        return ObjectAddress(self.kind, self.bucket, joined)

    def __str__(self) -> str:
        return f"{self.kind}://{self.bucket}/{self.key}".removesuffix("/")


def store_options(given: Mapping[str, object] | Iterable[str] | None) -> StoreOptions:
    """Return a store's options: a mapping, or texts such as ``region=eu-west-1``.

    Values are never part of a message, because they may be secrets.

    Raises
    ------
    InvalidArgument
        A text without ``=``, or a name that occurs twice.
    """
    if given is None:
        return ()
    if isinstance(given, Mapping):
        pairs = [(str(name), _as_text(value)) for name, value in given.items()]
    elif isinstance(given, str):
        raise InvalidArgument("store options are a text; a mapping of names to values expected")
    else:
        pairs = [_pair(text) for text in given]
    options = {name.strip().lower().replace("-", "_"): value for name, value in pairs}
    if len(options) < len(pairs):
        raise InvalidArgument("a store option occurs twice; each once expected")
    return tuple(sorted(options.items()))


def _pair(text: str) -> tuple[str, str]:
    name, found, value = str(text).partition("=")
    if not found or not name.strip():
        raise InvalidArgument(
            f"store option {shown(name)} has no value; name=value expected, as region=eu-west-1"
        )
    return name, value


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
