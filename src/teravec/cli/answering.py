"""Searching for a source of queries, and telling what was found and what it cost."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.bars import Bars
from teravec.cli.running import print_json
from teravec.cli.stats_table import print_table, stats_table
from teravec.search.corpus import answers, search_corpus
from teravec.search.formats.found import FoundArrays
from teravec.search.index import Index
from teravec.search.questions import Question
from teravec.sources import Source

__all__ = ["answer", "found_as_json", "print_found"]


def answer(
    index: Index, source: Source, question: Question, out: Path | None, *, stats: bool,
    json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Ask for every query; write the results to a file, or print them as they come."""
    if out is not None:
        summary = search_corpus(index, source, question, out, Bars(quiet=quiet or json))
        result = {"out": str(out), **asdict(summary)}
        if not json:
            print(f"{out}: {summary.results:,} results of {summary.queries:,} queries")
    elif json:
        result = _collected(index, source, question)
    else:
        for start, found in answers(index, source, question, 0, source.ntotal):
            print_found(start, found)
    if json:
        cost = {"stats": asdict(index.stats)} if stats else {}
        print_json({**question.describe(), **result, **cost})
    elif stats:
        print_table(stats_table(index.stats))


def print_found(start: int, found: FoundArrays) -> None:
    """A line for each query: its number, and id:distance of each result."""
    for row in range(found.n):
        distances, ids = found.read(*found.lims[row : row + 2].tolist())
        pairs = zip(ids.tolist(), distances.tolist(), strict=True)
        print(f"{start + row}\t" + " ".join(f"{i}:{v:.6g}" for i, v in pairs if i != -1))


def _collected(index: Index, source: Source, question: Question) -> dict[str, Any]:
    """All results, for one JSON document."""
    return found_as_json([found for _, found in answers(index, source, question, 0, source.ntotal)])


def found_as_json(parts: list[FoundArrays]) -> dict[str, Any]:
    """Results of consecutive queries as JSON has them."""
    nq, k = sum(found.n for found in parts), parts[0].k
    distances, ids = (np.concatenate(arrays) for arrays in zip(
        *(found.read(0, found.total) for found in parts), strict=True
    ))  # fmt: skip
    if k is not None:
        distances, ids = distances.reshape(nq, k), ids.reshape(nq, k)
    content = {"ids": ids.tolist(), "distances": _finite(distances)}
    counts = np.concatenate([np.diff(found.lims) for found in parts])
    lims = {} if k is not None else {"lims": [0, *np.cumsum(counts).tolist()]}
    return {"queries": nq, "results": int(ids.size), **lims, **content}


def _finite(values: npt.NDArray[np.float32]) -> Any:
    """Distances for JSON, which has no infinity: a missing result has null."""
    rows = values.tolist()
    if values.ndim == 1:
        return [v if math.isfinite(v) else None for v in rows]
    return [[v if math.isfinite(v) else None for v in row] for row in rows]
