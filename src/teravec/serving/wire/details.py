"""What a server tells about its index to a client that asks `info` for it, checked."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from teravec.errors import InvalidArgument, OtherIndex, ProtocolError
from teravec.search.effort import Effort
from teravec.serving.wire.harder import read_harder

__all__ = ["Details", "ServedColumns", "read_columns", "read_details", "read_effort"]


@dataclass(frozen=True)
class Details:
    """What a served index was built from.

    Parameters
    ----------
    source : dict
        As ``Source.describe`` tells it; empty where that is unknown.
    copies_of_an_id : int
        Most vectors that have the same id.
    """

    source: dict[str, Any]
    copies_of_an_id: int


def read_details(told: dict[str, Any], version: str) -> Details:
    """Read what was asked for by ``source``; an older server tells nothing.

    Raises
    ------
    OtherIndex
        It tells it of another version.
    ProtocolError
        It is not what it should be.
    """
    if "source" not in told:
        return Details({}, 1)
    source = _told(told, "source", version)
    copies = told.get("copies_of_an_id")
    files = source.get("files")
    if type(copies) is not int or copies < 1 or not isinstance(files, list):
        raise ProtocolError("the server's source is not what it should be")
    column = source.get("id_column")
    described = all(
        isinstance(file, dict) and isinstance(file.get("name"), str) and "fingerprint" in file
        for file in files
    )
    if not described or not (column is None or isinstance(column, str)):
        raise ProtocolError("the server's source is not what it should be")
    return Details(source, copies)


@dataclass(frozen=True)
class ServedColumns:
    """The columns of a served index.

    Parameters
    ----------
    schema : pyarrow.Schema
    text_ids : str, optional
        The column of the ids, if they are texts.
    """

    schema: Any
    text_ids: str | None


def read_columns(told: dict[str, Any], version: str) -> ServedColumns:
    """Read what was asked for by ``columns``; raises as ``read_details``.

    Raises
    ------
    InvalidArgument
        The server is older than this client, and has no columns to send.
    """
    if "columns" not in told:
        raise InvalidArgument(
            "this server is older than the client and sends no columns: update the server"
        )
    content = _told(told, "columns", version)
    text = content.get("text_ids")
    try:
        data = base64.b64decode(content["schema"], validate=True)
        schema = pa.ipc.read_schema(pa.py_buffer(data))
        if text is not None:
            schema.field(text)
    except (KeyError, TypeError, ValueError, OSError, pa.ArrowException) as error:
        raise ProtocolError(
            f"the server's columns are not what they should be: {type(error).__name__}"
        ) from None
    return ServedColumns(schema, text)


def read_effort(told: dict[str, Any], version: str) -> Effort:
    """Read what was asked for by ``effort``; raises as ``read_details``.

    Raises
    ------
    InvalidArgument
        The server is older than this client, and does not tell it.
    """
    if "effort" not in told:
        raise InvalidArgument(
            "this server is older than the client and does not tell how many lists a recall "
            "takes: give nprobe, or update the server"
        )
    content = _told(told, "effort", version)
    try:
        harder = content.get("harder")
        effort = Effort(**{name: value for name, value in content.items() if name != "harder"})
        if harder is not None:
            usual, hardness = read_harder(harder)
            effort = replace(effort, usual=usual, hardness=hardness)
    except (TypeError, InvalidArgument) as error:
        raise ProtocolError(f"the server's effort is not what it should be: {error}") from error
    whole = type(effort.nprobe) is int and effort.nprobe >= 1
    candidates = effort.candidates is None or type(effort.candidates) is int
    if not (whole and candidates and type(effort.prune) in (int, float) and effort.prune >= 0):
        raise ProtocolError(f"the server's effort {content} is not what it should be")
    return effort


def _told(told: dict[str, Any], name: str, version: str) -> dict[str, Any]:
    if told.get("details_of") != version:
        raise OtherIndex(
            f"the server went over to version {told.get('details_of')}, {version} expected; "
            "connect again"
        )
    content = told[name]
    if not isinstance(content, dict):
        raise ProtocolError(f"the server's {name} is not what it should be")
    return content
