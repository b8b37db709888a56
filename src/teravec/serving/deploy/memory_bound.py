"""The most memory that a server takes, computed from its options."""

from __future__ import annotations

from teravec.memory import MIB
from teravec.serving.wire.limits import Limits

__all__ = ["memory_bound", "memory_line"]

_INTERPRETER_BYTES = 300 * MIB
_JSON_TIMES = 8  # memory per byte of a body of numbers while it is parsed
_CONNECTION_BYTES = 32 << 10  # a connection with an incomplete frame or header
_CONNECTIONS = 4096
_SMALL_BYTES = 16 << 10  # a call up to this size is never refused for its bytes


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
        # A lone request may exceed the budget of all together. Its answer counts twice: as results
        # and as their frame.
        "requests and answers (--max-waiting)": max(
            limits.queue_bytes, limits.request_bytes + 2 * limits.answer_bytes
        ),
        # A batch's results count as its requests' only after the search.
        "answers being made (--max-answer)": batches * limits.answer_bytes,
        "Flight's connections and small requests": _CONNECTIONS * _CONNECTION_BYTES
        + 4 * limits.queue * _SMALL_BYTES,
    }
    if http:
        parts["HTTP"] = _JSON_TIMES * limits.json_bytes + (_CONNECTIONS * _CONNECTION_BYTES)
    return parts


def memory_line(parts: dict[str, int]) -> str:
    """Format the parts and their sum for people."""
    items = ", ".join(f"{name} {size / MIB:,.0f}" for name, size in parts.items())
    return f"memory at most {sum(parts.values()) / MIB:,.0f} MiB: {items}"
