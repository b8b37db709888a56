"""The options that name a server to search instead of a directory, and the connection they make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from teravec.errors import InvalidArgument
from teravec.granting import resources
from teravec.serving.wire.client import RemoteIndex, connect
from teravec.storage.layout import IndexPaths

__all__ = ["Ca", "MinVersion", "Remote", "Server", "TlsCert", "TlsKey", "TokenFile", "remote_of"]

Server = Annotated[
    str | None,
    typer.Option(
        help="Ask this server instead of a directory: HOST:PORT, grpc://HOST:PORT or "
        "grpc+tls://HOST:PORT. Several, separated by commas: the next is asked where one "
        "is late or fails.",
        show_default=False,
    ),
]
TokenFile = Annotated[
    Path | None, typer.Option(help="Token to show to the server.", show_default=False)
]
Ca = Annotated[
    Path | None, typer.Option(help="PEM authority of the server's certificate.", show_default=False)
]
TlsCert = Annotated[
    Path | None, typer.Option(help="PEM certificate to show to the server.", show_default=False)
]
TlsKey = Annotated[
    Path | None, typer.Option(help="PEM key of that certificate.", show_default=False)
]
MinVersion = Annotated[
    int | None,
    typer.Option(
        help="Wait until the server has this version of the index, or a later one.",
        show_default=False,
    ),
]

_BATCH_SHARE = 3  # of the memory limit, for a batch: parts are written and joined beside it


@dataclass(frozen=True)
class Remote:
    """A server to ask, and the files to be known by there.

    Parameters
    ----------
    url : str
    token_file, ca, certificate, key : Path, optional
    min_version : int
        Wait until the server has this version of the index.
    """

    url: str
    token_file: Path | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    min_version: int = 0

    def open(self, first: str | None, memory: str | None) -> RemoteIndex:
        """Connect; ``first`` is the first path of the queries, if any, which must be no index."""
        if first is not None and IndexPaths(first).manifest.exists():
            raise InvalidArgument(
                f"INDEX {first} given beside --server, which has one: leave one of them out"
            )
        limit = resources(memory, None, None).memory_bytes
        index = connect(
            self.url,
            token_file=self.token_file,
            ca=self.ca,
            certificate=self.certificate,
            key=self.key,
            min_version=self.min_version,
        )
        index.batch_bytes = limit // _BATCH_SHARE
        return index


def remote_of(
    server: str | None,
    token_file: Path | None,
    ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    *,
    min_version: int | None,
) -> Remote | None:
    """Return the server that the options name, or None.

    Raises
    ------
    InvalidArgument
        A version without a server.
    """
    if server is not None:
        return Remote(server, token_file, ca, tls_cert, tls_key, min_version or 0)
    if min_version is not None:
        raise InvalidArgument("--min-version needs --server: an index here has its newest version")
    return None
