"""Holding Faiss to its plain kernels, which round alike on every processor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import faiss

__all__ = ["plain_faiss"]

_held = RLock()


@contextmanager
def plain_faiss() -> Iterator[None]:
    """Keep Faiss from choosing kernels by the processor's instruction set while the body runs.

    The choice is the whole process's: one body runs at a time, and searches beside it that use
    Faiss round as the plain kernels do. Codes of RaBitQ and a graph take as long by these, or up to
    twice as long.
    """
    kernels = faiss.SIMDConfig
    with _held:
        before = kernels.get_level()
        kernels.set_level(faiss.SIMDLevel_NONE)
        try:
            yield
        finally:
            kernels.set_level(before)
