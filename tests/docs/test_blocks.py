"""Code in pages names commands, options, functions and arguments that exist."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup
from website.blocks import ROOT, Block, pages, read_blocks

import teravec
from teravec.cli.main import app

PAGES = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages()]
COMMAND = re.compile(
    r"^(?:\$ |\S+ \* \* \S+ +)?(?:[A-Z_]+=\S+ )*teravec (?P<words>.*)", re.MULTILINE
)
PLACEHOLDER = re.compile(r"^\[|\.\.\.|^\(|\|$")


def _blocks(page: Path, *languages: str) -> Iterator[Block]:
    return (block for block in read_blocks(page.read_text()) if block.language in languages)


def _words(line: str) -> list[str]:
    """The arguments of one command, without comments and what the shell does with the output."""
    rest = r"""("[^"]*"|'[^']*')|\s(?:#|-- |&&|\||>|2>|&$|;).*"""  # not within quotes
    return shlex.split(re.sub(rest, lambda match: match[1] or "", line + " "))


def _unknown(words: list[str]) -> str | None:
    """Why the command line would not take these words, if it is a matter of names."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    while words and words[0].startswith("-"):
        words = words[1:]
    if not words or words[0] not in group.commands:
        return None if not words or words[0].isupper() else f"no command {words[0]!r}"
    command = group.commands[words[0]]
    known = {
        name for parameter in command.params for name in parameter.opts + parameter.secondary_opts
    }
    known |= {"-h", "--help"}
    given = [word.split("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)]
    strange = [name for name in given if name not in known]
    return f"{words[0]}: no option {', '.join(strange)}" if strange else None


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_exist(page: Path) -> None:
    found = []
    for block in _blocks(page, "", "sh", "console", "bash"):
        for match in COMMAND.finditer(block.code.replace("\\\n", " ")):
            if wrong := _unknown(_words(match["words"])):
                found.append(f"{match[0]}: {wrong}")
    assert not found


def _calls(tree: ast.AST) -> Iterator[tuple[str, list[str]]]:
    """Calls of functions of the package, and the names of their arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id == "teravec":
                yield node.func.attr, [word.arg for word in node.keywords if word.arg]


def _takes(function: Any, name: str) -> bool:
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


@pytest.mark.parametrize("page", PAGES)
def test_python_compiles_and_calls_what_exists(page: Path) -> None:
    found = []
    for block in _blocks(page, "python", "python norun", "hidden"):
        for name, arguments in _calls(ast.parse(block.code)):
            function = getattr(teravec, name, None)
            if function is None:
                found.append(f"line {block.line}: teravec.{name}")
                continue
            found += [
                f"line {block.line}: teravec.{name}({argument}=)"
                for argument in arguments
                if not _takes(function, argument)
            ]
    assert not found
