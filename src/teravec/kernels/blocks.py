"""Running a function over blocks of rows, on threads."""

from __future__ import annotations

from collections.abc import Callable

from teravec.engines.threads import on_threads

__all__ = ["over_blocks"]


def over_blocks(
    function: Callable[[int, int], None], n: int, *, rows: int, threads: int, even: bool
) -> None:
    """Call ``function(start, stop)`` for blocks of 0..n, on threads if there are several blocks.

    Parameters
    ----------
    rows : int
        Most rows of a block.
    even : bool
        Make blocks smaller if threads would otherwise be idle.
    """
    if n <= (min(rows, 1024) if even else rows):  # a single block needs no thread
        if n:
            function(0, n)
        return
    if even:
        rows = min(rows, max(1024, -(-n // max(1, threads))))
    blocks = [(i, min(i + rows, n)) for i in range(0, n, rows)]
    on_threads(lambda block: function(*block), blocks, threads=threads)
