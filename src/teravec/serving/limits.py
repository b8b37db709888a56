"""The bounds of a server: what it refuses, and says so, before it takes memory for it."""

from __future__ import annotations

from dataclasses import dataclass

from teravec.errors import LimitExceeded

__all__ = ["Limits"]

_RESULT_BYTES = 12  # a float32 distance and an int64 id


@dataclass(frozen=True)
class Limits:
    """Bounds of one server; a request over one gets an error that names it.

    Parameters
    ----------
    request_bytes : int
        Of one request, as it comes over Flight.
    json_bytes : int
        Of one request over HTTP; its numbers take some ten times as much once read.
    queries, k, nprobe : int
        Of one request.
    pairs : int
        Queries x lists of one request; each takes 12 bytes while it waits, and as much again.
    answer_bytes : int
        Of one answer: queries x k x 12, or what a range search finds.
    queue : int
        Requests waiting or being answered; one more is told 'busy'.
    queue_bytes : int
        Their bytes together; so the memory of waiting requests is bounded.
    timeout_s : float
        The longest deadline that a request may ask for.
    """

    request_bytes: int = 64 << 20
    json_bytes: int = 4 << 20
    queries: int = 16384
    k: int = 10_000
    nprobe: int = 65_536
    pairs: int = 16 << 20
    answer_bytes: int = 256 << 20
    queue: int = 512
    queue_bytes: int = 256 << 20
    timeout_s: float = 600.0

    def check_bytes(self, size: int) -> None:
        """Raise LimitExceeded unless a request of ``size`` bytes is taken."""
        _check("request bytes", size, self.request_bytes)

    def check_queries(self, queries: int, k: int | None) -> None:
        """Raise LimitExceeded unless so many queries with so many results each are taken."""
        _check("queries", queries, self.queries)
        if k is not None:
            _check("k", k, self.k)
            self.check_results(queries * k)

    def check_nprobe(self, queries: int, nprobe: int) -> None:
        """Raise LimitExceeded unless so many queries may visit so many lists each."""
        _check("nprobe", nprobe, self.nprobe)
        _check("queries x nprobe", queries * nprobe, self.pairs)

    def check_results(self, results: int) -> None:
        """Raise LimitExceeded unless an answer may hold so many results."""
        _check("answer bytes", self.result_bytes(results), self.answer_bytes)

    @staticmethod
    def result_bytes(results: int) -> int:
        """Bytes that so many results take."""
        return results * _RESULT_BYTES

    def check_timeout(self, timeout_s: float) -> None:
        """Raise LimitExceeded unless a request may take so long."""
        _check("timeout_s", timeout_s, self.timeout_s)


def _check(what: str, found: float, most: float) -> None:
    if found > most:
        raise LimitExceeded(f"{what}: {found:,} asked for, this server takes at most {most:,}")
