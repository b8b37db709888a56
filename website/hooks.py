"""What the site has beyond docs/: other pages of the repository, and references made from code."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from website.blocks import ROOT
from website.commands import describe_commands
from website.names import describe_names

_PROJECT = "project"
_LINK = re.compile(r"(?<=\]\()(?P<path>[^)#\s]+)(?P<anchor>#[^)]*)?(?=\))")
_PAGES = ("ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/RESULTS.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the code, and what pages of docs/ link to outside of it."""
    made = {"reference/commands.md": describe_commands(), "reference/python.md": describe_names()}
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    docs = sorted((ROOT / "docs").rglob("*.md"))
    for path in _reached([*docs, *(ROOT / page for page in _PAGES)]):
        name = f"{_PROJECT}/{path.relative_to(ROOT)}"
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at where the site has what they name; a folder has no page and becomes text."""
    here = page.file.src_uri
    source = _source(here)
    if source is None:
        return markdown

    def moved(match: re.Match[str]) -> str:
        target = _target(source, match["path"])
        if target is None:
            return match[0]
        return os.path.relpath(_place(target), Path(here).parent) + (match["anchor"] or "")

    markdown = _LINK.sub(moved, markdown)
    return re.sub(r"\[([^\]]*)\]\([^)\s]*/FOLDER\)", r"\1", markdown)


def _reached(pages: list[Path]) -> Iterator[Path]:
    """Yield the files outside docs/ that pages link to, and those pages' own, each once."""
    docs, seen, waiting = ROOT / "docs", set(pages), list(pages)
    while waiting:
        page = waiting.pop(0)
        if not page.is_relative_to(docs):
            yield page
        if page.suffix != ".md":
            continue
        for match in _LINK.finditer(page.read_text()):
            target = _target(page, match["path"])
            if target and target.is_file() and target not in seen and target.is_relative_to(ROOT):
                seen.add(target)
                if not target.is_relative_to(docs) or target.suffix == ".md":
                    waiting.append(target)


def _source(name: str) -> Path | None:
    """The file that a page of the site was made from."""
    project = name.startswith(f"{_PROJECT}/")
    path = ROOT / name.removeprefix(f"{_PROJECT}/") if project else ROOT / "docs" / name
    return path if path.exists() else None


def _target(page: Path, link: str) -> Path | None:
    """What a page links to; None for another site."""
    return None if "://" in link or link.startswith("mailto:") else (page.parent / link).resolve()


def _place(target: Path) -> str:
    """Where the site has a file of the repository."""
    if target.is_dir():
        return f"{_PROJECT}/FOLDER"
    docs = ROOT / "docs"
    if target.is_relative_to(docs):
        return str(target.relative_to(docs))
    return f"{_PROJECT}/{target.relative_to(ROOT)}"
