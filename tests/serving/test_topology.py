"""Addresses, files of addresses, ranges of lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from teravec.errors import InvalidArgument, MissingFile
from teravec.index.opened import OPEN_END
from teravec.serving.coordinator.topology import Topology, parse_ranges
from teravec.serving.server.served import ServedIndex, ranges_text, slice_ranges


def test_addresses() -> None:
    topology = Topology.parse("a:1, b:2")
    assert [str(entry.address) for entry in topology.entries] == ["a:1", "b:2"]
    assert topology.changed() is None


@pytest.mark.parametrize("text", ["", "a:1,a:1", "a", "a:1,"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument):
        Topology.parse(text)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('{"servers": [{"address": "a:1", "lists": "0:3,5:9"}, {"address": "b:2"}]}')
    topology = Topology.read(path)
    assert topology.entries[0].lists == ((0, 3), (5, 9))
    assert topology.entries[1].lists is None
    assert topology.changed() is None
    path.write_text('{"servers": [{"address": "c:3"}]}')
    changed = topology.changed()
    assert changed is not None
    assert str(changed.entries[0].address) == "c:3"
    with pytest.raises(MissingFile):
        Topology.read(tmp_path / "none.json")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"servers": {}}',
        '{"servers": [1]}',
        '{"servers": []}',
        "[" * 100_000,
        '{"servers": [{"address": "a:1", "lists": "x"}]}',
        '{"servers": [{"address": 5}]}',
        '{"servers": [{"address": "a:1", "lists": 5}]}',
    ],
)
def test_files_that_are_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(InvalidArgument):
        Topology.read(path)


@pytest.mark.parametrize(
    "text", ["", "1", "1:1", "3:2", "0:5,4:6", "-1:4", "a:b", "0:1:2", ":", "0:,5:6"]
)
def test_ranges_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_ranges(text)


def test_slices(index: Path) -> None:
    every = slice_ranges(index, range(6))
    assert every == ((0, OPEN_END),)
    apart = slice_ranges(index, [4, 0, 1])
    assert len(apart) == 2
    assert apart[0][0] == 0
    assert parse_ranges(ranges_text(apart)) == apart
    for wrong in ([6], [-1], [1, 1]):
        with pytest.raises(InvalidArgument, match="the index has 6"):
            slice_ranges(index, wrong)


def test_ranges_of_an_index(index: Path) -> None:
    with pytest.raises(InvalidArgument, match="60"):
        ServedIndex(index, ((0, 61),))
    served = ServedIndex(index, ((3, 5), (9, OPEN_END)))
    assert served.ranges == ((3, 5), (9, 60))
    assert served.owned.sum() == 53
    assert (served.sizes[~served.owned] == 0).all()
    served.close()
