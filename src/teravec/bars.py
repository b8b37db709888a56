"""Progress bars with rate and remaining time: on a terminal, in a notebook, or as plain lines."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

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

from teravec.thread_times import ThreadTimes

__all__ = ["Bars", "StageTime", "counted"]

log = logging.getLogger(__name__)

_WIDTH = 40  # characters of a notebook's bar
_REFRESH_S = 0.2


@dataclass(frozen=True)
class StageTime:
    """The time that one stage took.

    Parameters
    ----------
    name : str
    seconds : float
    cpu_seconds : float
        Processor time of this process, all threads together, without workers of a cluster.
    busiest_thread_seconds : float
        Processor time of the thread that had most, without work that any thread may take: however
        many the processors, the stage takes at least this long. 0 where the system does not tell.
    amount : int
        Work done, in ``unit``.
    unit : str
    """

    name: str
    seconds: float
    cpu_seconds: float
    busiest_thread_seconds: float
    amount: int
    unit: str


def counted(count: float, plural: str) -> str:
    """Format a count with its noun: "1 query", "1,000 queries"."""
    if count != 1:
        return f"{count:,} {plural}"
    if plural.endswith("ies"):
        return f"1 {plural.removesuffix('ies')}y"
    return f"1 {plural.removesuffix('s')}"


def _format_amount(count: float, unit: str) -> str:
    return decimal(int(count)) if unit == "bytes" else counted(round(count), unit)


def _format_rate(count: float, unit: str) -> str:
    """Format a rate; a slow stage gets a decimal, since its whole part hardly changes."""
    slow = unit != "bytes" and count < 10
    return f"{count:.1f} {unit}/s" if slow else f"{_format_amount(count, unit)}/s"


def _format_done(done: float, total: float, unit: str, speed: float) -> str:
    if not total:  # the length of a stream is unknown
        return f"{_format_amount(done, unit)}  {_format_rate(speed, unit)}"
    shown = decimal(int(done)) if unit == "bytes" else f"{done:,.0f}"
    return f"{shown}/{_format_amount(total, unit)}  {_format_rate(speed, unit)}"


class _Amount(ProgressColumn):
    """The column of a bar with amount done, total and rate."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed or 0
        return Text(_format_done(task.completed, task.total or 0, task.fields["unit"], speed))


class _StageBar:
    """Counts the amount done, and passes each step to ``show``; ``look`` is called after it."""

    def __init__(self, show: Callable[[int], None]) -> None:
        self._show = show
        self.look: Callable[[], None] | None = None
        self.done = 0

    def advance(self, amount: int) -> None:
        """Count ``amount`` more units as done."""
        self.done += amount
        self._show(amount)
        if self.look is not None:
            self.look()


class _Handle(Protocol):
    """An output cell that can be replaced, as IPython's ``display`` returns it."""

    def update(self, content: dict[str, str], *, raw: bool) -> None: ...


class _NotebookBar:
    """A bar in a notebook's output: one line of text, replaced a few times a second.

    It needs only the IPython that runs the notebook; rich's own bar needs ipywidgets.
    """

    def __init__(self, handle: _Handle, name: str, total: int, unit: str) -> None:
        self._handle, self._name, self._total, self._unit = handle, name, total, unit
        self._done, self._started, self._shown = 0, time.monotonic(), 0.0

    def show(self, amount: int) -> None:
        """Add ``amount``; redraw if the last drawing is old enough."""
        self._done += amount
        if time.monotonic() - self._shown >= _REFRESH_S:
            self.draw()

    def draw(self) -> None:
        """Draw the bar now."""
        self._shown = time.monotonic()
        seconds = max(self._shown - self._started, 1e-9)
        share = min(1.0, self._done / self._total) if self._total else 1.0
        bar = "█" * round(_WIDTH * share) + "░" * (_WIDTH - round(_WIDTH * share))
        amounts = _format_done(self._done, self._total, self._unit, self._done / seconds)
        left = f", {seconds * (1 - share) / share:,.0f} s left" if 0 < share < 1 else ""
        line = f"{self._name:<12} {bar} {amounts}  {seconds:,.1f} s{left}"
        self._handle.update({"text/plain": line}, raw=True)


class Bars:
    """Draws a bar for each stage on a terminal and in a notebook; elsewhere prints a line after it.

    The output goes to standard error, or in a notebook to the cell.

    Parameters
    ----------
    quiet : bool
        Show nothing, and only record the times.

    Attributes
    ----------
    stages : list of StageTime
        Times of the finished stages, in order.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self.stages: list[StageTime] = []
        self.console = Console(stderr=True, highlight=False)

    def summary(self) -> list[dict[str, Any]]:
        """Return the finished stages, ready for JSON."""
        return [
            {
                **asdict(stage),
                "seconds": round(stage.seconds, 3),
                "cpu_seconds": round(stage.cpu_seconds, 3),
                "busiest_thread_seconds": round(stage.busiest_thread_seconds, 3),
            }
            for stage in self.stages
        ]

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[_StageBar]:
        """Show a stage while the body runs; the part of its name after a comma is not recorded."""
        started, cpu_started = time.monotonic(), time.process_time()
        with self._shown(name, total, unit) as bar, ThreadTimes() as threads:
            bar.look = threads.look
            yield bar
        seconds = time.monotonic() - started
        cpu_seconds = time.process_time() - cpu_started
        plain, busiest = name.partition(",")[0], threads.busiest_seconds
        log.info(
            "%s: %.1f s, %.1f processor seconds, of which the busiest thread %.1f",
            *(plain, seconds, cpu_seconds, busiest),
        )
        self.stages.append(StageTime(plain, seconds, cpu_seconds, busiest, bar.done, unit))

    @contextmanager
    def _shown(self, name: str, total: int, unit: str) -> Iterator[_StageBar]:
        if self._quiet:
            yield _StageBar(lambda _: None)
        elif (display := _find_notebook_display()) is not None:
            handle = display({"text/plain": name}, raw=True, display_id=True)
            drawn = _NotebookBar(handle, name, total, unit)
            try:
                yield _StageBar(drawn.show)
            finally:
                drawn.draw()
        elif self.console.is_terminal:
            with _make_rich_progress(self.console) as progress:
                task = progress.add_task(name, total=total, unit=unit)
                yield _StageBar(lambda amount: progress.advance(task, amount))
        else:
            started = time.monotonic()
            bar = _StageBar(lambda _: None)
            yield bar
            seconds = max(time.monotonic() - started, 1e-9)
            rate = _format_rate(bar.done / seconds, unit)
            print(
                f"{name}: {_format_amount(bar.done, unit)} in {seconds:.1f} s, {rate}",
                file=sys.stderr,
            )


def _make_rich_progress(console: Console) -> RichProgress:
    return RichProgress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        _Amount(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


def _find_notebook_display() -> Any:
    """Return IPython's ``display`` if this process is a notebook's kernel, else None."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    return display
