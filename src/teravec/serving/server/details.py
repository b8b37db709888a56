"""What a served index tells a client that asks for it: too much for every `info`."""

from __future__ import annotations

import base64
from typing import Any

import pyarrow as pa

from teravec.errors import InvalidArgument
from teravec.index.manifest import Manifest
from teravec.search.effort import Effort
from teravec.search.options import SearchOptions
from teravec.search.request import checked_k, checked_radius
from teravec.serving.server.served import ServedIndex
from teravec.serving.wire.harder import write_harder

__all__ = ["details"]

_OPTIONS = ("k", "radius", "nprobe", "recall", "candidates")


def details(index: ServedIndex, asked: dict[str, Any]) -> dict[str, Any]:
    """Answer the details that the header of a request for ``info`` asks for.

    Parameters
    ----------
    index : ServedIndex
    asked : dict
        ``columns`` (true): their schema, and the column of ids that are texts.
        ``source`` (true): what the index was built from, and how many vectors have one id.
        ``effort`` (fields of ``SearchOptions``): the effort that these options take;
        ``harder`` (true): with the hardness of queries.

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
    if asked.get("columns") is True:
        told["columns"] = _describe_columns(index.manifest)
    if asked.get("source") is True:
        told |= {"source": index.manifest.source, "copies_of_an_id": index.copies_of_an_id}
    if (options := asked.get("effort")) is not None:
        if not isinstance(options, dict) or not set(options) <= set(_OPTIONS):
            raise InvalidArgument(f"effort of options other than {', '.join(_OPTIONS)} asked for")
        effort = index.effort(_checked(SearchOptions(**options)))
        told["effort"] = _describe(effort, adaptive=asked.get("harder") is True)
    return told


def _describe_columns(manifest: Manifest) -> dict[str, Any]:
    schema = manifest.schema or pa.schema([])
    written = base64.b64encode(schema.serialize().to_pybytes()).decode()
    return {"schema": written, "text_ids": manifest.text_ids}


def _describe(effort: Effort, *, adaptive: bool) -> dict[str, Any]:
    """Describe an effort; to older clients, as one that visits as many lists for every query."""
    harder = write_harder(effort)
    content = {"nprobe": effort.nprobe, "prune": effort.prune, "candidates": effort.candidates}
    if harder is None:
        return content
    if adaptive:
        return {**content, "harder": harder}
    return {**content, "nprobe": effort.typical, "prune": 0.0}


def _checked(options: SearchOptions) -> SearchOptions:
    if options.radius is not None:
        checked_radius(options.radius)
    elif options.k != 0:  # the k nearest of no vectors
        checked_k(options.k)  # type: ignore[arg-type]
    return options
