"""One question for every query of a source, however many there are: in batches, resumable.

A batch visits its lists in file order, each once for all queries that want it, so the index is
read about as often as there are batches. That is why a batch is as large as memory allows:
a third of what is free after the index was opened, divided by what a query takes
(``Searchable.batch_rows``). Where memory keeps the whole index, it is read once. Of a served index
memory holds the queries and results of a batch; the client cuts it into requests.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teravec.bulk.formats.found import FoundArrays
from teravec.bulk.parts import SealedParts
from teravec.bulk.questions import Question
from teravec.bulk.results import check_ids, check_output, write_found
from teravec.errors import InvalidArgument
from teravec.progress import Progress
from teravec.search.searchable import Searchable
from teravec.sources import Source
from teravec.storage.output_lock import hold_file

__all__ = ["CorpusSummary", "answers", "describe_search", "search_corpus"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CorpusSummary:
    """What a search of a source did.

    Parameters
    ----------
    queries : int
    results : int
    batches : int
        Searched now: about the number of times that the index was read.
    resumed : int
        Queries that an earlier run had answered.
    """

    queries: int
    results: int
    batches: int
    resumed: int


def answers(
    index: Searchable, source: Source, question: Question, start: int, stop: int
) -> Iterator[tuple[int, FoundArrays]]:
    """Answer queries [start, stop), batch by batch.

    Yields
    ------
    first : int
        First query of the batch.
    found : FoundArrays

    Raises
    ------
    InvalidArgument
        The queries or the question do not fit the index.
    """
    question.check(index, source)
    yield from _answers(index, source, question, start, stop)


def _answers(
    index: Searchable, source: Source, question: Question, start: int, stop: int
) -> Iterator[tuple[int, FoundArrays]]:
    most = rows = question.batch_rows(index)
    while start < stop:
        asked = min(stop, start + rows) - start
        found = question.answer(index, source, start, start + asked)
        done = found.n
        yield start, found
        del found  # the taker may be done with it
        start += done
        # A batch that had too many results tells how many queries the next one can have; later
        # ones may have more again.
        rows = min(most, done if done < asked else rows + rows // 4 + 1)


def search_corpus(
    index: Searchable, source: Source, question: Question, out: Path, progress: Progress
) -> CorpusSummary:
    """Answer every query of a source, and write the results without holding them.

    Batches are sealed in ``OUT.partial`` until all are there. After a kill, the same call does
    the batches that are missing; the output's bytes are the same, whatever the batches were.
    Where one batch suffices, it is written at once.

    Parameters
    ----------
    index : Searchable
        Nothing else should search it meanwhile.
    source : Source
        The queries.
    question : Question
    out : Path
        Result file; its extension says the format. Replaced if it exists.
    progress : Progress

    Raises
    ------
    InvalidArgument
        Queries, question or output that do not fit; an id that the format cannot hold.
    OutputExists
        ``OUT.partial`` is of another search; or another process writes ``out`` now.
    CorruptFile
        The index, or ``OUT.partial``, is damaged.
    StorageError
        No space or no permission; call again to continue.
    """
    check_output(out, within_radius=question.k is None)
    source.check_not(out)
    if index.holds(out):
        raise InvalidArgument(f"{out} is inside the index that is searched; another place expected")
    question.check(index, source)
    with hold_file(out):
        return _search_corpus(index, source, question, out, progress)


def _search_corpus(
    index: Searchable, source: Source, question: Question, out: Path, progress: Progress
) -> CorpusSummary:
    parts = SealedParts(
        out.with_name(out.name + ".partial"), describe_search(index, source, question)
    )
    resumed, batches, results = parts.rows, 0, 0
    log.info("%d queries in batches of at most %d", source.ntotal, question.batch_rows(index))
    with progress.stage("search", source.ntotal, "queries") as bar:
        bar.advance(resumed)
        for missing in parts.missing(source.ntotal):
            for start, found in _answers(index, source, question, *missing):
                check_ids(out, found.ids)
                batches += 1
                if found.n == source.ntotal:
                    write_found(out, found)
                    results = found.total
                else:
                    parts.add(start, found)
                bar.advance(found.n)
                del found  # before the next batch, which needs the memory
    if parts.rows or not source.ntotal:
        none = FoundArrays.none(question.k)
        whole = parts.found(question.k, source) if parts.rows else none
        write_found(out, whole)
        results = whole.total
    parts.remove()
    return CorpusSummary(source.ntotal, results, batches, resumed)


def describe_search(index: Searchable, source: Source, question: Question) -> dict[str, Any]:
    """What parts belong to."""
    return {"index": index.seal, "queries": source.describe(), "question": question.describe()}
