"""What every command has in common."""

from __future__ import annotations

import io
import sys

import pytest

from teravec.cli.running import print_json, write_whole


class Pipe(io.RawIOBase):
    """Takes a hundred bytes at a time, as a full pipe may."""

    def __init__(self) -> None:
        self.taken = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.taken += bytes(data[:100])
        return min(100, len(data))


def test_unbuffered_output_is_written_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, numbers = Pipe(), list(range(2000))
    unbuffered = io.TextIOWrapper(pipe, encoding="utf-8", write_through=True)  # type: ignore[type-var]
    monkeypatch.setattr(sys, "stdout", unbuffered)
    write_whole()
    print_json(numbers)
    print("end")
    sys.stdout.flush()
    found = pipe.taken.decode()
    assert found.split() == ["[", *(f"{n}," for n in numbers[:-1]), "1999", "]", "end"]


def test_buffered_output_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    buffered = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", buffered)
    write_whole()
    assert sys.stdout is buffered
