"""Running a command: one line for an error, the right exit code, a kind word for Ctrl-C."""

from __future__ import annotations

import functools
import io
import json
import resource
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import typer

from teravec.errors import InvalidArgument, TeravecError

__all__ = [
    "command",
    "parse_decimals",
    "parse_numbers",
    "peak_rss_bytes",
    "print_json",
    "write_whole",
]

F = TypeVar("F", bound=Callable[..., None])

_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def command(app: typer.Typer, name: str) -> Callable[[F], F]:
    """Register a function as a command that reports errors in one line."""

    def register(function: F) -> F:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                function(*args, **kwargs)
            except TeravecError as error:
                message = " ".join(str(error).split())
                print(f"teravec: {message}", file=sys.stderr)
                raise typer.Exit(error.exit_code) from None
            except OSError as error:  # of a look at a path that we may not see
                why = "no permission" if isinstance(error, PermissionError) else error.strerror
                print(f"teravec: {error.filename}: {why}", file=sys.stderr)
                raise typer.Exit(2) from None
            except MemoryError:
                print("teravec: out of memory; lower --memory or --threads", file=sys.stderr)
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


def write_whole() -> None:
    """Make standard output write all of what is printed, where Python is told not to buffer it.

    With PYTHONUNBUFFERED, as is usual in containers, one call hands a text to the system, and what
    a pipe does not take at once, 64 KiB are usual, may be lost without an error.
    """
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
