"""Sealed JSON: what is read is what was written, or a typed error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from teravec.errors import CorruptFile, ForeignFile, IncompatibleVersion, MissingFile
from teravec.storage.jsonfile import json_checksum, read_json, write_json
from tests.storage.damage import flipped, truncated

HEAD = {"format": "test", "version": 3}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(content=st.dictionaries(st.text(max_size=8), VALUES, max_size=4))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "round.json"
    content = {**content, **HEAD}
    content.pop("checksum", None)
    write_json(path, content)
    assert read_json(path, "test", 3) == content
    sealed = json.loads(path.read_bytes())
    assert next(iter(sealed)) == "checksum"
    assert sealed["checksum"] == json_checksum(content)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    path = tmp_path / "sealed.json"
    write_json(path, {**HEAD, "text": "aé\ud800", "list": [1, -2.5e-7, None], "of": {"x": True}})
    return path


def test_every_flipped_byte_is_found(sealed: Path) -> None:
    for offset in flipped(sealed):
        with pytest.raises(CorruptFile, match=sealed.name):
            pytest.fail(f"byte {offset}: {read_json(sealed, 'test', 3)}")


def test_every_truncation_and_addition_is_found(sealed: Path) -> None:
    for length in truncated(sealed):
        with pytest.raises(CorruptFile, match=sealed.name):
            pytest.fail(f"length {length}: {read_json(sealed, 'test', 3)}")
    whole = sealed.read_bytes()
    for more in (b"\n", b" ", b"\0", b"{}", whole):
        for data in (whole + more, more + whole):
            sealed.write_bytes(data)
            with pytest.raises(CorruptFile):
                read_json(sealed, "test", 3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"1",
        b'"checksum"',
        b"{}",
        b'["checksum"]',
        b'{"checksum": 1}',
        b'{"checksum": NaN, "a": NaN}',
        b'{"a": 1' + b"0" * 5000 + b"}",
        b"[" * 100_000,
        b"\xff\xfe",
    ],
    ids=lambda data: data[:12].decode("latin1"),
)
def test_other_content_is_corrupt(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(CorruptFile):
        read_json(tmp_path / "f", "test", 3)


def test_same_content_in_other_words_is_corrupt(sealed: Path) -> None:
    content = json.loads(sealed.read_bytes())
    sealed.write_text(json.dumps(content))
    with pytest.raises(CorruptFile):
        read_json(sealed, "test", 3)


def test_other_formats_and_versions_are_told_apart(sealed: Path, tmp_path: Path) -> None:
    with pytest.raises(ForeignFile, match="'test', 'other' expected"):
        read_json(sealed, "other", 3)
    with pytest.raises(IncompatibleVersion, match="version 3, version 4 expected"):
        read_json(sealed, "test", 4)
    write_json(sealed, {"no": "format"})
    with pytest.raises(ForeignFile):
        read_json(sealed, "test", 3)
    with pytest.raises(MissingFile):
        read_json(tmp_path / "no", "test", 3)


def test_checksum_is_of_the_canonical_text() -> None:
    assert json_checksum({"a": [1]}) == xxhash.xxh3_64_hexdigest(b'{\n "a": [\n  1\n ]\n}\n')
