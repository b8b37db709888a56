"""Tokens: secrets in a file, one of which each caller shows, and the names that logs give them.

Tokens never come from a command line, which other users of the machine can see. They are compared
as digests in constant time, and appear in no log and no message.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from teravec.errors import InvalidArgument
from teravec.serving.wire.certificates import read_small

__all__ = ["Token", "Tokens"]

_SHORTEST = 16
_NAME = re.compile(r"#\s*name:\s*([A-Za-z0-9._@-]{1,64})")


@dataclass(frozen=True, repr=False)
class Token:
    """A secret, and its caller's name.

    Parameters
    ----------
    secret : str
    name : str
        For logs, and for fairness: tokens of one name are one caller.
    is_admin : bool
        Whether it may reload, too.
    """

    secret: str
    name: str
    is_admin: bool = False


class Tokens:
    """Secrets, one of which each caller must present. Without tokens, callers need none.

    Parameters
    ----------
    tokens : iterable of str
    admins : iterable of str
        Those that may reload, too.
    names, admin_names : iterable of str, optional
        Not given: ``token-1``, ``token-2``, ... and ``admin-1``, ...
    """

    def __init__(
        self,
        tokens: Sequence[str] = (),
        admins: Sequence[str] = (),
        names: Sequence[str] = (),
        admin_names: Sequence[str] = (),
    ) -> None:
        if any(len(secret) < _SHORTEST for secret in (*tokens, *admins)):
            raise InvalidArgument(f"a token is shorter than {_SHORTEST} characters")
        found = [Token(*each) for each in zip(tokens, _named(names, tokens, "token"), strict=True)]
        found += [
            Token(secret, name, is_admin=True)
            for secret, name in zip(admins, _named(admin_names, admins, "admin"), strict=True)
        ]
        self._known = [(_digest(token.secret), token) for token in found]
        self.count_of_names = len({token.name for token in found})

    def __bool__(self) -> bool:
        return bool(self._known)

    @classmethod
    def read(cls, path: Path, admins: Path | None = None) -> Tokens:
        """Read one token per line, skipping blank lines and lines that begin with #.

        A line ``# name: NAME`` names the tokens after it, up to the next such line.
        """
        tokens, names = _read(path)
        admin_tokens, admin_names = ([], []) if admins is None else _read(admins)
        return cls(tokens, admin_tokens, names, admin_names)

    @classmethod
    def first_of(cls, path: Path) -> str:
        """Return the first secret of a file, which a client shows."""
        cls.read(path)  # raises if a token is too short
        return _read(path)[0][0]

    def accept(self, given: str) -> bool:
        """Whether ``given`` is one of the tokens."""
        return self.find(given) is not None

    def find(self, given: str) -> Token | None:
        """Return the token that ``given`` is, in a time that does not depend on which."""
        digest, found = _digest(given), None
        for own, token in self._known:
            if hmac.compare_digest(own, digest):
                found = token
        return found


def _read(path: Path) -> tuple[list[str], list[str]]:
    """Return a file's secrets and their names; empty for those that have none."""
    secrets: list[str] = []
    names: list[str] = []
    name = ""
    for line in read_small(path).decode("utf-8", "replace").splitlines():
        text = line.strip()
        if named := _NAME.fullmatch(text):
            name = named[1]
        elif text and not text.startswith("#"):
            secrets.append(text)
            names.append(name)
    if not secrets:
        raise InvalidArgument(f"{path}: no token found")
    return secrets, names


def _named(names: Sequence[str], secrets: Sequence[str], prefix: str) -> list[str]:
    """Return a name for each secret, by its place if it has none."""
    given = names or [""] * len(secrets)
    return [name or f"{prefix}-{place}" for place, name in enumerate(given, 1)]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
