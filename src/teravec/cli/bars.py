"""Progress bars with rate and time left, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

__all__ = ["Bars"]


def _amount(count: float, unit: str) -> str:
    return decimal(int(count)) if unit == "bytes" else f"{count:,.0f} {unit}"


class _Amount(ProgressColumn):
    """Done, of how much, and how fast."""

    def render(self, task: Task) -> Text:
        unit = task.fields["unit"]
        speed = task.finished_speed or task.speed or 0
        total = _amount(task.total or 0, unit)
        done = decimal(int(task.completed)) if unit == "bytes" else f"{task.completed:,.0f}"
        return Text(f"{done}/{total}  {_amount(speed, unit)}/s")


class _StageBar:
    def __init__(self, progress: RichProgress, name: str, total: int, unit: str) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=total, unit=unit)
        self.done = 0

    def advance(self, amount: int) -> None:
        """Count ``amount`` more units as done."""
        self.done += amount
        self._progress.advance(self._task, amount)


class Bars:
    """Draws a bar for each stage on a terminal; elsewhere prints a line when a stage ends.

    Parameters
    ----------
    quiet : bool
        Show nothing at all.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self.console = Console(stderr=True, highlight=False)

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[_StageBar]:
        """Show a stage while the body runs."""
        columns = (
            TextColumn("{task.description:<12}"), BarColumn(), _Amount(),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        terminal = self.console.is_terminal
        progress = RichProgress(*columns, console=self.console, disable=self._quiet or not terminal)
        started = time.monotonic()
        with progress:
            bar = _StageBar(progress, name, total, unit)
            yield bar
        if not self._quiet and not terminal:
            seconds = max(time.monotonic() - started, 1e-9)
            rate = _amount(bar.done / seconds, unit)
            print(f"{name}: {_amount(bar.done, unit)} in {seconds:.1f} s, {rate}/s",
                  file=sys.stderr)  # fmt: skip
