"""Searching a directory or a server by the same command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from teravec.errors import InvalidArgument
from teravec.search.index import Index, open_index
from teravec.serving.client import RemoteIndex, connect

__all__ = ["Ca", "Remote", "Server", "TlsCert", "TlsKey", "TokenFile", "searched"]

Server = Annotated[
    str | None,
    typer.Option(help="Ask this server instead of a directory: grpc://HOST:PORT or "
                 "grpc+tls://HOST:PORT.", show_default=False),
]  # fmt: skip
TokenFile = Annotated[
    Path | None, typer.Option(help="Token to show to the server.", show_default=False)
]
Ca = Annotated[
    Path | None,
    typer.Option(help="PEM authority of the server's certificate.", show_default=False),
]
TlsCert = Annotated[
    Path | None, typer.Option(help="PEM certificate to show to the server.", show_default=False)
]
TlsKey = Annotated[
    Path | None, typer.Option(help="PEM key of that certificate.", show_default=False)
]

_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Remote:
    """A server to ask, and the files to be known by there."""

    url: str | None
    token_file: Path | None
    ca: Path | None
    certificate: Path | None
    key: Path | None


@contextmanager
def searched(
    index: Path, queries: str | None, remote: Remote, memory: str | None, threads: int | None
) -> Iterator[tuple[Index | RemoteIndex, str]]:
    """What is to be searched, and the path of the queries.

    With a server there is one argument, the queries; else two.
    """
    if remote.url is None:
        if queries is None:
            raise InvalidArgument("INDEX and QUERIES expected, or --server and QUERIES")
        with open_index(index, memory=memory, threads=threads) as opened:
            yield opened, queries
        return
    if queries is not None:
        raise InvalidArgument(f"--server and INDEX {index} given; one of them expected")
    with connect(
        remote.url, token_file=remote.token_file, ca=remote.ca, certificate=remote.certificate,
        key=remote.key, timeout_s=_TIMEOUT_S,
    ) as connected:  # fmt: skip
        yield connected, str(index)
