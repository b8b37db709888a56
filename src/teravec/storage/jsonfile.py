"""Sealed JSON: small files whose every byte is covered by a checksum.

The file is the canonical text of one object. Its first key, ``checksum``, is the XXH3-64 of the
canonical text of the others, and covers all of it, so that a flipped
byte anywhere, even in white space, is found. As the checksum is that of the text around it, it is
compared without writing the text again.
"""

from __future__ import annotations

import json
from typing import Any

import xxhash

from teravec.errors import CorruptFile, ForeignFile, IncompatibleVersion
from teravec.storage.early_reads import FIRST_BYTES
from teravec.storage.local_store import AnyPath, open_file, stored
from teravec.storage.store import OpenFile

__all__ = ["json_checksum", "parse_json", "read_json", "sealed_text", "write_json"]

_LARGEST = 1 << 30
_HEAD, _DIGITS = b'{\n "checksum": "', 16


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def json_checksum(content: dict[str, Any]) -> str:
    """Return the checksum of a JSON object, 16 hexadecimal digits."""
    return xxhash.xxh3_64_hexdigest(_text(content).encode())


def sealed_text(content: dict[str, Any]) -> bytes:
    """Return the bytes that seal ``content``; it must have ``format`` and ``version``."""
    text = _text(content).encode()
    return _HEAD + xxhash.xxh3_64_hexdigest(text).encode() + b'",' + text[1:]


def _is_sealed(data: bytes) -> bool:
    """Whether the checksum in its place is that of the text without it."""
    end = len(_HEAD) + _DIGITS
    rest = b"{" + data[end + 2 :]
    return data == _HEAD + xxhash.xxh3_64_hexdigest(rest).encode() + b'",' + rest[1:]


def write_json(path: AnyPath, content: dict[str, Any]) -> None:
    """Publish ``content`` durably at ``path``; it must have ``format`` and ``version``."""
    data = sealed_text(content)
    with stored(path).publish(verify=lambda file: _check_bytes(file, data)) as file:
        file.write(data, 0)


def _checksum_of(content: dict[str, Any]) -> str:
    try:
        return json_checksum(content)
    except (ValueError, RecursionError):  # what is no canonical text
        return "none"


def _check_bytes(file: OpenFile, expected: bytes) -> None:
    if file.size != len(expected) or file.read(file.size, 0) != expected:
        raise CorruptFile(f"{file.path}: the bytes read back are not those written")


def read_json(path: AnyPath, format_name: str, *versions: int) -> dict[str, Any]:
    """Read a sealed JSON file.

    Parameters
    ----------
    path : StorePath or Path
    format_name : str
        The expected value of the file's ``format``.
    *versions : int
        Expected values of its ``version``.

    Returns
    -------
    dict
        The content, without its checksum.

    Raises
    ------
    MissingFile, CorruptFile, ForeignFile, IncompatibleVersion
    """
    with open_file(path, in_order=True, ahead=[(0, FIRST_BYTES)]) as file:
        if file.size > _LARGEST:
            raise CorruptFile(f"{path}: {file.size:,} bytes found, at most {_LARGEST:,} expected")
        data = file.read(file.size, 0)
    return parse_json(data, str(path), format_name, *versions)


def parse_json(
    data: bytes | bytearray, path: str, format_name: str, *versions: int
) -> dict[str, Any]:
    """Return the content of a sealed JSON file's bytes, as ``read_json`` does."""
    try:
        content = json.loads(data)
        checksum = content.pop("checksum")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CorruptFile(f"{path}: not a sealed JSON file ({type(error).__name__})") from error
    if not _is_sealed(bytes(data)):
        raise CorruptFile(
            f"{path}: content has checksum {_checksum_of(content)}, {checksum} expected"
        )
    if content.get("format") != format_name:
        raise ForeignFile(f"{path}: format {content.get('format')!r}, {format_name!r} expected")
    if content.get("version") not in versions:
        expected = " or ".join(map(str, versions))
        raise IncompatibleVersion(
            f"{path}: format version {content.get('version')!r}, version {expected} expected"
        )
    return dict(content)
