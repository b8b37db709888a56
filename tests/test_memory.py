"""Memory limits: how they are written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teravec.errors import InvalidArgument, MemoryLimitTooSmall
from teravec.memory import MIB, default_memory, parse_bytes, require

UNITS = {
    "": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 1 << 10,
    "Mi": 1 << 20,
    "Gi": 1 << 30,
    "Ti": 1 << 40,
}


@given(
    number=st.integers(0, 4096),
    unit=st.sampled_from(sorted(UNITS)),
    byte=st.sampled_from(["", "B"]),
    space=st.sampled_from(["", " "]),
    case=st.sampled_from([str, str.lower, str.upper]),
)
def test_every_unit(
    number: int, unit: str, byte: str, space: str, case: Callable[[str], str]
) -> None:
    text = case(f"{space}{number}{space}{unit}{byte}{space}")
    assert parse_bytes(text) == number * UNITS[unit]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.5GiB", 3 << 29), ("0.5K", 500), ("2.5", 2), (123, 123), ("4503599627370497", 2**52 + 1)],
)
def test_fractions_and_numbers(text: str | int, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "GiB",
        "-1GiB",
        "1e999",
        "50%",
        "1e",
        "²",
        "1,000",
        "1 PiB",
        "4 G i B",
        "1..5G",
        ".5G",
        "0x10",
        "nan",
    ],
)
def test_anything_else_is_invalid(text: str) -> None:
    with pytest.raises(InvalidArgument, match="not a number of bytes"):
        parse_bytes(text)


def test_absurdly_large_number() -> None:
    assert parse_bytes("9" * 400) == int("9" * 400)


def test_plain_number_is_exact() -> None:
    assert parse_bytes(str(2**53 + 1)) == 2**53 + 1


def test_require() -> None:
    require(5 * MIB, 5 * MIB, "work")
    with pytest.raises(MemoryLimitTooSmall, match="work needs 6 MiB; the memory limit is 5 MiB"):
        require(6 * MIB, 5 * MIB, "work")


def test_default_is_positive_and_at_most_4_gib() -> None:
    assert 0 < default_memory() <= 4 << 30
