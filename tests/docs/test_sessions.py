"""Pages show what their code prints."""

from __future__ import annotations

from pathlib import Path

import pytest
from website.blocks import ROOT
from website.sessions import differences, run_page, update

PAGES = ["docs/quickstart.md", "docs/tutorial.md", "docs/neighbours.md"]

PAGE = """
<!-- run
x = 40
-->

```python
print(x + 2, "is the answer")
```

```text
%s
```

```console
$ echo one; \\
    echo two 2
%s
```
"""


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_what_its_code_prints(page: str, tmp_path: Path) -> None:
    shown = run_page(ROOT / page, tmp_path)
    assert shown
    assert differences(ROOT / page, shown) == ""


def test_numbers_and_widths_may_differ(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE % ("41.5   is the answer", "one\ntwo 3"))
    assert differences(page, run_page(page, tmp_path)) == ""
    page.write_text(PAGE % ("42 is the answer", "..."))
    assert differences(page, run_page(page, tmp_path)) == ""


@pytest.mark.parametrize("shown", [("42 is an answer", "one\ntwo 2"), ("42 is the answer", "one")])
def test_other_words_are_found_and_replaced(shown: tuple[str, str], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE % shown)
    found = run_page(page, tmp_path)
    assert "page.md:" in differences(page, found)
    update(page, found)
    assert page.read_text() == PAGE % ("42 is the answer", "one\ntwo 2")


@pytest.mark.parametrize("code", ["```python\n1 / 0\n```", "```console\n$ false\n```"])
def test_code_that_fails_is_named_by_its_line(code: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n" + code + "\n")
    with pytest.raises(RuntimeError, match=r"page\.md:4"):
        run_page(page, tmp_path)
