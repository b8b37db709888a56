"""The reference of the Python package, made from its public names."""

from __future__ import annotations

import inspect
from importlib import import_module

import teravec

__all__ = ["describe_names"]


def describe_names() -> str:
    """Return a page of Markdown that mkdocstrings fills: functions, classes, errors."""
    public = [name for name in teravec.__all__ if not name.startswith("_")]
    functions = [name for name in public if inspect.isfunction(getattr(teravec, name))]
    classes = [name for name in public if inspect.isclass(getattr(teravec, name))]
    errors = [name for name in classes if issubclass(getattr(teravec, name), Exception)]
    others = [name for name in classes if name not in errors]
    parts = [("Functions", functions), ("Classes", others), ("Errors", errors)]
    lines = ["# Python", "", "Everything is imported from `teravec`.", ""]
    for title, names in parts:
        lines += [f"## {title}", ""]
        for name in sorted(names, key=str.lower):
            lines += [f"::: {_place(name)}", ""]
    return "\n".join(lines)


def _place(name: str) -> str:
    """The module and name where a public name is defined."""
    public = getattr(teravec, name)
    module = import_module(public.__module__)
    return f"{module.__name__}.{name}" if hasattr(module, name) else f"teravec.{name}"
