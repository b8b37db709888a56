"""Tests go through public names: no patch of a private name, no reach into a private attribute.

A test that has to patch a private constant has found a missing parameter: give the source one.
See docs/design/0036-seams-for-tests.md.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent

LEFT: set[str] = set()
"""Reaches that are allowed: none."""

_SYSTEM = ("os", "sys", "socket")  # os._exit has no other name
_SETTERS = ("setattr", "delattr", "patch", "getattr", "hasattr")
_FORCED = ("__kwdefaults__", "__defaults__", "__code__", "__setattr__", "__closure__")


def is_private(name: str) -> bool:
    """Whether a name, dotted or not, ends in a part with one underscore before it."""
    last = name.rpartition(".")[2]
    return last.startswith("_") and not last.startswith("__") and len(last) > 1


def _named(node: ast.expr) -> str:
    """Write an expression briefly: calls without their arguments."""
    if isinstance(node, ast.Attribute):
        return f"{_named(node.value)}.{node.attr}"
    if isinstance(node, ast.Call):
        return f"{_named(node.func)}(...)"
    return node.id if isinstance(node, ast.Name) else "..."


def _attribute(node: ast.Attribute) -> Iterator[str]:
    own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", *_SYSTEM)
    own = own or _named(node.value) == "super(...)"
    if node.attr in _FORCED or (is_private(node.attr) and not own):
        yield _named(node)


def _call(node: ast.Call) -> Iterator[str]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else _named(node.func)
    if name not in _SETTERS:
        return
    for argument in node.args[:2]:
        parts = argument.values if isinstance(argument, ast.JoinedStr) else [argument]
        last = parts[-1] if parts else argument
        if (
            isinstance(last, ast.Constant)
            and isinstance(last.value, str)
            and is_private(last.value)
        ):
            yield f"{name} of {last.value.rpartition('.')[2]}"


def reaches(tree: ast.AST) -> set[str]:
    """Find the private names of others that a module reaches for."""
    found = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.update(_attribute(node))
        elif isinstance(node, ast.Call):
            found.update(_call(node))
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(f"import of {name}" for name in names if is_private(name))
        elif isinstance(node, ast.Import):
            found.update(f"import of {a.name}" for a in node.names if is_private(a.name))
    return found


def test_tests_reach_for_public_names_only() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {what}"
        for path in ROOT.rglob("*.py")
        for what in reaches(ast.parse(path.read_text(), str(path)))
    }
    assert found - LEFT == set(), "give the source a parameter or a public name instead"
    assert LEFT - found == set(), "no longer there: take it off the list"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("monkeypatch.setattr(module, '_SIZE', 3)", "setattr of _SIZE"),
        ("patch.setattr('teravec.a.b._SIZE', 3)", "setattr of _SIZE"),
        ("patch.setattr(f'{module}._SIZE', 3)", "setattr of _SIZE"),
        ("patch.delattr(module, '_name')", "delattr of _name"),
        ("x = index._opened.model", "index._opened"),
        ("x = make(1)._held", "make(...)._held"),
        ("x = self.index._opened", "self.index._opened"),
        ("from teravec.a import _name", "import of teravec.a._name"),
        ("import teravec._name", "import of teravec._name"),
        ("object.__setattr__(x, 'lists', 1)", "object.__setattr__"),
        ("f.__kwdefaults__['a'] = 1", "f.__kwdefaults__"),
    ],
)
def test_reaches_are_found(text: str, what: str) -> None:
    assert what in reaches(ast.parse(text))


def test_own_and_public_names_are_fine() -> None:
    text = "self._a = os._exit\nsuper()._b()\nmonkeypatch.setattr(Store, 'read', f)\nx.__name__"
    assert reaches(ast.parse(text)) == set()
