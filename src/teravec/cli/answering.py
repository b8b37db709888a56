"""Searching for a source of queries, and telling what was found and what it cost."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.bars import Bars, counted
from teravec.bulk.corpus import answers, search_corpus
from teravec.bulk.filtered import question_under_filter
from teravec.bulk.formats.found import FoundArrays
from teravec.bulk.questions import Question
from teravec.bulk.results import is_stdout, stdout_texts
from teravec.cli.running import print_json
from teravec.cli.stats_table import print_costs
from teravec.errors import InvalidArgument
from teravec.search.index import Index
from teravec.search.options import SearchOptions
from teravec.search.searchable import Searchable
from teravec.sources import Source
from teravec.storage.cache_counts import all_counts

__all__ = ["answer", "check_one_output", "explain_answer", "print_texts"]

_EXPLAINED = 1_000  # queries


def answer(
    index: Searchable,
    source: Source,
    options: SearchOptions,
    out: Path | None,
    *,
    stats: bool,
    json: bool,
    quiet: bool,
) -> None:
    """Search for every query; write the results to a file, or print them as they come."""
    question = question_under_filter(index, options)
    if out is not None and is_stdout(out):
        for start, found in answers(index, source, question, 0, source.ntotal):
            print_texts(out, start, found)
        if not source.ntotal:
            print_texts(out, 0, FoundArrays.none(question.k))
        if stats:
            print_costs(index.stats, to_stderr=True)
        return
    if out is not None:
        bars = Bars(quiet=quiet or json)
        summary = search_corpus(index, source, question, out, bars)
        result = {"out": str(out), **asdict(summary), "stages": bars.summary()}
        if not json:
            found_text = counted(summary.results, "results")
            print(f"{out}: {found_text} of {counted(summary.queries, 'queries')}")
    elif json:
        result = _collected(index, source, question)
    else:
        for start, found in answers(index, source, question, 0, source.ntotal):
            _print_found(start, found)
    if json:
        caches = {name: counts.content() for name, counts in all_counts().items()}
        cost = {"stats": asdict(index.stats)} if stats else {}
        cost |= {"caches": caches} if stats and caches else {}
        print_json({**question.describe(), **result, **cost})
    elif stats:
        print_costs(index.stats)


def explain_answer(
    index: Searchable, source: Source, options: SearchOptions, *, json: bool
) -> None:
    """Tell how the first queries are searched under a filter."""
    if not isinstance(index, Index):
        raise InvalidArgument("--explain is for an index here")
    told = index.explain(
        source.read(0, min(source.ntotal, _EXPLAINED)),
        options.k or 1,
        options.nprobe,
        filter=options.filter,
        recall=options.recall,
        candidates=options.candidates,
    )
    if json:
        print_json(told)
        return
    print(f"plan: {told['plan']}; {told['why']}")
    print(f"rows that pass: {told['passing']:,} of {told['rows']:,}")
    print(f"lists that hold one: {told['matching_lists']:,} of {told['lists']:,}")
    print(f"lists visited: {told['visited']:,.1f} a query, in at most {told['waves']} waves")


def print_texts(out: Path, start: int, found: FoundArrays) -> None:
    """Print results as the format of a name for standard output has them."""
    for part in stdout_texts(out, start, found):
        sys.stdout.write(part)


def check_one_output(out: Path | None, *, json: bool) -> None:
    """Refuse results and a JSON document on one standard output."""
    if out is not None and is_stdout(out) and json:
        raise InvalidArgument(f"--json and --out {out} given; both print: one of them expected")


def _print_found(start: int, found: FoundArrays) -> None:
    """A line for each query: its id or number, and id:distance of each result."""
    names = found.queries(0, found.n)
    for row in range(found.n):
        distances, ids = found.read(*found.lims[row : row + 2].tolist())
        pairs = zip(ids.tolist(), distances.tolist(), strict=True)
        name = start + row if names is None else int(names[row])
        print(f"{name}\t" + " ".join(f"{i}:{v:.6g}" for i, v in pairs if i != -1))


def _collected(index: Searchable, source: Source, question: Question) -> dict[str, Any]:
    """All results, for one JSON document."""
    parts = [found for _, found in answers(index, source, question, 0, source.ntotal)]
    return _found_as_json(parts or [FoundArrays.none(question.k)])


def _found_as_json(parts: list[FoundArrays]) -> dict[str, Any]:
    """Results of consecutive queries as JSON has them."""
    nq, k = sum(found.n for found in parts), parts[0].k
    distances, ids = (
        np.concatenate(arrays)
        for arrays in zip(*(found.read(0, found.total) for found in parts), strict=True)
    )
    if k is not None:
        distances, ids = distances.reshape(nq, k), ids.reshape(nq, k)
    content = {"ids": ids.tolist(), "distances": _finite(distances)}
    counts = np.concatenate([np.diff(found.lims) for found in parts])
    lims = {} if k is not None else {"lims": [0, *np.cumsum(counts).tolist()]}
    names = [found.queries(0, found.n) for found in parts]
    asked = {}
    if names[0] is not None:
        asked = {"query_ids": np.concatenate([n for n in names if n is not None]).tolist()}
    return {"queries": nq, "results": int(ids.size), **asked, **lims, **content}


def _finite(values: npt.NDArray[np.float32]) -> Any:
    """Distances for JSON, which has no infinity: a missing result has null."""
    rows = values.tolist()
    if values.ndim == 1:
        return [v if math.isfinite(v) else None for v in rows]
    return [[v if math.isfinite(v) else None for v in row] for row in rows]
