"""The options of commands that take an index or data: their stores, and where work files lie."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from teravec.sources.remote import is_remote, remote_files
from teravec.storage.layout import store_at
from teravec.storage.object_address import is_address, store_options
from teravec.storage.places import cached, open_store

if TYPE_CHECKING:
    from teravec.storage.places import Place as PlaceText
else:
    PlaceText = str
"""A place as the command line parses it, a text, and as commands get it: see ``opened_places``."""

__all__ = ["FILES", "PLACE", "PLACES_AND_TWO", "PlaceText", "opened_places"]

PLACE = "the place of an index"
"""Marks parameters whose texts are paths or URLs of indexes."""

PLACES_AND_TWO = "the places of indexes, and two other texts"
"""Marks a list that begins with paths or URLs of indexes, and ends with two texts that stay."""

FILES = "files of vectors"
"""Marks parameters whose texts are paths or URLs of files of vectors."""

StoreOption = Annotated[
    list[str] | None,
    typer.Option(
        "--store-option",
        metavar="NAME=VALUE",
        help="How an object store is reached, if the environment does not say it: endpoint, "
        "region, allow_http, timeout ... May occur several times.",
        show_default=False,
    ),
]
SourceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--source-option",
        metavar="NAME=VALUE",
        help="Likewise of files of vectors that are given by URL. May occur several times.",
        show_default=False,
    ),
]
WorkDirectory = Annotated[
    str | None,
    typer.Option(
        "--work",
        metavar="DIR",
        help="Local directory for files until they are in the object store.  [default: that "
        "for temporary files]",
        show_default=False,
    ),
]
Cache = Annotated[
    str | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="Keep what is read of the index in this directory on a local disk; processes may "
        "share it.",
        show_default=False,
    ),
]
CacheBytes = Annotated[
    str | None,
    typer.Option(
        "--cache-bytes",
        metavar="SIZE",
        help="Largest size of the cache, as 200GiB.  [default: that which it has, or 16GiB]",
        show_default=False,
    ),
]


def opened_places(
    signature: inspect.Signature,
) -> tuple[dict[str, Any], Callable[[dict[str, Any]], None]]:
    """Return the options of a command that takes places, and what turns its texts into places.

    Returns
    -------
    options : dict
        Annotations of further parameters, by name; empty if the command takes no place.
    convert : callable
        Given the command's arguments, takes these options out, and replaces texts by paths and
        stores, and URLs of files by those with options.
    """
    names, files = _marked(signature, PLACE, PLACES_AND_TWO), _marked(signature, FILES)
    options: dict[str, Any] = {
        "store_option": StoreOption,
        "work": WorkDirectory,
        "cache": Cache,
        "cache_bytes": CacheBytes,
    }
    options = options if names else {}
    options |= {"source_option": SourceOption} if files else {}

    def convert(arguments: dict[str, Any]) -> None:
        given = {name: arguments.pop(name, None) for name in options}
        for name in names:
            value = arguments[name]
            if isinstance(value, list):
                arguments[name] = [*(_place(text, given) for text in value[:-2]), *value[-2:]]
            else:
                arguments[name] = _place(value, given)
        if given.get("source_option"):
            chosen = dict(store_options(given["source_option"]))
            for name in files:
                arguments[name] = _files(arguments[name], chosen)

    return options, convert


def _marked(signature: inspect.Signature, *marks: str) -> list[str]:
    """Return the names of the parameters with one of these marks."""
    parameters = signature.parameters.items()
    return [name for name, each in parameters if set(marks) & _marks(each.annotation)]


def _files(given: Any, options: dict[str, str]) -> Any:
    """Return a text, or each of a list, with options if it is a URL of files."""
    if isinstance(given, list):
        return [_files(each, options) for each in given]
    return remote_files(given, options) if is_remote(given) else given


def _marks(annotation: Any) -> set[str]:
    return {m for m in getattr(annotation, "__metadata__", ()) if isinstance(m, str)}


def _place(text: str | None, given: dict[str, Any]) -> Any:
    """Return the path or store of a text, if there is one."""
    if text is None:
        return None
    caching = {name: given[name] for name in ("cache", "cache_bytes")}
    if is_address(text):
        options = dict(store_options(given["store_option"]))
        return open_store(text, options, work=given["work"], **caching)
    if given["cache"] is None and given["cache_bytes"] is None:
        return Path(text)
    return cached(store_at(Path(text)), given["cache"], given["cache_bytes"])
