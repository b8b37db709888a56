"""One JSON file for each section of results: what was measured, where, when, on which code.

A benchmark writes its section as Markdown, a title with paragraphs and tables. ``save`` keeps it as
data (columns and rows), with commit, date, machine and command, in
``benchmarks/results/SCRIPT/SECTION.json``. ``benchmarks.render`` makes the pages from these files.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Table:
    """Figures as printed: names of columns, and rows of as many cells."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def cell(self, row: dict[str, str], column: str) -> str:
        """Return the cell of the only row that holds these values in these columns."""
        wanted = {self.columns.index(name): value for name, value in row.items()}
        found = [r for r in self.rows if all(r[at] == value for at, value in wanted.items())]
        if len(found) != 1:
            raise LookupError(f"{len(found)} rows with {row}, expected one")
        return found[0][self.columns.index(column)]


@dataclass(frozen=True)
class Record:
    """One section of one script's results.

    Parameters
    ----------
    section : str
        Its name: unique among all sections, the script's name or its subject first.
    script, command : str
        Module that measured it, and the command line, where it is known.
    commit, date : str
        Code that was measured, and the day.
    machine : str
        Processor, cores, memory, system and versions, in one line.
    body : tuple of str or Table
        Heading, paragraphs and tables, in order. Data and parameters are in the paragraphs.
    """

    section: str
    script: str
    command: str
    commit: str
    date: str
    machine: str
    body: tuple["str | Table", ...]

    @property
    def tables(self) -> list[Table]:
        """The tables of the body, in order."""
        return [block for block in self.body if isinstance(block, Table)]

    @property
    def path(self) -> Path:
        """Where the record lies."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.section.lower()).strip("-")
        return RESULTS / self.script / f"{slug}.json"

    def markdown(self) -> str:
        """Return the section as Markdown, with what it was measured on below its heading."""
        blocks = [b if isinstance(b, str) else b.markdown() for b in self.body]
        origin = f"*{self.date}, commit {self.commit}, {self.machine}.*"
        return "\n\n".join([blocks[0], origin, *blocks[1:]])

    def save(self) -> None:
        """Write the record in place of an older one of the same section."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        written = self.path.with_name(self.path.name + ".partial")
        written.write_text(_as_json(self))
        written.replace(self.path)


def parse_body(markdown: str) -> tuple["str | Table", ...]:
    """Split a section into paragraphs and tables."""
    blocks = re.split(r"\n\s*\n", markdown.strip())
    return tuple(_table(block) if block.startswith("|") else block.strip() for block in blocks)


def _table(block: str) -> Table:
    lines = [_cells(line) for line in block.splitlines()]
    return Table(lines[0], tuple(lines[2:]))


def _cells(line: str) -> tuple[str, ...]:
    return tuple(
        cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")
    )


def load() -> list[Record]:
    """Read all records, by script and section."""
    return [read(path) for path in sorted(RESULTS.glob("*/*.json"))]


def read(path: Path) -> Record:
    """Read one record."""
    content = json.loads(path.read_text())
    body = tuple(
        block
        if isinstance(block, str)
        else Table(tuple(block["columns"]), tuple(map(tuple, block["rows"])))
        for block in content.pop("body")
    )
    return Record(body=body, **content)


def measured_now(section: str, markdown: str, machine: str) -> Record:
    """Return the record of a section that the running script has just measured."""
    spec = sys.modules["__main__"].__spec__
    script = (spec.name if spec is not None else Path(sys.argv[0]).stem).rpartition(".")[2]
    command = " ".join([f"python -m benchmarks.{script}", *sys.argv[1:]])
    today = datetime.now(UTC).date().isoformat()
    return Record(section, script, command, commit(), today, machine, parse_body(markdown))


def commit() -> str:
    """Return the commit of the code in this checkout, with a mark where it was changed since."""
    head = _git("rev-parse", "--short=7", "HEAD")
    return head + ("+" if _git("status", "--porcelain", "--", "src", "benchmarks/*.py") else "")


def changes_since(commit: str) -> int | None:
    """Count the commits to ``src`` since ``commit``; None where this checkout does not know it."""
    count = _git("rev-list", "--count", f"{commit.rstrip('+')}..HEAD", "--", "src")
    return int(count) if count else None


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def _as_json(record: Record) -> str:
    """JSON with a row of a table on a line, so that a new measurement reads well in a diff."""
    head = {name: value for name, value in asdict(record).items() if name != "body"}
    lines = [f" {json.dumps(name)}: {_text(value)}," for name, value in head.items()]
    blocks = ",\n".join(f"  {_block(block)}" for block in record.body)
    return "\n".join(["{", *lines, ' "body": [', blocks, " ]", "}"]) + "\n"


def _block(block: "str | Table") -> str:
    if isinstance(block, str):
        return _text(block)
    rows = ",\n".join(f"   {_text(row)}" for row in block.rows)
    return f'{{"columns": {_text(block.columns)}, "rows": [\n{rows}\n  ]}}'


def _text(value: str | Sequence[str] | Any) -> str:
    return json.dumps(value, ensure_ascii=False)
