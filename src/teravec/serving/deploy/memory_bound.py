"""The most memory that a server takes, computed from its options."""

from __future__ import annotations

import math

from teravec.memory import MIB
from teravec.serving.wire.limits import Limits

__all__ = ["memory_bound", "memory_line"]

_INTERPRETER_BYTES = 300 * MIB
_JSON_TIMES = 8  # memory per byte of a body of numbers while it is parsed
_CONNECTION_BYTES = 32 << 10  # a connection with an incomplete frame or header
_CONNECTIONS = 4096
_SMALL_BYTES = 16 << 10  # a call up to this size is never refused for its bytes
# A piece of an answer: a million results within a radius, as servers send them, joined and sorted.
_PIECE_BYTES = 96 * MIB
# Results within a radius count as waiting bytes only when all are known: 12 bytes each until then,
# and 20 more while those of one query are sorted. One such answer grows large at a time.
_RADIUS_TIMES = 32 / 12


def memory_bound(
    limits: Limits, memory_bytes: int, *, batches: int = 1, http: bool = True
) -> dict[str, int]:
    """Return the most bytes of each part of a server; their sum bounds the whole.

    Parameters
    ----------
    limits : Limits
    memory_bytes : int
        Limit of the index and its searches, ``--memory``.
    batches : int
        Batches searched at a time.
    http : bool
        Whether there is an HTTP port.
    """
    parts = {
        "--memory": memory_bytes,
        "interpreter and libraries": _INTERPRETER_BYTES,
        # A lone request may exceed the budget of all together. Its frame shares its memory.
        "requests and answers (--max-waiting)": max(
            limits.queue_bytes, limits.request_bytes + limits.answer_bytes
        ),
        "an answer within a radius (--max-answer)": _whole(_RADIUS_TIMES * limits.answer_bytes),
        # A small batch may run beside the large ones.
        "pieces of answers being made": (batches + 1) * _PIECE_BYTES,
        "Flight's connections and small requests": _CONNECTIONS * _CONNECTION_BYTES
        + 4 * limits.queue * _SMALL_BYTES,
    }
    if http:
        parts["HTTP"] = _JSON_TIMES * limits.json_bytes + (_CONNECTIONS * _CONNECTION_BYTES)
    return parts


def _whole(size: float) -> int:
    """Round up to whole MiB."""
    return math.ceil(size / MIB) * MIB


def memory_line(parts: dict[str, int]) -> str:
    """Format the parts and their sum for people."""
    items = ", ".join(f"{name} {size / MIB:,.0f}" for name, size in parts.items())
    return f"memory at most {sum(parts.values()) / MIB:,.0f} MiB: {items}"
