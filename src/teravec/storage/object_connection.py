"""Connections to object stores: obstore's clients, with credentials of the usual environment.

``connect`` is for whoever reads or writes objects. A process has one connection for each bucket and
set of options, which all of its threads share.
"""

from __future__ import annotations

import json
import os
from configparser import ConfigParser
from configparser import Error as ConfigError
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from teravec.arguments import install
from teravec.errors import InvalidArgument, StorageError, storage_errors
from teravec.memory import parse_bytes
from teravec.storage.object_address import ObjectAddress, StoreOptions

__all__ = ["Connection", "connect"]

_CLIENT_OPTIONS = (
    "allow_http",
    "allow_invalid_certificates",
    "connect_timeout",
    "default_headers",
    "http1_only",
    "http2_only",
    "pool_idle_timeout",
    "pool_max_idle_per_host",
    "proxy_ca_certificate",
    "proxy_excludes",
    "proxy_url",
    "root_certificate",
    "timeout",
    "user_agent",
)
_SWITCHES = ("allow_http", "allow_invalid_certificates", "http1_only", "http2_only")
_CERTIFICATES = ("proxy_ca_certificate", "root_certificate")

_VARIABLES = {"s3": "AWS_", "az": "AZURE_", "gs": "GOOGLE_", "memory": "-"}
"""How each kind's variables of the environment begin."""

_TIMEOUT = "30s"  # of one attempt, from connecting to the last byte of its body
_CONNECT_TIMEOUT = "5s"
_UPLOAD_RETRIES = 10  # of one part
_UPLOAD_RETRY_S = 180.0


@dataclass(frozen=True)
class _Limits:
    """How a connection is used; the options of the same names change it.

    Parameters
    ----------
    depth : int
        Requests in flight at most.
    gap_bytes : int
        Largest gap between two ranges for which one request of both is cheaper than two: what a
        connection carries in the time that a request waits.
    retry_timeout : float
        Seconds after which a request that failed is not tried again.
    """

    depth: int = 64
    gap_bytes: int = 1 << 20
    retry_timeout: float = 60.0


@dataclass(frozen=True)
class Connection:
    """A bucket or container of an object store.

    Parameters
    ----------
    client, uploads
        Stores of obstore. The first never tries again by itself: ``Requests`` does. The second
        tries parts of uploads again, so that one part's failure does not cost the whole upload.
    depth, gap_bytes, retry_timeout
        See ``_Limits``.
    """

    client: Any
    uploads: Any
    depth: int
    gap_bytes: int
    retry_timeout: float


def connect(address: ObjectAddress, options: StoreOptions = ()) -> Connection:
    """Return this process's connection to an address's bucket.

    Nothing is sent: wrong credentials and missing buckets show with the first request.

    Parameters
    ----------
    address : ObjectAddress
    options : StoreOptions
        ``endpoint``, ``region``, ``access_key_id`` and whatever else obstore takes for this kind
        of store; ``allow_http``, ``timeout``, ``proxy_url``, ``root_certificate`` (a PEM file) and
        whatever else it takes for a client; ``depth``, ``gap_bytes`` and ``retry_timeout``.

    Raises
    ------
    InvalidArgument
        An option that this kind of store does not have, or obstore is not installed.
    """
    return _connected(address.kind, address.bucket, options, os.getpid())


@lru_cache(maxsize=64)
def _connected(kind: str, bucket: str, options: StoreOptions, _process: int) -> Connection:
    """``_process`` keeps a forked process from using its parent's connection."""
    where = f"{kind}://{bucket}"
    limits, client, config = _divide(where, options)
    made = _Limits(**limits)
    reading = _open(kind, bucket, config, client, retries=0, retry_s=made.retry_timeout)
    writing = _open(kind, bucket, config, client, retries=_UPLOAD_RETRIES, retry_s=_UPLOAD_RETRY_S)
    # A store in memory is one object; two would not see each other's files.
    uploads = reading if kind == "memory" else writing
    return Connection(reading, uploads, made.depth, made.gap_bytes, made.retry_timeout)


def _divide(
    where: str, options: StoreOptions
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Divide options into those of ours, of obstore's HTTP client, and of the kind of store."""
    limits: dict[str, Any] = {}
    client: dict[str, Any] = {"timeout": _TIMEOUT, "connect_timeout": _CONNECT_TIMEOUT}
    config: dict[str, str] = {}
    kind = where.partition("://")[0]
    for variable in ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP"):
        # Client options that are given replace those of the environment.
        if variable in os.environ and variable.startswith(_VARIABLES.get(kind, "-")):
            client["allow_http"] = _switch(where, variable, os.environ[variable])
    for name, value in options:
        if name in ("depth", "gap_bytes", "retry_timeout"):
            limits[name] = _limit(where, name, value)
        elif name in _SWITCHES:
            client[name] = _switch(where, name, value)
        elif name in _CERTIFICATES:
            with storage_errors(value, "read"):
                client[name] = Path(value).read_bytes()
        elif name == "default_headers":
            client[name] = json.loads(value)
        elif name in _CLIENT_OPTIONS:
            client[name] = value
        else:
            config[name] = value
    return limits, client, config


def _limit(where: str, name: str, value: str) -> int | float:
    try:
        if name == "gap_bytes":
            return parse_bytes(value)
        number = float(value.removesuffix("s")) if name == "retry_timeout" else int(value)
        if number > 0:
            return number
    except ValueError:
        pass
    raise InvalidArgument(f"{where}: store option {name} is {value!r}; a number above 0 expected")


def _switch(where: str, name: str, value: str) -> bool:
    if value.lower() in ("true", "1", "yes", "false", "0", "no"):
        return value.lower() in ("true", "1", "yes")
    raise InvalidArgument(f"{where}: store option {name} is {value!r}; true or false expected")


def _open(
    kind: str,
    bucket: str,
    config: dict[str, str],
    client: dict[str, Any],
    *,
    retries: int,
    retry_s: float,
) -> Any:
    where = f"{kind}://{bucket}"
    try:
        from obstore import exceptions, store
    except ImportError:
        raise InvalidArgument(
            f"{where}: obstore is not installed; {install('cloud')} installs it"
        ) from None
    if kind == "memory":
        return store.MemoryStore()
    kinds: dict[str, Any] = {"s3": store.S3Store, "gs": store.GCSStore, "az": store.AzureStore}
    more = _s3_defaults(config) if kind == "s3" else {}
    retry: Any = {"max_retries": retries, "retry_timeout": timedelta(seconds=retry_s)}
    if kind in ("http", "https"):  # a web server: only sources are read from one
        given: Any = client
        return store.HTTPStore.from_url(where, client_options=given, retry_config=retry)
    try:
        return kinds[kind](
            bucket, config={**more, **config}, client_options=client, retry_config=retry
        )
    except exceptions.UnknownConfigurationKeyError:
        names = ", ".join(sorted(config))
        raise InvalidArgument(
            f"{where}: one of the store options {names} is unknown for this kind of store"
        ) from None
    except (exceptions.BaseError, ValueError, TypeError) as error:
        # obstore's messages may hold values of options; only the kind of error is shown.
        raise InvalidArgument(
            f"{where}: store options were refused ({type(error).__name__}); "
            f"valid ones expected: {', '.join(sorted({*config, *client}))}"
        ) from None


def _s3_defaults(config: dict[str, str]) -> dict[str, str]:
    """Return what the options do not say: checksums, and the profile of the AWS tools."""
    found = {"checksum_algorithm": "SHA256"}
    environment = os.environ
    in_options = {name.removeprefix("aws_") for name in config}
    given = {"skip_signature", "access_key_id"} & in_options
    if not given and "AWS_ACCESS_KEY_ID" not in environment:
        found |= _profile("credentials", ("access_key_id", "secret_access_key", "session_token"))
    if not {"AWS_REGION", "AWS_DEFAULT_REGION"} & environment.keys():
        found |= _profile("config", ("region",))
    return {name: value for name, value in found.items() if name not in in_options}


def _profile(file: str, names: tuple[str, ...]) -> dict[str, str]:
    """Read a profile's values from the files of the AWS tools, if they are there."""
    variable = {"credentials": "AWS_SHARED_CREDENTIALS_FILE", "config": "AWS_CONFIG_FILE"}[file]
    path = Path(os.environ.get(variable) or Path("~/.aws", file).expanduser())
    profile = os.environ.get("AWS_PROFILE", "default")
    parser = ConfigParser(interpolation=None)
    try:
        parser.read(path)
    except (OSError, ConfigError, UnicodeDecodeError) as error:
        raise StorageError(
            f"{path}: cannot read the profile: {type(error).__name__}; a file as the AWS tools "
            "write it expected"
        ) from None
    for section in (profile, f"profile {profile}"):
        if parser.has_section(section):
            found = parser[section]
            return {n: found[f"aws_{n}"] for n in names if f"aws_{n}" in found} | {
                n: found[n] for n in names if n in found
            }
    return {}
