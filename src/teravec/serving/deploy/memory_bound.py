"""The most memory that a server takes, added up from its options."""

from __future__ import annotations

from teravec.memory import MIB
from teravec.serving.wire.limits import Limits

__all__ = ["memory_bound", "memory_line"]

_INTERPRETER_BYTES = 300 * MIB
_JSON_TIMES = 8  # what a body of numbers takes while it is read, for each of its bytes
_CONNECTION_BYTES = 32 << 10  # a connection's own, and a frame or headers that are not whole
_CONNECTIONS = 4096
_SMALL_BYTES = 16 << 10  # of a call that is never refused for its bytes


def memory_bound(
    limits: Limits, memory_bytes: int, *, batches: int = 1, http: bool = True
) -> dict[str, int]:
    """Bytes by what takes them; their sum is the most that the server takes.

    Parameters
    ----------
    limits : Limits
    memory_bytes : int
        Of the index and its searches: ``--memory``.
    batches : int
        Searched at a time.
    http : bool
        Whether there is an HTTP port.
    """
    parts = {
        "--memory": memory_bytes,
        "interpreter and libraries": _INTERPRETER_BYTES,
        # One request alone may be larger than all are allowed to hold together: its answer is
        # counted twice, as results and as the frame that is made of them.
        "requests and answers (--max-waiting)": max(
            limits.queue_bytes, limits.request_bytes + 2 * limits.answer_bytes
        ),
        # What a batch finds is not counted as its requests' before it is found.
        "answers being made (--max-answer)": batches * limits.answer_bytes,
        "Flight's connections and small requests": _CONNECTIONS * _CONNECTION_BYTES
        + 4 * limits.queue * _SMALL_BYTES,
    }
    if http:
        parts["HTTP"] = _JSON_TIMES * limits.json_bytes + (_CONNECTIONS * _CONNECTION_BYTES)
    return parts


def memory_line(parts: dict[str, int]) -> str:
    """The parts and their sum, for people."""
    items = ", ".join(f"{name} {size / MIB:,.0f}" for name, size in parts.items())
    return f"memory at most {sum(parts.values()) / MIB:,.0f} MiB: {items}"
