"""What a served index tells a client that asks for it: too much for every `info`."""

from __future__ import annotations

from typing import Any

from teravec.errors import InvalidArgument
from teravec.search.options import SearchOptions
from teravec.search.request import checked_k, checked_radius
from teravec.serving.server.served import ServedIndex

__all__ = ["details"]

_OPTIONS = ("k", "radius", "nprobe", "recall", "candidates")


def details(index: ServedIndex, asked: dict[str, Any]) -> dict[str, Any]:
    """Answer the details that the header of a request for ``info`` asks for.

    Parameters
    ----------
    index : ServedIndex
    asked : dict
        ``source`` (true): what the index was built from, and how many vectors have one id.
        ``effort`` (fields of ``SearchOptions``): the effort that these options take.

    Returns
    -------
    dict
        Fit for JSON; ``details_of`` is the version that it describes.

    Raises
    ------
    InvalidArgument
        Options that the index cannot be searched with.
    """
    told: dict[str, Any] = {"details_of": index.version}
    if asked.get("source") is True:
        told |= {"source": index.manifest.source, "copies_of_an_id": index.copies_of_an_id}
    if (options := asked.get("effort")) is not None:
        if not isinstance(options, dict) or not set(options) <= set(_OPTIONS):
            raise InvalidArgument(f"effort of options other than {', '.join(_OPTIONS)} asked for")
        told["effort"] = vars(index.effort(_checked(SearchOptions(**options))))
    return told


def _checked(options: SearchOptions) -> SearchOptions:
    if options.radius is not None:
        checked_radius(options.radius)
    elif options.k != 0:  # the k nearest of no vectors
        checked_k(options.k)  # type: ignore[arg-type]
    return options
