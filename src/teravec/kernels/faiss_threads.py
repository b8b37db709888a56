"""Faiss's thread count, which OpenMP stores separately for each calling thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import faiss

__all__ = ["faiss_threads"]


@contextmanager
def faiss_threads(threads: int) -> Iterator[None]:
    """Run the body's Faiss calls, made from this thread, on ``threads`` threads."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
