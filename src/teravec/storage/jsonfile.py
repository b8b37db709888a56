"""Sealed JSON: small files whose every byte is covered by a checksum.

The file is the canonical text of one object whose first key, ``checksum``, is the XXH3-64
of the canonical text of the rest. Reading re-creates the text and compares all of it, so
that a flipped byte anywhere, white space included, is found.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import xxhash

from teravec.errors import CorruptFile, ForeignFile, IncompatibleVersion, storage_errors
from teravec.storage.files import publishing, write_all

__all__ = ["json_checksum", "read_json", "write_json"]

_LARGEST = 1 << 30


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def json_checksum(content: dict[str, Any]) -> str:
    """Checksum of a JSON object as it would be sealed, 16 hexadecimal digits."""
    return xxhash.xxh3_64_hexdigest(_text(content).encode())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Publish ``content`` durably at ``path``; it must have ``format`` and ``version``."""
    data = _text({"checksum": json_checksum(content), **content}).encode()
    with publishing(path, verify=lambda temporary: _verify(temporary, data)) as file:
        write_all(file, data, 0)


def _verify(path: Path, expected: bytes) -> None:
    if path.read_bytes() != expected:
        raise CorruptFile(f"{path}: the bytes read back are not those written")


def read_json(path: Path, format_name: str, version: int) -> dict[str, Any]:
    """Read a sealed JSON file.

    Parameters
    ----------
    path : Path
    format_name, version
        What the file's ``format`` and ``version`` must say.

    Returns
    -------
    dict
        The content, without its checksum.

    Raises
    ------
    MissingFile, CorruptFile, ForeignFile, IncompatibleVersion
    """
    with storage_errors(path, "read"):
        size = path.stat().st_size
        if size > _LARGEST:
            raise CorruptFile(f"{path}: {size:,} bytes found, at most {_LARGEST:,} expected")
        data = path.read_bytes()
    try:
        content = json.loads(data)
        checksum = content.pop("checksum")
        canonical = _text({"checksum": checksum, **content}).encode()
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CorruptFile(f"{path}: not a sealed JSON file ({type(error).__name__})") from error
    found = json_checksum(content)
    if canonical != data or checksum != found:
        raise CorruptFile(f"{path}: content has checksum {found}, {checksum} expected")
    if content.get("format") != format_name:
        raise ForeignFile(f"{path}: format {content.get('format')!r}, {format_name!r} expected")
    if content.get("version") != version:
        raise IncompatibleVersion(
            f"{path}: format version {content.get('version')!r}, version {version} expected"
        )
    return dict(content)
