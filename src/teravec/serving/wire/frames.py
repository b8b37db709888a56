"""Frames: a header and arrays as bytes, checked before anything is allocated for them.

::

    prefix   24 bytes: magic, version, bytes of the header, XXH3-64 of all that follows
    header   JSON object, padded with blanks to a multiple of 8 bytes
    arrays   one after another, little-endian, each padded to a multiple of 8 bytes

``header["arrays"]`` gives each array's name, type and shape. ``decode`` first checks that the
arrays' lengths add up to the received bytes, then makes views of them (copies where they are not
aligned). A header that claims 2^60 rows therefore costs nothing. No length reaches 2^32.

Requests do not use Arrow's record batches. Those may be compressed, and Flight decompresses them
before a server can check their size: a megabyte could take gigabytes. Frames travel as Flight's
``app_metadata``. Columns in an answer are an array of bytes (``arrow_stream``).
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from teravec.errors import ProtocolError

__all__ = ["Array", "Parts", "decode", "encode", "encode_parts", "encode_rows", "read_prefix"]

Array = npt.NDArray[Any]
Parts = list[bytes | memoryview]

MAGIC, VERSION = b"TVFR", 1
_PREFIX = struct.Struct("<4sHxxIxxxxQ")
_LARGEST_HEADER = 1 << 20
_MOST_ARRAYS = 16
_TYPES: dict[str, np.dtype[Any]] = {
    "<f4": np.dtype("<f4"),
    "<i8": np.dtype("<i8"),
    "<u4": np.dtype("<u4"),
    "|u1": np.dtype("u1"),
}


def _refuse(name: str) -> Any:
    raise ValueError(name)


# Made once: with options, ``json.dumps`` and ``json.loads`` make new ones for every call.
_ENCODER = json.JSONEncoder(allow_nan=False)
_DECODER = json.JSONDecoder(parse_constant=_refuse)


def encode(header: dict[str, Any], arrays: dict[str, Array]) -> bytes:
    """Encode a header and arrays as a frame.

    Parameters
    ----------
    header : dict
        JSON; the key ``arrays`` is added.
    arrays : dict of ndarray
        float32, int64, uint32 or uint8, of one or two dimensions.
    """
    return b"".join(encode_parts(header, arrays))


def encode_parts(header: dict[str, Any], arrays: dict[str, Array]) -> Parts:
    """Do as ``encode``, without copying arrays: the frame is the parts, one after another."""
    described = [[name, a.dtype.str, list(a.shape)] for name, a in arrays.items()]
    text = _ENCODER.encode({**header, "arrays": described}).encode()
    parts: Parts = [text, b" " * (-len(text) % 8)]
    for array in arrays.values():
        parts.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        if padding := -array.nbytes % 8:
            parts.append(bytes(padding))
    digest = xxhash.xxh3_64()
    for part in parts:
        digest.update(part)
    return [_PREFIX.pack(MAGIC, VERSION, len(text), digest.intdigest()), *parts]


def encode_rows(header: dict[str, Any], arrays: dict[str, Array]) -> list[bytes]:
    """Encode frames of one header, whose arrays are the rows of these: as many as there are rows.

    Parameters
    ----------
    header : dict
        JSON; the key ``arrays`` is added.
    arrays : dict of ndarray of shape (frames, n)
    """
    described = [[name, a.dtype.str, list(a.shape[1:])] for name, a in arrays.items()]
    text = _ENCODER.encode({**header, "arrays": described}).encode()
    head = _PREFIX.pack(MAGIC, VERSION, len(text), 0) + text + b" " * (-len(text) % 8)
    columns = [np.ascontiguousarray(a).view(np.uint8) for a in arrays.values()]
    size = len(head) + sum(column.shape[1] + -column.shape[1] % 8 for column in columns)
    table = np.zeros((len(columns[0]), size), np.uint8)
    table[:, : len(head)] = np.frombuffer(head, np.uint8)
    at = len(head)
    for column in columns:
        table[:, at : at + column.shape[1]] = column
        at += column.shape[1] + -column.shape[1] % 8
    data, digest = table.reshape(-1).data, xxhash.xxh3_64_intdigest
    starts = range(0, table.size, size)
    checksums = [digest(data[start + _PREFIX.size : start + size]) for start in starts]
    table[:, _PREFIX.size - 8 : _PREFIX.size] = (
        np.array(checksums, "<u8").view(np.uint8).reshape(-1, 8)
    )
    written = table.tobytes()
    return [written[start : start + size] for start in starts]


def read_prefix(data: memoryview, longest_header: int) -> tuple[bytes, int] | None:
    """Return a sound frame's header as text, and where its arrays begin; otherwise None."""
    if len(data) < _PREFIX.size:
        return None
    magic, version, header_bytes, checksum = _PREFIX.unpack_from(data)
    start = _PREFIX.size + header_bytes + -header_bytes % 8
    fits = header_bytes <= longest_header and start <= len(data)
    if magic != MAGIC or version != VERSION or not fits:
        return None
    if xxhash.xxh3_64_intdigest(data[_PREFIX.size :]) != checksum:
        return None
    return bytes(data[_PREFIX.size : _PREFIX.size + header_bytes]), start


def decode(data: bytes | memoryview) -> tuple[dict[str, Any], dict[str, Array]]:
    """Decode a frame; the arrays are read-only views of its bytes.

    Raises
    ------
    ProtocolError
        Cut, damaged, of another version, or claiming more or less than it holds.
    """
    view = memoryview(data)
    if len(view) < _PREFIX.size:
        raise ProtocolError(f"a frame of {len(view)} bytes found, {_PREFIX.size} at least expected")
    magic, version, header_bytes, checksum = _PREFIX.unpack(view[: _PREFIX.size])
    if magic != MAGIC or version != VERSION:
        raise ProtocolError(
            f"a frame with {magic!r}, version {version} found, {MAGIC!r}, {VERSION} expected"
        )
    body = view[_PREFIX.size :]
    if header_bytes > min(_LARGEST_HEADER, len(body)):
        raise ProtocolError(f"a header of {header_bytes:,} bytes in a frame of {len(view):,}")
    if xxhash.xxh3_64_intdigest(body) != checksum:
        raise ProtocolError(f"a frame of {len(view):,} bytes does not have its checksum")
    header = _header(bytes(body[:header_bytes]))
    described = header.pop("arrays", None)
    return header, _arrays(described, body[header_bytes + -header_bytes % 8 :])


def _header(text: bytes) -> dict[str, Any]:
    try:
        header = _DECODER.decode(text.decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the header is not JSON ({type(error).__name__})") from None
    if not isinstance(header, dict):
        raise ProtocolError("the header is not a JSON object")
    return header


def _arrays(described: Any, data: memoryview) -> dict[str, Array]:
    if not isinstance(described, list) or len(described) > _MOST_ARRAYS:
        raise ProtocolError(f"the header describes no list of at most {_MOST_ARRAYS} arrays")
    arrays: dict[str, Array] = {}
    position = 0
    for entry in described:
        name, dtype, shape = _described(entry)
        # Python's integers do not overflow, so a huge claimed shape stays huge.
        count = 1
        for length in shape:
            count *= length
        size = count * dtype.itemsize
        if size > len(data) - position:
            raise ProtocolError(
                f"array {name!r} of shape {shape} claimed, {len(data) - position:,} bytes are here"
            )
        array = np.frombuffer(data, dtype, count, position).reshape(shape)
        # Network buffers start at any address; compiled code needs aligned arrays.
        arrays[name] = array if array.flags.aligned else array.copy()
        position += size + -size % 8
    if position != len(data):
        raise ProtocolError(f"{position:,} bytes of arrays described, {len(data):,} found")
    return arrays


def _described(entry: Any) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
    """Return an array's name, type and shape from its header entry."""
    try:
        name, code, lengths = entry
        dtype = _TYPES[code]
        if not (isinstance(name, str) and isinstance(lengths, list) and 1 <= len(lengths) <= 2):
            raise ValueError
        if not all(type(length) is int and 0 <= length < 1 << 32 for length in lengths):
            raise ValueError
    except (TypeError, ValueError, KeyError):
        raise ProtocolError("an array is not described as name, type and shape") from None
    return str(name), dtype, tuple(lengths)
