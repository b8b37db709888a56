"""Constants of a filter: booleans, numbers, strings, dates and moments."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from teravec.errors import InvalidArgument, shown

__all__ = [
    "Literal",
    "Moment",
    "describe_literal",
    "moment_of_date",
    "parse_date",
    "parse_moment",
    "parse_number",
]

_MOMENT = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})(?:[ T](\d{2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?"
    r"\s*(Z|z|UTC|[+-]\d{2}(?::?\d{2})?)?)?"
)
_EPOCH = datetime.date(1970, 1, 1).toordinal()
_NS_A_DAY = 86_400 * 10**9
_MOST_DIGITS = 100
_MOST_EXPONENT = 400  # beyond all of float64; 1e999999999 would be an integer of a gigabyte


@dataclass(frozen=True)
class Moment:
    """A point in time.

    Parameters
    ----------
    ns : int
        Nanoseconds since 1970-01-01 00:00:00.
    zoned : bool
        Whether the text named an offset from UTC; then ``ns`` counts in UTC.
    """

    ns: int
    zoned: bool = False


Literal = bool | int | Decimal | str | datetime.date | Moment


def parse_number(text: str) -> int | Decimal:
    """Return a number's exact value; of an integer of at most 100 digits an int.

    Raises
    ------
    InvalidArgument
    """
    try:
        number = Decimal(text) if len(text) <= _MOST_DIGITS else None
    except InvalidOperation:
        number = None
    if number is None or not number.is_finite() or abs(number.adjusted()) > _MOST_EXPONENT:
        raise InvalidArgument(f"{shown(text)} is no number of at most {_MOST_DIGITS} digits")
    whole = number == number.to_integral_value() and number.adjusted() < _MOST_DIGITS
    return int(number) if whole else number


def parse_date(text: str) -> datetime.date:
    """Return the date of a text as 2024-01-31, or raise InvalidArgument."""
    try:
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            raise ValueError
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(f"{shown(text)} is no date; one as 2024-01-31 expected") from None


def parse_moment(text: str) -> Moment:
    """Return the moment of a text as 2024-01-31 12:00:00.5+02:00, or raise InvalidArgument."""
    match = _MOMENT.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError
        year, month, day, hour, minute, second = (int(g or 0) for g in match.groups()[:6])
        if hour > 23 or minute > 59 or second > 59:
            raise ValueError
        days = datetime.date(year, month, day).toordinal() - _EPOCH
    except ValueError:
        raise InvalidArgument(
            f"{shown(text)} is no timestamp; one as 2024-01-31 12:00:00 expected"
        ) from None
    seconds = hour * 3600 + minute * 60 + second - _offset_s(match[8])
    fraction = int((match[7] or "0").ljust(9, "0"))
    ns = days * _NS_A_DAY + seconds * 10**9 + fraction
    return Moment(ns, zoned=match[8] is not None)


def _offset_s(zone: str | None) -> int:
    if zone is None or zone[0] not in "+-":
        return 0
    digits = zone[1:].replace(":", "")
    seconds = int(digits[:2]) * 3600 + int(digits[2:] or 0) * 60
    return -seconds if zone[0] == "-" else seconds


def moment_of_date(date: datetime.date) -> Moment:
    """Return a date's first moment."""
    return Moment((date.toordinal() - _EPOCH) * _NS_A_DAY)


def describe_literal(value: Literal) -> str:
    """Name a constant and its kind, for messages."""
    if isinstance(value, bool):
        return f"{str(value).lower()} is a boolean"
    if isinstance(value, str):
        return f"{shown(value)} is a string"
    if isinstance(value, Moment):
        return "the constant is a timestamp"
    if isinstance(value, datetime.date):
        return f"{value} is a date"
    return f"{shown_number(value)} is a number"


def shown_number(value: int | Decimal) -> str:
    """Write a number, briefly where it is long."""
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
