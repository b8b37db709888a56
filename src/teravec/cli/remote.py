"""Searching a server by the same commands as a directory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from teravec import api
from teravec.bars import counted
from teravec.bulk.formats.found import FoundArrays
from teravec.bulk.results import check_ids, is_stdout, write_found
from teravec.cli.answering import found_as_json, print_found, print_texts
from teravec.cli.running import print_json
from teravec.cli.stats_table import print_table, stats_table
from teravec.errors import InvalidArgument
from teravec.memory import require
from teravec.serving.wire.client import RemoteIndex, connect
from teravec.sources import open_rows
from teravec.storage.layout import IndexPaths
from teravec.storage.output_lock import hold_file

__all__ = ["REQUEST_S", "Ca", "Remote", "Server", "TlsCert", "TlsKey", "TokenFile"]

Float32 = npt.NDArray[np.float32]

Server = Annotated[
    str | None,
    typer.Option(help="Ask this server instead of a directory: HOST:PORT, grpc://HOST:PORT or "
                 "grpc+tls://HOST:PORT. Several, separated by commas: the next is asked where one "
                 "is late or fails.", show_default=False),
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

REQUEST_S = 60.0


@dataclass(frozen=True)
class Remote:
    """A server to ask, and the files to be known by there.

    Parameters
    ----------
    url : str
    token_file, ca, certificate, key : Path, optional
    exclude_self : bool
        Refused: servers do not leave a query's own vector out.
    id_column, vector_column : str, optional
        Columns of the queries' files; servers get vectors alone, so ids are only looked for.
    """

    url: str
    token_file: Path | None
    ca: Path | None
    certificate: Path | None
    key: Path | None
    exclude_self: bool
    id_column: str | None = None
    vector_column: str | None = None

    def answer(
        self, queries: list[str], ask: Callable[[RemoteIndex, Float32], FoundArrays],
        out: Path | None, *, memory: str | None, stats: bool, json: bool,
        format: str | None = None,
    ) -> None:  # fmt: skip
        """Ask for every query; write the results to a file, or print them."""
        if self.exclude_self:
            raise InvalidArgument("--exclude-self is not answered by servers")
        if IndexPaths(Path(queries[0])).manifest.exists():
            raise InvalidArgument(
                f"INDEX {queries[0]} given beside --server, which has one: leave one of them out"
            )
        source = open_rows(
            queries, id_column=self.id_column, vector_column=self.vector_column, format=format
        )
        if out is not None:
            source.check_not(out)
        limit = api.resources(memory, None, None).memory_bytes
        require(source.ntotal * source.d * 4, limit, "holding the queries")
        to_stdout = out is not None and is_stdout(out)
        with nullcontext() if out is None or to_stdout else hold_file(out):
            with connect(
                self.url, token_file=self.token_file, ca=self.ca, certificate=self.certificate,
                key=self.key,
            ) as index:  # fmt: skip
                found = ask(index, source.read(0, source.ntotal))
            result: dict[str, object] = {"queries": found.n, "results": found.total}
            if out is not None and not to_stdout:
                check_ids(out, found.ids)
                write_found(out, found)
                result = {"out": str(out), **result}
        if out is not None and to_stdout:
            print_texts(out, 0, found)
            if stats:
                print_table(stats_table(index.stats), to_stderr=True)
            return
        if json:
            content = {} if out is not None else found_as_json([found])
            print_json({**result, **content, **({"stats": asdict(index.stats)} if stats else {})})
            return
        if out is None:
            print_found(0, found)
        else:
            print(f"{out}: {counted(found.total, 'results')} of {counted(found.n, 'queries')}")
        if stats:
            print_table(stats_table(index.stats))
