"""Fenced blocks of code in a page of Markdown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

__all__ = ["ROOT", "Block", "pages", "read_blocks"]

ROOT = Path(__file__).parents[1]

_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*(?: norun)?)[^\n]*\n(?P<code>.*?)^(?P=indent)```[ ]*$"
    r"|^<!-- run\n(?P<hidden>.*?)^-->$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One block.

    Parameters
    ----------
    language : str
        What follows the fence, with ``norun`` if that is next; ``"hidden"`` for Python in a comment
        that begins with ``run``, which makes what the page speaks of.
    code : str
        Without the indentation of the fence.
    line : int
        Of its first line of code, from 1.
    start, end : int
        Where the code lies in the page's text.
    follows : bool
        Nothing but blank lines lies between the block before and this one.
    """

    language: str
    code: str
    line: int
    start: int
    end: int
    follows: bool


def pages() -> list[Path]:
    """Return all pages that a reader may come to."""
    patterns = ("*.md", "docs/**/*.md", "examples/**/*.md")
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def read_blocks(text: str) -> list[Block]:
    """Find the blocks of a page, in order."""
    blocks, last = [], -1
    for match in _BLOCK.finditer(text):
        hidden = match["hidden"] is not None
        name = "hidden" if hidden else "code"
        follows = last >= 0 and not text[last : match.start()].strip()
        line = text.count("\n", 0, match.start(name)) + 1
        language = name if hidden else match["language"]
        code = dedent(match[name])
        blocks.append(Block(language, code, line, match.start(name), match.end(name), follows))
        last = match.end()
    return blocks
