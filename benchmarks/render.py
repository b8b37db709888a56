"""Makes the pages of results from the records: ``python -m benchmarks.render``.

``benchmarks/RESULTS.md`` has the headlines, picked from the records by
``benchmarks/results/headlines.json``; ``benchmarks/results/SCRIPT.md`` has all that a script
measured, below the notes that a person wrote in ``benchmarks/results/SCRIPT/notes.md``.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks import records
from benchmarks.records import RESULTS, ROOT, Record, Table

HEADLINES = RESULTS / "headlines.json"

INTRODUCTION = """# Results

Every figure is measured by a script of this folder, systems in turn within one run, and given as a
median. The machines are shared, so read ratios, not times. A ratio above 1 means that teravec is
better. Each script writes one JSON file per section into `benchmarks/results/`; this page and the
pages behind it are rendered from those files by `make results`. A row whose code has changed since
it was measured says how often.

The OpenBLAS in Faiss's wheel picks the wrong kernel on some processors: "as shipped" is with that
kernel, "cured" with `OPENBLAS_CORETYPE` set for that process alone.
"""


def main() -> None:
    """Write every page."""
    for path, text in pages().items():
        (ROOT / path).write_text(text)


def pages() -> dict[str, str]:
    """Return the text of each page, by its path in the repository."""
    found = records.load()
    scripts = sorted({record.script for record in found})
    own = {f"benchmarks/results/{name}.md": script_page(name, found) for name in scripts}
    return {"benchmarks/RESULTS.md": headline_page(found, scripts), **own}


def headline_page(found: Iterable[Record], scripts: Iterable[str]) -> str:
    """Return the page of headlines."""
    by_section = {record.section: record for record in found}
    rows = [_headline(entry, by_section) for entry in json.loads(HEADLINES.read_text())]
    columns = ("claim", "ours", "beside", "ratio", "limit", "commit", "date", "machine")
    links = "\n".join(f"- [{name}](results/{name}.md)" for name in scripts)
    table = Table(columns, tuple(rows)).markdown()
    return "\n".join([INTRODUCTION, table, "", "## Pages, one a script", "", links, ""])


def _headline(entry: Mapping[str, Any], by_section: Mapping[str, Record]) -> tuple[str, ...]:
    record = by_section[entry["section"]]
    ours = _number(_cell(record, entry["ours"]))
    peer, ratio = _beside(record, entry, ours)
    claim = f"[{entry['claim']}](results/{record.script}.md)"
    return (
        claim,
        f"{_rounded(ours)} {entry['unit']}",
        f"{_rounded(peer)}: {entry['peer']['name']}",
        f"{ratio:.2f}",
        entry["limit"],
        _commit(record),
        record.date,
        record.machine.partition(", Linux")[0],
    )


def _beside(record: Record, entry: Mapping[str, Any], ours: float) -> tuple[float, float]:
    """The peer's figure and the ratio: one is in the record, the other follows from it."""
    less = entry["better"] == "less"
    place = entry["peer"]
    if "ratio" in place:
        ratio = _number(_cell(record, {**place, "column": place["ratio"]}))
        return (ours * ratio if less else ours / ratio), ratio
    peer = _number(_cell(record, place))
    return peer, (peer / ours if less else ours / peer)


def _cell(record: Record, place: Mapping[str, Any]) -> str:
    table: Table = record.tables[place["table"]]
    return table.cell(place["row"], place["column"])


def _number(text: str) -> float:
    return float(text.replace(",", "").split()[0])


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _commit(record: Record) -> str:
    """The commit, and how much of the code has changed since, where that can be known."""
    changes = records.changes_since(record.commit)
    return record.commit if not changes else f"{record.commit} (src changed {changes} times since)"


def script_page(name: str, found: Iterable[Record]) -> str:
    """Return the page of one script."""
    notes = RESULTS / name / "notes.md"
    head = notes.read_text().rstrip() if notes.exists() else f"# {name}"
    sections = [record.markdown() for record in found if record.script == name]
    made = f"Made by `python -m benchmarks.{name}`; rendered by `python -m benchmarks.render`."
    return "\n\n".join([head, made, *sections]) + "\n"


if __name__ == "__main__":
    main()
