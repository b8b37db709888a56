"""Running a command: one line for an error, the right exit code, a clean end for Ctrl-C."""

from __future__ import annotations

import codecs
import errno
import functools
import inspect
import io
import json
import logging
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from teravec.arguments import real_number, whole_number
from teravec.cli.place_options import opened_places
from teravec.errors import InvalidArgument, TeravecError, shown
from teravec.storage.standard_streams import discard_output

__all__ = [
    "NO_READER",
    "Verbose",
    "as_typed",
    "command",
    "parse_decimals",
    "parse_numbers",
    "peak_rss_bytes",
    "print_json",
    "reporting",
    "write_whole",
]

F = TypeVar("F", bound=Callable[..., None])

Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log each iteration, shard and slice.")
]

_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
NO_READER = 141  # 128 + SIGPIPE, likewise


def command(app: typer.Typer, name: str) -> Callable[[F], F]:
    """Register a function as a command that reports errors in one line.

    Every command accepts ``-v``, which also works before the command's name.
    """

    def register(function: F) -> F:
        signature = inspect.signature(function, eval_str=True)
        place_options, open_places = opened_places(signature)

        @functools.wraps(function)
        def run(*args: Any, verbose: bool = False, **kwargs: Any) -> None:
            if verbose:
                logging.getLogger("teravec").setLevel(logging.INFO)
            with reporting():
                open_places(kwargs)
                function(*args, **kwargs)
                if sys.stdout is not None:
                    sys.stdout.flush()  # here, where an error can still be reported

        _add_parameters(run, signature, {**place_options, "verbose": Verbose})
        app.command(name)(run)
        return function

    return register


def _add_parameters(
    run: Callable[..., None], signature: inspect.Signature, more: dict[str, Any]
) -> None:
    """Give ``run`` the parameters of the function that it wraps, and some more."""
    added = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if name == "verbose" else None,
            annotation=kind,
        )
        for name, kind in more.items()
    ]
    parameters = [*signature.parameters.values(), *added]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}


@contextmanager
def reporting() -> Iterator[None]:
    """Turn the body's exceptions into one line on standard error and an exit code.

    Raises
    ------
    typer.Exit
    """
    try:
        yield
    except TeravecError as error:
        _tell(as_typed(" ".join(str(error).split())))
        raise typer.Exit(error.exit_code) from None
    except BrokenPipeError:  # the reader closed the pipe, as head does
        discard_output()
        raise typer.Exit(NO_READER) from None
    except OSError as error:  # from a path without permission, or from the output
        _tell(as_typed(_refusal(error)))
        raise typer.Exit(2) from None
    except MemoryError:
        _tell("out of memory; lower --memory or --threads")
        raise typer.Exit(2) from None
    except RuntimeError as error:
        if "start new thread" not in str(error):
            raise
        _tell("the system gives no more threads; lower --threads")
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        _tell("interrupted; sealed files stay, run the same command again to continue")
        raise typer.Exit(_INTERRUPTED) from None


def _tell(message: str) -> None:
    """Print an error if standard error is open; the exit code reports it in any case."""
    with suppress(OSError):
        print(f"teravec: {message}", file=sys.stderr, flush=True)


def _refusal(error: OSError) -> str:
    """Describe an operating system's error, with its path or standard output."""
    why = "no space left on the disk" if error.errno == errno.ENOSPC else error.strerror
    if error.filename is not None:
        why = "no permission" if isinstance(error, PermissionError) else error.strerror
        return f"{error.filename}: {why}"
    if _was_printing(error):
        discard_output()
        return f"standard output: cannot write: {why}"
    return f"the system refused a call: {why or error}"


def as_typed(message: str) -> str:
    """Make a message's paths below the working directory relative, as the user typed them."""
    try:
        here = f"{Path.cwd()}/"
    except OSError:
        return message
    if here == "//" or any(here in word for word in sys.argv):
        return message
    return message.replace(here, "")


def _was_printing(error: OSError) -> bool:
    """Whether the failed call was printing, in this package's commands or in rich."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    where = "" if traceback is None else str(traceback.tb_frame.f_globals.get("__name__"))
    return where.startswith(("teravec.cli.", "rich.", "typer.", "click."))


def _bytes_or_mark(error: UnicodeError) -> tuple[bytes, int]:
    """Encode a file name's raw bytes unchanged, and other unencodable characters as '?'."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = (ord(c) for c in error.object[error.start : error.end])
    return b"".join(
        bytes([c - 0xDC00]) if 0xDC80 <= c <= 0xDCFF else b"?" for c in found
    ), error.end


def write_whole() -> None:
    """Make standard output write everything that is printed.

    With PYTHONUNBUFFERED, as is usual in containers, Python hands a text to the system in one call.
    If a pipe accepts only part of it (often 64 KiB), the rest may be lost without an error. Also,
    a locale that lacks a character must not prevent the output.
    """
    codecs.register_error("teravec", _bytes_or_mark)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="teravec")
    raw = getattr(sys.stdout, "buffer", None)
    if isinstance(raw, io.RawIOBase):
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=sys.stdout.encoding,
            errors=sys.stdout.errors,
            line_buffering=True,
        )


def print_json(content: Any) -> None:
    """Print a JSON document on standard output."""
    print(json.dumps(content, indent=2))


def parse_numbers(text: str, what: str) -> list[int]:
    """Parse whole numbers separated by commas."""
    try:
        return [whole_number(int(part), what) for part in text.split(",")]
    except ValueError as error:
        raise InvalidArgument(
            f"{what} is {shown(text)}; whole numbers as in 1,4,16 expected"
        ) from error


def parse_decimals(text: str, what: str) -> list[float]:
    """Parse finite numbers separated by commas."""
    try:
        return [real_number(float(part), what) for part in text.split(",")]
    except ValueError as error:
        raise InvalidArgument(
            f"{what} is {shown(text)}; numbers as in 0.8,0.95 expected"
        ) from error


def peak_rss_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
