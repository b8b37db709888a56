"""When a call is overdue, and whether one more may be asked twice."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HedgeBudget", "Usual"]

# Jacobson's estimate of when an answer is overdue, as in TCP (RFC 6298): the smoothed time
# plus four times its smoothed deviation.
_SMOOTH, _SMOOTH_DEVIATION, _DEVIATIONS = 1 / 8, 1 / 4, 4.0
_SLOW_LEAST_S = 0.01
# Hedges may add at most this share of the calls (Dean and Barroso, The Tail at Scale, 2013),
# beyond a few at once: where everything is slow, asking twice makes it slower.
_HEDGE_SHARE, _HEDGE_BURST = 0.1, 20.0


@dataclass
class _Expected:
    """Smoothed seconds, and their deviation, of calls of about the same size."""

    mean_s: float
    deviation_s: float

    def learn(self, seconds: float) -> None:
        error = seconds - self.mean_s
        self.deviation_s += (abs(error) - self.deviation_s) * _SMOOTH_DEVIATION
        self.mean_s += error * _SMOOTH


class Usual:
    """How long calls usually take, by bytes to scan.

    Parameters
    ----------
    least_s, most_s, unknown_s : float
        Bounds of ``overdue_after_s``, and its value where nothing was learnt.
    """

    def __init__(self, least_s: float = 0.02, most_s: float = 2.0, unknown_s: float = 0.25) -> None:
        self._least_s, self._most_s, self._unknown_s = least_s, most_s, unknown_s
        self._expected: dict[int, _Expected] = {}

    def learn(self, size: int, seconds: float, *, slow: bool = False) -> None:
        """A call took ``seconds``; a slow server teaches only where nothing is known."""
        expected = self._expected.get(_size_class(size))
        if expected is None:
            self._expected[_size_class(size)] = _Expected(seconds, seconds / 2)
        elif not slow:
            expected.learn(seconds)

    def ratio(self, size: int, seconds: float) -> float | None:
        """How many times longer than usual; differences of a few milliseconds are none.

        None where nothing was learnt.
        """
        expected = self._expected.get(_size_class(size))
        if expected is None:
            return None
        return min(100.0, seconds / max(_SLOW_LEAST_S, expected.mean_s))

    def overdue_after_s(self, size: int) -> float:
        """Seconds after which a call of this size is overdue."""
        expected = self._expected.get(_size_class(size))
        if expected is None:
            return self._unknown_s
        overdue = expected.mean_s + _DEVIATIONS * expected.deviation_s
        return min(self._most_s, max(self._least_s, 2 * overdue))


class HedgeBudget:
    """How many calls may be asked twice: a few at once, and a tenth of all in the long run."""

    def __init__(self) -> None:
        self._left = _HEDGE_BURST

    def started(self, *, hedge: bool) -> None:
        """A call begins."""
        self._left = min(_HEDGE_BURST, self._left + _HEDGE_SHARE) - hedge

    @property
    def may_hedge(self) -> bool:
        """Whether one more call may be asked twice."""
        return self._left >= 1.0


def _size_class(size: int) -> int:
    """Calls within a factor of four are compared."""
    return max(0, size.bit_length() - 14) // 2
