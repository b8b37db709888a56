"""Access to servers: addresses, TLS, tokens and client certificates."""

from __future__ import annotations

import ipaddress
import logging
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from urllib.parse import urlsplit

from teravec.errors import InvalidArgument
from teravec.serving.wire.certificates import (
    check_authority,
    check_pair,
    read_small,
    warn_of_dates,
    warn_of_readers,
)
from teravec.serving.wire.tokens import Tokens
from teravec.storage.layout import absolute

__all__ = ["Address", "ClientSecurity", "ServerSecurity", "Tokens"]

log = logging.getLogger(__name__)

_MOST_PORT = 65535
_FILES = ("certificate", "key", "client_ca", "token_file", "admin_token_file")
_HOST_NAME = re.compile(r"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]+\]?")


@dataclass(frozen=True)
class Address:
    """A host and a port.

    Parameters
    ----------
    host : str
    port : int
        0 for any free port.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``host:port`` or ``[v6]:port``, or raise InvalidArgument."""
        try:
            parts = urlsplit(f"//{text.strip()}")
            if not parts.hostname or parts.port is None or parts.path or parts.username:
                raise ValueError
            if parts.hostname == "*" or (":" in parts.hostname and "[" not in text):
                raise ValueError
        except ValueError:
            raise InvalidArgument(
                f"address {text!r} found; host:port expected{_hint(text.strip())}"
            ) from None
        return cls(parts.hostname, parts.port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def _hint(text: str) -> str:
    """Explain why a text is no ``host:port``; empty if the reason is unknown."""
    host, _, port = text.rpartition(":")
    if "://" in text:
        return f": leave {text.split('://')[0]}:// out"
    if "/" in text or "@" in text:
        return ", and nothing else"
    if text.isdecimal():
        return f", as 127.0.0.1:{text}"
    if host == "*":
        return f": 0.0.0.0:{port} is every IPv4 address of this machine, [::]:{port} IPv6 too"
    if ":" in host.strip("[]") and not (host.startswith("[") and host.endswith("]")):
        return ": an IPv6 address stands in brackets, as [::1]:7400"
    if text.startswith(":"):
        return f": the host is missing; 127.0.0.1{text} is this machine"
    if not host:
        return f": the port is missing, as {text or '127.0.0.1'}:7400"
    if not (port.isdecimal() and int(port[:9]) <= _MOST_PORT):
        return f": a port is 0 to {_MOST_PORT}"
    return ""


@dataclass(frozen=True)
class ServerSecurity:
    """What a server requires of its callers.

    Parameters
    ----------
    certificate, key : Path, optional
        PEM files; both or neither.
    client_ca : Path, optional
        PEM file: callers need a certificate signed by this authority.
    token_file : Path, optional
    admin_token_file : Path, optional
        Tokens that may reload, beside what all tokens may.
    insecure : bool
        Listen beyond this machine without TLS, or without identifying callers.
    open_probes : bool
        Answer /healthz and /readyz without a token.
    allow_hosts : tuple of str
        Host names that HTTP requests may use for this server, where it checks them. localhost
        and loopback addresses are always allowed.
    """

    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    token_file: Path | None = None
    insecure: bool = False
    open_probes: bool = False
    allow_hosts: tuple[str, ...] = ()
    admin_token_file: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidArgument("a TLS certificate and its key are given together")
        if self.client_ca is not None and self.certificate is None:
            raise InvalidArgument("client certificates need TLS: give a certificate and a key")
        for name in _FILES:  # read again later
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, absolute(path))
        if self.admin_token_file is not None and self.token_file is None:
            raise InvalidArgument("tokens of administrators need tokens of callers (--token-file)")
        for name in self.allow_hosts:
            if not _HOST_NAME.fullmatch(name):
                raise InvalidArgument(
                    f"--allow-host {name!r} found; a name such as db.example.org expected, without "
                    "http:// and port"
                )

    def check_address(self, address: Address) -> None:
        """Raise InvalidArgument if strangers could eavesdrop or send requests."""
        if address.is_loopback or self.insecure:
            return
        if self.certificate is None:
            raise InvalidArgument(
                f"{address} can be reached from other machines: it needs TLS (--tls-cert, "
                "--tls-key), or --insecure"
            )
        if self.token_file is None and self.client_ca is None:
            raise InvalidArgument(
                f"{address} can be reached from other machines: it needs tokens (--token-file) "
                "or client certificates (--client-ca), or --insecure"
            )

    def checks_host(self, address: Address) -> bool:
        """Whether requests must name one of this server's host names.

        On loopback without tokens or client certificates, a web page could otherwise read the
        index through its visitor's browser (DNS rebinding).
        """
        strangers = self.token_file is None and self.client_ca is None
        return strangers and (address.is_loopback or bool(self.allow_hosts))

    def check_files(self) -> None:
        """Raise InvalidArgument for a certificate, key or authority that cannot be used.

        Certificates that peers will refuse, and secrets that others can read, are logged.
        """
        secrets = [p for p in (self.token_file, self.admin_token_file) if p is not None]
        warnings = [line for path in secrets for line in warn_of_readers(path)]
        if self.certificate is not None and self.key is not None:
            check_pair(self.certificate, self.key)
            warnings += warn_of_dates(self.certificate) + warn_of_readers(self.key)
        if self.client_ca is not None:
            check_authority(self.client_ca)
            warnings += warn_of_dates(self.client_ca)
        for line in warnings:
            log.warning("%s", line)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files named here."""
        return tuple(path for name in _FILES if (path := getattr(self, name)) is not None)

    @property
    def knows_callers(self) -> bool:
        """Whether callers show who they are."""
        return self.token_file is not None or self.client_ca is not None

    def tokens(self) -> Tokens:
        """Read the tokens from their files."""
        if self.token_file is None:
            return Tokens()
        return Tokens.read(self.token_file, self.admin_token_file)

    def server_context(self, *protocols: str) -> ssl.SSLContext | None:
        """Make the context of a port that speaks these protocols; None without a certificate."""
        if self.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(protocols)
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (ssl.SSLError, OSError) as error:
            raise InvalidArgument(f"{self.certificate}: not a certificate and its key") from error
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except (ssl.SSLError, OSError) as error:
                raise InvalidArgument(f"{self.client_ca}: not a certificate") from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def use_certificates(self, context: ssl.SSLContext) -> None:
        """Load the certificate, key and authority from their files into a server's context.

        Open connections go on. An authority that was removed from its file stays trusted until a
        restart.

        Raises
        ------
        InvalidArgument
            Certificate and key do not belong together (yet); the context is unchanged.
        """
        if self.certificate is None or self.key is None:
            return
        check_pair(self.certificate, self.key)
        if self.client_ca is not None:
            check_authority(self.client_ca)
        try:
            context.load_cert_chain(self.certificate, self.key)
            if self.client_ca is not None:
                context.load_verify_locations(self.client_ca)
        except (ssl.SSLError, OSError) as error:
            raise InvalidArgument(f"{self.certificate}: {error}; try again") from error


@dataclass(frozen=True, repr=False)
class ClientSecurity:
    """How a client proves who it is, and how it checks the server.

    Parameters
    ----------
    token : str, optional
    ca : bytes, optional
        PEM of the authority of the server's certificate. Not given: the system's list.
    certificate, key : bytes, optional
        PEM of the client's own certificate, for servers that ask for one.
    insecure : bool
        Send a token over plain text to another machine.
    files : dict of Path
        What it was read from, by the names that ``read`` has for them.
    """

    token: str | None = None
    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    insecure: bool = False
    files: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        *,
        token_file: Path | None = None,
        ca: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        insecure: bool = False,
    ) -> ClientSecurity:
        """Read from files; the first of several tokens is used."""
        if (certificate is None) != (key is None):
            raise InvalidArgument("a client certificate and its key are given together")
        if certificate is not None and key is not None:
            check_pair(certificate, key)
        if ca is not None:
            check_authority(ca)
        token = None
        if token_file is not None:
            token = Tokens.first_of(token_file)
        ca_pem, own, own_key = (
            None if p is None else read_small(p) for p in (ca, certificate, key)
        )
        named = {"token_file": token_file, "ca": ca, "certificate": certificate, "key": key}
        files = {name: absolute(path) for name, path in named.items() if path is not None}
        return cls(token, ca_pem, own, own_key, insecure, files)

    def context(self) -> ssl.SSLContext:
        """Make the context of TLS connections; raises InvalidArgument for a bad certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            if self.ca is None:
                context.load_default_certs()
            else:
                context.load_verify_locations(cadata=self.ca.decode("ascii", "replace"))
            if self.certificate is not None and self.key is not None:
                _load_pair(context, self.certificate, self.key)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise InvalidArgument(f"a certificate, or its key, cannot be used: {error}") from error
        return context

    def read_again(self) -> ClientSecurity:
        """What the same files hold now."""
        return ClientSecurity.read(**self.files, insecure=self.insecure)

    def warn_of_files(self) -> None:
        """Log a warning for each secret that others can read, and each certificate out of date."""
        for name, path in self.files.items():
            secret = name in ("token_file", "key")
            for line in warn_of_readers(path) if secret else warn_of_dates(path):
                log.warning("%s", line)

    def check_address(self, address: Address, tls: bool) -> None:
        """Raise InvalidArgument rather than send a token where others can read it."""
        if self.token is not None and not (tls or address.is_loopback or self.insecure):
            raise InvalidArgument(
                f"a token would go to {address} in plain text; use grpc+tls://, or say insecure"
            )


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Load a certificate and key from memory, by way of a file, as ``ssl`` reads files only."""
    with NamedTemporaryFile(prefix="teravec-") as file:  # readable to its owner only
        file.write(certificate + b"\n" + key)
        file.flush()
        context.load_cert_chain(file.name)
