"""The file of constants: what it refuses, and where it lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from teravec.errors import CorruptFile, ForeignFile, InvalidArgument, MissingFile
from teravec.planning.constants import default_path, read_constants, write_constants
from teravec.storage.user_cache import CACHE_VARIABLE
from tests.planning.test_model import SPEEDS


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"flops": -1}, CorruptFile),
        ({"flops": "fast"}, CorruptFile),
        ({"flops": True}, CorruptFile),
        ({"flops": float("nan")}, CorruptFile),
        ({"more": 1}, CorruptFile),
        ({"format": "x"}, ForeignFile),
        ({"version": 1}, ForeignFile),
        ({"version": 3}, ForeignFile),
    ],
)
def test_odd_content(tmp_path: Path, change: dict[str, Any], error: type[Exception]) -> None:
    path = tmp_path / "c.json"
    write_constants(path, SPEEDS)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(error, match=r"c\.json"):
        read_constants(path)


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '{"a":'])
def test_not_a_json_object(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(CorruptFile):
        read_constants(path)
    with pytest.raises(MissingFile):
        read_constants(tmp_path / "none.json")


def test_default_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "own" / "constants.json"
    monkeypatch.delenv(CACHE_VARIABLE)
    assert default_path() == tmp_path / "teravec" / "constants.json"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_path() == tmp_path / "home/.cache/teravec/constants.json"


def find_nobody(_: int) -> None:
    raise KeyError("no such user")


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (CACHE_VARIABLE, "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", find_nobody)
    with pytest.raises(InvalidArgument, match=f"set {CACHE_VARIABLE} .*--constants"):
        default_path()
