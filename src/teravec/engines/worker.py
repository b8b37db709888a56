"""The code that runs in a worker process of a cluster, and the messages that it sends.

An error travels as the name of its type and its text. The user sees the same error as from the
local engine, and no trace of the transport.
"""

from __future__ import annotations

import logging
import os
import resource
import socket
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from teravec import errors
from teravec.engines.engine import Held, Maker
from teravec.errors import InvalidArgument, MissingFile, StorageError, TeravecError, WorkerLost

__all__ = [
    "Done",
    "Failed",
    "Message",
    "Progressed",
    "ResidentWorker",
    "Worker",
    "WorkerInfo",
    "raise_failure",
]

log = logging.getLogger(__name__)

_REPORT_EVERY_S = 0.2  # more often, a thousand workers would keep the driver busy with bars


@dataclass(frozen=True)
class Message:
    """Base of all messages: each carries the worker's peak memory so far."""

    peak_rss_bytes: int


@dataclass(frozen=True)
class Progressed(Message):
    """The task has done ``amount`` more units."""

    amount: int


@dataclass(frozen=True)
class Done(Message):
    """The task is done. If ``kept``, its result follows as an object of its own."""

    result: Any
    kept: bool = False


@dataclass(frozen=True)
class Failed(Message):
    """The task raised an error: its type, its text and, for our own bugs, its trace."""

    kind: str
    text: str
    trace: str


@dataclass(frozen=True)
class WorkerInfo(Message):
    """A worker's greeting: its host and process."""

    host: str
    pid: int


class Worker:
    """Runs tasks, and keeps the objects that they use until they are released.

    Parameters
    ----------
    directory : str
        The user's working directory: relative paths must mean the same here.
    version : str
        Version of the user's teravec.
    """

    def __init__(self, directory: str, version: str) -> None:
        self._made: dict[int, Any] = {}
        self._directory, self._version = directory, version

    def hello(self) -> WorkerInfo | Failed:
        """Report who this worker is, or why it cannot work."""
        host = socket.gethostname()
        try:
            os.chdir(self._directory)
        except OSError:
            return _refuse(
                f"{host} has no directory {self._directory}; all machines must share one"
            )
        if (found := version("teravec")) != self._version:
            return _refuse(
                f"{host} has teravec {found}, the command {self._version}; the same expected on "
                "all machines"
            )
        return WorkerInfo(_peak(), host, os.getpid())

    def perform(
        self,
        key: int,
        maker: Held[Any],
        work: Callable[..., Any],
        arguments: Sequence[Any],
        keep: bool,
    ) -> Generator[Any, None, None]:
        """Do one task, and yield messages about it.

        Parameters
        ----------
        key : int
            Identifies the object that ``maker`` makes. It is made once, and kept until `release`.
        work : callable
            Receives that object and the arguments. With ``keep`` it returns its result;
            otherwise it is a generator of amounts that ends with the result.
        """
        try:
            if key not in self._made:
                self._made[key] = maker.get().make()
            result = work(self._made[key], *arguments)
            if not keep:
                result = yield from _run_steps(result)
        except Exception as error:
            yield _describe_failure(error)
            return
        yield Done(_peak(), None if keep else result, kept=keep)
        if keep:
            yield result

    def release(self, keys: Sequence[int]) -> None:
        """Drop the objects of these keys."""
        for key in keys:
            self._made.pop(key, None)


class ResidentWorker:
    """Makes one object, keeps it for the life of the process, and calls functions on it.

    Parameters
    ----------
    directory, version : str
        As in ``Worker``.
    """

    def __init__(self, directory: str, version: str) -> None:
        self._worker = Worker(directory, version)
        self._made: Any = None

    def start(self, maker: Maker[Any], report: Callable[[Any], Any]) -> Done | Failed:
        """Make the object, and return its first report."""
        hello = self._worker.hello()
        if isinstance(hello, Failed):
            return hello
        try:
            self._made = maker.make()
        except Exception as error:
            return _describe_failure(error)
        return self.call(report)

    def call(self, work: Callable[[Any], Any]) -> Done | Failed:
        """Call a function on the object."""
        try:
            return Done(_peak(), work(self._made))
        except Exception as error:
            return _describe_failure(error)


def _run_steps(steps: Generator[int, None, Any]) -> Generator[Message, None, Any]:
    """Run the steps; yield progress from time to time, and the rest of it at the end."""
    amount, sent_at_s = 0, time.monotonic()
    while True:
        try:
            amount += next(steps)
        except StopIteration as end:
            yield Progressed(_peak(), amount)
            return end.value
        if time.monotonic() - sent_at_s > _REPORT_EVERY_S:
            yield Progressed(_peak(), amount)
            amount, sent_at_s = 0, time.monotonic()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _refuse(text: str) -> Failed:
    return Failed(_peak(), InvalidArgument.__name__, text, "")


def _describe_failure(error: Exception) -> Failed:
    # The command checked before that the file exists, so this host must lack it.
    if MissingFile in (type(error), type(error.__cause__)):
        text = f"{error} on {socket.gethostname()}; all machines must share it"
        return Failed(_peak(), MissingFile.__name__, text, "")
    if isinstance(error, TeravecError | MemoryError):
        return Failed(_peak(), type(error).__name__, str(error), "")
    if isinstance(error, OSError) and error.filename is not None:  # this host may not open it
        why = "no permission" if isinstance(error, PermissionError) else error.strerror
        return Failed(_peak(), StorageError.__name__, f"{error.filename}: {why}", "")
    return Failed(_peak(), type(error).__name__, str(error), traceback.format_exc())


def raise_failure(failed: Failed, where: str) -> None:
    """Raise a worker's error again, in the user's process.

    Raises
    ------
    TeravecError
        The same type with the same text.
    MemoryError
    WorkerLost
        The error is none of ours, hence a bug; the log has its trace.
    """
    if failed.kind == MemoryError.__name__:
        raise MemoryError(failed.text)
    kind = getattr(errors, failed.kind, None)
    if isinstance(kind, type) and issubclass(kind, TeravecError):
        raise kind(failed.text)
    log.info("in %s:\n%s", where, failed.trace)
    raise WorkerLost(f"a task failed in {where}: {failed.kind}: {failed.text}")
