"""Every error that teravec raises on purpose.

::

    TeravecError
    |-- InvalidArgument          an option, array or input does not fit        (exit 2)
    |   |-- InvalidFilter        a filter is wrong, or does not fit the columns  (exit 2)
    |   |-- InvalidSource        an input file is unreadable as vectors         (exit 2)
    |   |-- OutputExists         the output holds something else               (exit 2)
    |   |-- MemoryLimitTooSmall  the stage needs more memory than its limit        (exit 2)
    |   `-- LimitExceeded        a request is over a bound of the server         (exit 2)
    |-- StorageError             no space, no permission, or a failed read       (exit 2)
    |-- WorkerLost               a cluster's workers died, or one met a bug       (exit 1)
    |-- AlreadyThere             a file that is created only once exists       (exit 1)
    |-- MissingFile              a file that the manifest names does not exist   (exit 1)
    |-- CorruptFile              a file's bytes are not what was sealed         (exit 1)
    |   |-- ForeignFile          a sound file that belongs to another index     (exit 1)
    |   `-- IncompatibleVersion  a format that this release does not read       (exit 1)
    `-- ServiceError             a server refused or could not answer           (exit 1)
        |-- Busy                 its queue is full, or it is shutting down      (exit 1)
        |-- DeadlineExceeded     the request's deadline passed                  (exit 1)
        |-- Unavailable          no server answers, or no live owner of a list  (exit 1)
        |-- OtherIndex           it serves another version of the index         (exit 1)
        |-- OldVersion           it has no version as new as the one asked for  (exit 1)
        |-- AccessDenied         token or certificate refused                   (exit 1)
        `-- ProtocolError        its message does not follow the protocol       (exit 1)

Every message gives three things: what was found, what was expected, and the file.
"""

from __future__ import annotations

import errno
import operator
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import SupportsIndex

__all__ = [
    "AccessDenied",
    "AlreadyThere",
    "Busy",
    "CorruptFile",
    "DeadlineExceeded",
    "ForeignFile",
    "IncompatibleVersion",
    "InvalidArgument",
    "InvalidFilter",
    "InvalidSource",
    "LimitExceeded",
    "MemoryLimitTooSmall",
    "MissingFile",
    "OldVersion",
    "OtherIndex",
    "OutputExists",
    "ProtocolError",
    "ServiceError",
    "StorageError",
    "TeravecError",
    "Unavailable",
    "WorkerLost",
    "shown",
    "storage_errors",
    "whole_number",
]


class TeravecError(Exception):
    """Base of all errors; the command line exits with ``exit_code``."""

    exit_code = 1


class InvalidArgument(TeravecError, ValueError):
    """An option or array does not fit: wrong shape, dtype, range or combination."""

    exit_code = 2


class InvalidFilter(InvalidArgument):
    """A filter cannot be read, or does not fit the columns of the index."""


class InvalidSource(InvalidArgument):
    """An input file cannot be read as vectors, or holds values that cannot be indexed."""


class OutputExists(InvalidArgument):
    """The output path already holds another index, or a build with other options."""


class MemoryLimitTooSmall(InvalidArgument):
    """A stage cannot do its work within its memory limit."""


class LimitExceeded(InvalidArgument):
    """A request exceeds a bound of the server: size, k, nprobe or results."""


class StorageError(TeravecError, OSError):
    """The operating system refused: no space, no permission, or a failed read or write."""

    exit_code = 2

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "storage error"


class WorkerLost(TeravecError):
    """A task on a cluster failed: its workers died each time, or it met a bug."""


class AlreadyThere(TeravecError):
    """A file that may be created only once exists: another writer was first."""


class MissingFile(TeravecError):
    """A file that a manifest names does not exist."""


class CorruptFile(TeravecError):
    """The bytes of a sealed file have changed since it was written."""


class ForeignFile(CorruptFile):
    """A sound file that belongs to another index, model or build."""


class IncompatibleVersion(CorruptFile):
    """A file has a format version that this release does not read."""


class ServiceError(TeravecError):
    """A server refused a request, could not answer it, or failed."""


class Busy(ServiceError):
    """The server's queue is full, or it is shutting down: try another, or again."""


class DeadlineExceeded(ServiceError):
    """The request's deadline passed before its answer was ready."""


class Unavailable(ServiceError):
    """No server answers at an address, or no live server owns some of the lists."""


class OtherIndex(ServiceError):
    """A server serves another version of the index than the request names."""


class OldVersion(ServiceError):
    """A server has no version of the index as new as the request asks for, and got none in time."""


class AccessDenied(ServiceError):
    """A token or certificate was missing, wrong or expired."""


class ProtocolError(ServiceError):
    """A message breaks the protocol: it is cut off, damaged, or contradicts its own header."""


_WHY = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk reported an input/output error",
}


_LARGEST_WHOLE = 2**63 - 1


def shown(value: object) -> str:
    """Format a value for a message: on one line, at most 80 characters."""
    try:
        line = " ".join(repr(value).split())
    except Exception:  # the repr of a user's object may raise anything
        line = f"a {type(value).__name__}"
    return line if len(line) <= 80 else f"{line[:77]}..."


def whole_number(
    value: SupportsIndex, what: str, least: int | None = None, most: int | None = None
) -> int:
    """Return the value as an int, or raise InvalidArgument.

    Accepts integers of any library, 0-dimensional arrays included. Refuses booleans, strings,
    floats, and numbers that do not fit in 64 bits.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise InvalidArgument(f"{what} is {shown(value)}; a whole number expected") from None
    if least is not None and most is not None and not least <= number <= most:
        raise InvalidArgument(f"{what} is {shown(number)}; {least:,} to {most:,} expected")
    if least is not None and number < least:
        raise InvalidArgument(f"{what} is {shown(number)}; at least {least:,} expected")
    if not -_LARGEST_WHOLE <= number <= _LARGEST_WHOLE:
        raise InvalidArgument(f"{what} is {shown(number)}; less than 2^63 expected")
    return number


@contextmanager
def storage_errors(path: str | os.PathLike[str], action: str) -> Iterator[None]:
    """Turn an ``OSError`` of the body into a typed error that names the file.

    Parameters
    ----------
    path : path-like
        File or directory that the body works on, for the message.
    action : str
        Verb for the message, such as "write".
    """
    try:
        yield
    except TeravecError:
        raise
    except FileNotFoundError as error:
        raise MissingFile(f"{os.fspath(path)}: cannot {action}: no such file") from error
    except OSError as error:
        why = _WHY.get(error.errno or 0, error.strerror or str(error))
        raise StorageError(f"{os.fspath(path)}: cannot {action}: {why}") from error
