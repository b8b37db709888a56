"""What `teravec` exports: all of it is there and explained, and nothing public is left out."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator
from typing import Any

import pytest

import teravec

# Of constructors that only teravec calls; a bar, whose type is the protocol.
# Of stores, which users only hand on.
INSIDE = {
    *("ServerPeer", "IndexCaches", "OpenedIndex", "StorePath", "TrainPlan", "_StageBar"),
    *("OpenFile", "ReadFiles", "Reader", "Sealed", "Writer"),
}


def types_in(hint: Any) -> Iterator[type]:
    """The classes of this package in a type hint, those inside of others too."""
    if isinstance(hint, type) and hint.__module__.startswith("teravec."):
        yield hint
    for part in typing.get_args(hint):
        yield from types_in(part)


def hints(name: str) -> Iterator[Any]:
    """Type hints of a function, of a class's public methods and properties, and of its fields."""
    found = getattr(teravec, name)
    if not isinstance(found, type):
        yield from typing.get_type_hints(found).values()
        return
    if dataclasses.is_dataclass(found):
        yield from typing.get_type_hints(found).values()
    for member in (getattr(found, key) for key in vars(found) if key[0] != "_"):
        function = member.fget if isinstance(member, property) else member
        if inspect.isfunction(function) or inspect.ismethod(function):
            yield from typing.get_type_hints(function).values()


@pytest.mark.parametrize("name", teravec.__all__)
def test_what_is_exported_is_there_and_explained(name: str) -> None:
    found = getattr(teravec, name)
    assert found.__doc__
    assert len(inspect.getdoc(found) or "") > 10


@pytest.mark.parametrize("name", teravec.__all__)
def test_types_of_what_is_exported_are_exported(name: str) -> None:
    used = {kind.__name__ for hint in hints(name) for kind in types_in(hint)}
    assert used - set(teravec.__all__) - INSIDE == set()


def test_the_list_of_exports_is_sorted_and_whole() -> None:
    names = teravec.__all__
    assert names == sorted(set(names))
    public = {
        name
        for name, value in vars(teravec).items()
        if name[0] != "_" and not inspect.ismodule(value)
    }
    later = {"Bars", "StageTime"}  # imported when they are asked for
    assert all(inspect.isclass(getattr(teravec, name)) for name in later)
    assert public | later == set(names)


def test_types_are_looked_for_inside_of_others() -> None:
    hint = dict[str, list[teravec.Manifest | None]]
    assert list(types_in(hint)) == [teravec.Manifest]
    assert teravec.Calibration in {t for hint in hints("calibrate") for t in types_in(hint)}
    assert teravec.Segment in {t for hint in hints("Manifest") for t in types_in(hint)}
    assert teravec.Effort in {t for hint in hints("Index") for t in types_in(hint)}
