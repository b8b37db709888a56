"""Processor time that threads spend on work which any other thread could have taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from teravec.native import extensions

__all__ = ["shared", "shared_ns", "watch"]

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def watch(more: int) -> None:
    """Begin (1) or stop (-1) counting what compiled kernels share."""
    if extensions.pooling is not None:
        extensions.pooling.watch(more)


def shared_ns() -> dict[int, int]:
    """Return nanoseconds that each thread has spent so, by the system's number of the thread."""
    return {} if extensions.pooling is None else extensions.pooling.shared()


def shared(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Return a function whose calls count as shared: one of several that threads take in turn."""

    def call(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        before = None if extensions.pooling is None else extensions.pooling.alone()
        if before is None:  # nobody asks: a search pays nothing for it
            return function(*args, **kwargs)
        try:
            return function(*args, **kwargs)
        finally:
            extensions.pooling.give(before)

    return call
