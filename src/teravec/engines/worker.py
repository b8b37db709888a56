"""What a worker process of a cluster does, and the messages in which it tells.

Errors travel as their type's name and their text, so that the user sees the same error as in
process, and no trace of the transport.
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

_TELL_EVERY_S = 0.2  # so that a thousand workers do not keep the driver busy with bars


@dataclass(frozen=True)
class Message:
    """Anything a worker says; with the most memory that it has used so far."""

    peak_rss_bytes: int


@dataclass(frozen=True)
class Progressed(Message):
    """``amount`` more units are done."""

    amount: int


@dataclass(frozen=True)
class Done(Message):
    """The task is done. ``kept``: its result follows, as an object of its own."""

    result: Any
    kept: bool = False


@dataclass(frozen=True)
class Failed(Message):
    """The task raised: the error's type, its text, and for our own bugs where."""

    kind: str
    text: str
    trace: str


@dataclass(frozen=True)
class WorkerInfo(Message):
    """A worker as it starts."""

    host: str
    pid: int


class Worker:
    """Makes what tasks work with, keeps it while it is wanted, and works.

    Parameters
    ----------
    directory : str
        The user's, so that relative paths mean the same here.
    version : str
        Of the user's teravec.
    """

    def __init__(self, directory: str, version: str) -> None:
        self._made: dict[int, Any] = {}
        self._directory, self._version = directory, version

    def hello(self) -> WorkerInfo | Failed:
        """Who this is; or why it is of no use."""
        host = socket.gethostname()
        try:
            os.chdir(self._directory)
        except OSError:
            return _useless(
                f"{host} has no directory {self._directory}; all machines must share one"
            )
        if (found := version("teravec")) != self._version:
            return _useless(
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
        """Do one task, and tell of it.

        Parameters
        ----------
        key : int
            Names what ``maker`` makes; made once, and kept until ``release``.
        work : callable
            Given what was made and the arguments. With ``keep`` it returns its result, else
            it yields amounts first.
        """
        try:
            if key not in self._made:
                self._made[key] = maker.get().make()
            result = work(self._made[key], *arguments)
            if not keep:
                result = yield from _told(result)
        except Exception as error:
            yield _failure(error)
            return
        yield Done(_peak(), None if keep else result, kept=keep)
        if keep:
            yield result

    def release(self, keys: Sequence[int]) -> None:
        """Forget what was made under these keys."""
        for key in keys:
            self._made.pop(key, None)


class ResidentWorker:
    """Makes one thing, keeps it for good, and does what is asked with it.

    Parameters
    ----------
    directory, version : str
        As of ``Worker``.
    """

    def __init__(self, directory: str, version: str) -> None:
        self._worker = Worker(directory, version)
        self._made: Any = None

    def settle(self, maker: Maker[Any], tell: Callable[[Any], Any]) -> Done | Failed:
        """Make it, and tell of it."""
        hello = self._worker.hello()
        if isinstance(hello, Failed):
            return hello
        try:
            self._made = maker.make()
        except Exception as error:
            return _failure(error)
        return self.ask(tell)

    def ask(self, work: Callable[[Any], Any]) -> Done | Failed:
        """Do something with it."""
        try:
            return Done(_peak(), work(self._made))
        except Exception as error:
            return _failure(error)


def _told(steps: Generator[int, None, Any]) -> Generator[Message, None, Any]:
    """Run the steps; tell of progress now and then, and of all of it at the end."""
    amount, told = 0, time.monotonic()
    while True:
        try:
            amount += next(steps)
        except StopIteration as end:
            yield Progressed(_peak(), amount)
            return end.value
        if time.monotonic() - told > _TELL_EVERY_S:
            yield Progressed(_peak(), amount)
            amount, told = 0, time.monotonic()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _useless(text: str) -> Failed:
    return Failed(_peak(), InvalidArgument.__name__, text, "")


def _failure(error: Exception) -> Failed:
    if MissingFile in (type(error), type(error.__cause__)):  # the command has seen it
        text = f"{error} on {socket.gethostname()}; all machines must share it"
        return Failed(_peak(), MissingFile.__name__, text, "")
    if isinstance(error, TeravecError | MemoryError):
        return Failed(_peak(), type(error).__name__, str(error), "")
    if isinstance(error, OSError) and error.filename is not None:  # a path we may not see
        why = "no permission" if isinstance(error, PermissionError) else error.strerror
        return Failed(_peak(), StorageError.__name__, f"{error.filename}: {why}", "")
    return Failed(_peak(), type(error).__name__, str(error), traceback.format_exc())


def raise_failure(failed: Failed, where: str) -> None:
    """Raise in the user's process what a task raised in a worker.

    Raises
    ------
    TeravecError
        The same type with the same text.
    MemoryError
    WorkerLost
        For an error that is not one of ours: a bug; the log has its trace.
    """
    if failed.kind == MemoryError.__name__:
        raise MemoryError(failed.text)
    kind = getattr(errors, failed.kind, None)
    if isinstance(kind, type) and issubclass(kind, TeravecError):
        raise kind(failed.text)
    log.info("in %s:\n%s", where, failed.trace)
    raise WorkerLost(f"a task failed in {where}: {failed.kind}: {failed.text}")
