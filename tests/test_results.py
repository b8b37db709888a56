"""The pages of results say what the records say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmarks import records, render


def _as_measured(text: str) -> str:
    """Without how often the code has changed since: that grows with each commit."""
    return re.sub(r" \(src changed \d+ times since\)", "", text)


@pytest.mark.parametrize("path", sorted(render.pages()))
def test_a_page_is_what_its_records_render_to(path: str) -> None:
    text = (records.ROOT / path).read_text()
    assert _as_measured(text) == _as_measured(render.pages()[path]), "run `make results`"


def test_a_record_survives_writing_and_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    body = records.parse_body(
        "### A title\n\nOf 5 \u00b5s.\n\n| a | b |\n| --- | --- |\n|  | 1,000 |\n"
    )
    record = records.Record("a set 1", "script", "cmd", "abc", "2026-01-02", "m", body)
    record.save()
    assert records.load() == [record]
    assert record.tables[0].cell({"a": ""}, "b") == "1,000"
    with pytest.raises(LookupError, match="0 rows"):
        record.tables[0].cell({"a": "x"}, "b")


def test_the_headlines_fit_on_a_page() -> None:
    assert len((records.ROOT / "benchmarks" / "RESULTS.md").read_text().splitlines()) <= 120
