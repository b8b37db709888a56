"""The reference of the command line, made from its own help."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from teravec.cli.main import app

__all__ = ["describe_commands"]

_KINDS = {int: "INTEGER", float: "NUMBER", Path: "PATH"}


def describe_commands() -> str:
    """Return a page of Markdown: every command with its arguments and options."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    lines = [
        "# Commands",
        "",
        "`teravec COMMAND --help` prints the same. `-v` logs more, `-q` draws no progress.",
        "Exit codes: [errors](../errors.md#exit-codes).",
        "",
    ]
    for name, command in group.commands.items():
        if not command.hidden:
            lines += _command(name, command)
    return "\n".join(lines) + "\n"


def _command(name: str, command: Any) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
    words = " ".join(_usage(one) for one in arguments)
    yield f"## {name}"
    yield ""
    yield f"```\nteravec {name} {words} [OPTIONS]\n```".replace("  ", " ")
    yield ""
    yield (command.help or "").strip()
    yield ""
    rows = [(f"`{_usage(one)}`", one.help, "") for one in arguments]
    rows += [(_names(one), one.help, _default(one)) for one in options]
    if rows:
        yield "| option | what | default |"
        yield "| --- | --- | --- |"
        for row in rows:
            yield "| " + " | ".join(_cell(text) for text in row) + " |"
        yield ""


def _usage(argument: Any) -> str:
    word = argument.metavar or argument.name.upper()
    word = word if argument.nargs == 1 else f"{word.rstrip('.')}..."
    return word if argument.required or word.startswith("[") else f"[{word}]"


def _names(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    if option.is_flag:
        return names
    kind = option.type_descriptor.annotation
    return f"{names} {option.metavar or _KINDS.get(kind, 'TEXT')}"


def _default(option: Any) -> str:
    value = option.default
    if value is None or callable(value) or option.is_flag:
        return ""
    return f"`{value}`"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|").replace("<", "&lt;")
