"""Ids that are texts: the 63-bit numbers that stand for them in files.

The number is half of a BLAKE2b digest of the text's bytes; nobody can find two texts of one number
on purpose. By chance, a billion texts have two of one number with a probability of 5 %. The other
half of the digest therefore tells, before a row replaces or deletes another, whether their texts
are the same.
"""

from __future__ import annotations

import uuid
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from teravec.errors import InvalidArgument

__all__ = ["TextDigests", "as_texts", "digest_texts", "is_text_id"]

Int64 = npt.NDArray[np.int64]

_UUID_BYTES = 16
_MOST = (1 << 63) - 1


class TextDigests(NamedTuple):
    """Digests of some texts.

    Attributes
    ----------
    ids, checks : ndarray of shape (n,), int64
        The number that stands for each text, 0 or more, or -1 for a null; and the other half.
    """

    ids: Int64
    checks: Int64

    def sorted(self) -> TextDigests:
        """Return the same digests by ascending ids, each id once."""
        ids, first = np.unique(self.ids, return_index=True)
        return TextDigests(ids, self.checks[first])


def is_text_id(kind: Any) -> bool:
    """Whether a column of this Arrow type holds ids that are texts, or UUIDs of 16 bytes."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return is_text_id(kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return is_text_id(kind.value_type)
    is_uuid = types.is_fixed_size_binary(kind) and kind.byte_width == _UUID_BYTES
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or is_uuid
    )


def digest_texts(array: Any) -> TextDigests:
    """Digest an array of texts, or of UUIDs of 16 bytes."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not pa.types.is_fixed_size_binary(array.type):
        array = array.cast(pa.large_binary())
    values = array.to_pylist()
    data = b"".join(blake2b(value or b"", digest_size=16).digest() for value in values)
    halves = np.frombuffer(data, "<i8").reshape(-1, 2).astype(np.int64)
    ids = halves[:, 0] & _MOST
    if array.null_count:
        ids[array.is_null().to_numpy(zero_copy_only=False)] = -1
    return TextDigests(ids, halves[:, 1])


def as_texts(ids: Any, kind: Any) -> Any:
    """Return a user's ids as an Arrow array of an index's type of ids.

    Raises
    ------
    InvalidArgument
        They are no texts, or no UUIDs.
    """
    if isinstance(ids, str | bytes | uuid.UUID):
        ids = [ids]
    try:
        if pa.types.is_fixed_size_binary(kind):
            return pa.array([_uuid_bytes(each) for each in ids], kind)
        if isinstance(ids, pa.ChunkedArray):
            ids = ids.combine_chunks()
        array = ids if isinstance(ids, pa.Array) else pa.array(list(ids), pa.string())
        return array.cast(kind)
    except (pa.ArrowException, TypeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise InvalidArgument(f"the index's ids are texts, others found: {why}") from error


def _uuid_bytes(value: Any) -> bytes:
    value = value.as_py() if isinstance(value, pa.Scalar) else value
    if isinstance(value, uuid.UUID):
        return value.bytes
    return bytes(value) if isinstance(value, bytes) else uuid.UUID(str(value)).bytes
