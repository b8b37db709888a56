"""Addresses of databases, and what of them may be shown: never a password."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from teravec.errors import InvalidArgument

__all__ = ["Address", "is_database", "parse_address"]

_SCHEMES = {
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "sqlite": "sqlite",
    "duckdb": "duckdb",
}
_POSTGRES = re.compile(r"(?:(?P<user>[^:@/?]*)(?::(?P<password>[^@/?]*))?@)?(?P<rest>[^@]*)")
_SECRET = re.compile(r"(?<=[?&])(password|sslpassword|oauth_client_secret)=([^&]*)", re.IGNORECASE)
_HIDDEN = "***"


@dataclass(frozen=True)
class Address:
    """Where a database is.

    Parameters
    ----------
    kind : {"postgresql", "sqlite", "duckdb"}
    shown : str
        The address without its secrets, for messages and records.
    uri : str
        The address as the driver takes it; never shown.
    path : Path, optional
        The database's file, for databases that are files.
    secrets : tuple of str
        What `redact` hides.
    """

    kind: str
    shown: str
    uri: str = field(repr=False)
    path: Path | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def redact(self, message: object) -> str:
        """Return a driver's message on one line, without anything secret."""
        text = " ".join(str(message).split()).replace(self.uri, self.shown)
        for secret in self.secrets:
            text = text.replace(secret, _HIDDEN)
        return text


def is_database(data: Any) -> bool:
    """Whether this is the address of a database."""
    scheme, separator, _ = data.partition("://") if isinstance(data, str) else ("", "", "")
    return bool(separator) and scheme.lower() in _SCHEMES


def parse_address(text: str) -> Address:
    """Parse ``postgresql://...``, ``sqlite:///FILE`` or ``duckdb:///FILE``.

    Raises
    ------
    InvalidArgument
        The message never repeats a password.
    """
    scheme, _, rest = text.partition("://")
    kind = _SCHEMES.get(scheme.lower())
    if kind is None:
        raise InvalidArgument(
            "no address of a database; postgresql://, sqlite:/// or duckdb:/// expected"
        )
    return _parse_postgres(rest) if kind == "postgresql" else _parse_file(kind, rest)


def _parse_postgres(rest: str) -> Address:
    match = _POSTGRES.fullmatch(rest)
    if match is None:
        raise InvalidArgument(
            "postgresql://: an address that cannot be parsed; in user and password, write the "
            "characters @ : / ? as %40 %3A %2F %3F"
        )
    user, password, after = match["user"], match["password"], match["rest"]
    secrets = [password or "", *(found[1] for found in _SECRET.findall("?" + after))]
    shown = "" if user is None else f"{user}:{_HIDDEN}@" if password else f"{user}@"
    shown += _SECRET.sub(rf"\1={_HIDDEN}", after)
    known = {form for secret in secrets if secret for form in (secret, unquote(secret))}
    return Address(
        "postgresql",
        f"postgresql://{shown}",
        f"postgresql://{rest}",
        secrets=tuple(sorted(known, key=len, reverse=True)),
    )


def _parse_file(kind: str, rest: str) -> Address:
    """Parse ``/FILE``: after three slashes a relative path, after four an absolute one."""
    name = unquote(rest[1:])
    if not rest.startswith("/") or not name:
        raise InvalidArgument(
            f"{kind}://{rest}: a file expected, as {kind}:///items.db, or with its whole path "
            f"{kind}:////data/items.db"
        )
    path = Path(name)
    return Address(kind, f"{kind}:///{path}", str(path), path)
