"""Running a command: one line for an error, the right exit code, a kind word for Ctrl-C."""

from __future__ import annotations

import codecs
import errno
import functools
import io
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import typer

from teravec.errors import InvalidArgument, TeravecError

__all__ = [
    "as_typed",
    "command",
    "parse_decimals",
    "parse_numbers",
    "peak_rss_bytes",
    "print_json",
    "write_whole",
]

F = TypeVar("F", bound=Callable[..., None])

_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_NO_READER = 141  # 128 + SIGPIPE, likewise


def command(app: typer.Typer, name: str) -> Callable[[F], F]:
    """Register a function as a command that reports errors in one line."""

    def register(function: F) -> F:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                function(*args, **kwargs)
                if sys.stdout is not None:
                    sys.stdout.flush()  # here, where an error is still ours to tell
            except TeravecError as error:
                message = " ".join(str(error).split())
                print(f"teravec: {as_typed(message)}", file=sys.stderr)
                raise typer.Exit(error.exit_code) from None
            except BrokenPipeError:  # who read our output has had enough, as head does
                _give_up_output()
                raise typer.Exit(_NO_READER) from None
            except OSError as error:  # of a look at a path that we may not see, or of the output
                print(f"teravec: {as_typed(_refusal(error))}", file=sys.stderr)
                raise typer.Exit(2) from None
            except MemoryError:
                print("teravec: out of memory; lower --memory or --threads", file=sys.stderr)
                raise typer.Exit(2) from None
            except RuntimeError as error:
                if "start new thread" not in str(error):
                    raise
                print("teravec: the system gives no more threads; lower --threads", file=sys.stderr)
                raise typer.Exit(2) from None
            except KeyboardInterrupt:
                print(
                    "teravec: interrupted; what is sealed stays, run the same again to continue",
                    file=sys.stderr,
                )
                raise typer.Exit(_INTERRUPTED) from None

        app.command(name)(run)
        return function

    return register


def _refusal(error: OSError) -> str:
    """What the system refused: by path, where it is one's; or standard output."""
    why = "no space left on the disk" if error.errno == errno.ENOSPC else error.strerror
    if error.filename is not None:
        why = "no permission" if isinstance(error, PermissionError) else error.strerror
        return f"{error.filename}: {why}"
    if _was_printing(error):
        _give_up_output()
        return f"standard output: cannot write: {why}"
    return f"the system refused a call: {why or error}"


def as_typed(message: str) -> str:
    """A message with paths below the working directory as they were typed."""
    try:
        here = f"{Path.cwd()}/"
    except OSError:
        return message
    if here == "//" or any(here in word for word in sys.argv):
        return message
    return message.replace(here, "")


def _was_printing(error: OSError) -> bool:
    """Whether the call that failed was one that prints: of this package's commands, or of rich."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    where = "" if traceback is None else str(traceback.tb_frame.f_globals.get("__name__"))
    return where.startswith(("teravec.cli.", "rich."))


def _give_up_output() -> None:
    """Let what is still buffered go nowhere, or Python's end would try, and complain, again.

    References
    ----------
    Python's documentation of ``signal``, "Note on SIGPIPE".
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _bytes_or_mark(error: UnicodeError) -> tuple[bytes, int]:
    """Bytes of a file name as they are; a question mark for what else cannot be encoded."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = (ord(c) for c in error.object[error.start : error.end])
    return b"".join(
        bytes([c - 0xDC00]) if 0xDC80 <= c <= 0xDCFF else b"?" for c in found
    ), error.end


def write_whole() -> None:
    """Make standard output write all of what is printed.

    Where Python is told not to buffer it, with PYTHONUNBUFFERED as is usual in containers, one
    call hands a text to the system, and what a pipe does not take at once, 64 KiB are usual, may
    be lost without an error. And a locale without some character must not cost the result.
    """
    codecs.register_error("teravec", _bytes_or_mark)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="teravec")
    raw = getattr(sys.stdout, "buffer", None)
    if isinstance(raw, io.RawIOBase):
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding=sys.stdout.encoding, errors=sys.stdout.errors,
            line_buffering=True,
        )  # fmt: skip


def print_json(content: Any) -> None:
    """Print a JSON document on standard output."""
    print(json.dumps(content, indent=2))


def parse_numbers(text: str, what: str) -> list[int]:
    """Whole numbers separated by commas, or InvalidArgument."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InvalidArgument(f"{what} is {text!r}; whole numbers as in 1,4,16 expected") from error


def parse_decimals(text: str, what: str) -> list[float]:
    """Numbers separated by commas, or InvalidArgument."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InvalidArgument(f"{what} is {text!r}; numbers as in 0.8,0.95 expected") from error


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
