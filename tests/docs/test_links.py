"""Pages point at what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/**/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_files_resolve(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_each_decision_is_listed_once_and_numbered_without_a_gap() -> None:
    decisions = sorted((ROOT / "docs" / "design").glob("[0-9]*.md"))
    assert [int(path.name[:4]) for path in decisions] == list(range(len(decisions)))
    index = (ROOT / "docs" / "design" / "README.md").read_text()
    for path in decisions[1:]:
        assert index.count(f"]({path.name})") == 1, path.name
