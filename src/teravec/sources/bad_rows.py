"""Finding bad rows, which are no vectors, and keeping a list of them.

A row is bad if it is null, holds a null, has another length, or holds a value that is not finite
in float32. Bad rows depend on the files alone: a lost or damaged list can be made again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from teravec.engines.threads import ordered_map
from teravec.errors import CorruptFile, InvalidSource, MissingFile
from teravec.progress import Progress
from teravec.sources.matrix import Source
from teravec.sources.skipped import Int64, Skipped
from teravec.sources.source_file import SourceFile
from teravec.storage.jsonfile import read_json, write_json
from teravec.storage.local_store import AnyPath

__all__ = ["count_bad_rows", "find_bad", "match_description", "read_bad", "write_bad"]

_FORMAT, _VERSION = "teravec-skipped", 1
_BLOCK_BYTES = 4 << 20  # of float32 that a thread checks at a time


def match_description(
    source: Source, described: dict[str, Any], listed: AnyPath, threads: int, progress: Progress
) -> Source:
    """Bring a source into its recorded order, and drop its recorded bad rows.

    Parameters
    ----------
    source : Source
        Opened with ``skip_bad`` if ``described`` has bad rows, or if the user asks for it.
    described : dict
        ``Source.describe()`` of a build or index; empty before a build.
    listed : StorePath or Path
        The list of bad rows beside the index. If it is missing or damaged, all rows are checked.
    threads : int
    progress : Progress
    """
    if described:
        source = source.match_order(described)
    if source.skipped is None:
        return source
    known = read_bad(listed, described["skipped"]) if "skipped" in described else None
    return find_bad(source, threads, progress) if known is None else source.drop_rows(known)


def find_bad(source: Source, threads: int, progress: Progress) -> Source:
    """Check every row of a source that was opened with ``skip_bad``; drop the bad rows.

    Raises
    ------
    InvalidSource
        All rows are bad, or the bad rows form too many runs.
    """
    threads = 1 if source.is_decoded else threads  # rows can only be decoded in order
    with progress.stage("check", source.nrows, "vectors") as bar:

        def counted() -> Iterator[Int64]:
            for part, begin, end, bad in ordered_map(
                _find_bad_in, _plan_blocks(source), threads=threads
            ):
                bar.advance(end - begin)
                if end == part.stop:
                    part.file.release()
                yield bad

        skipped = Skipped.of(counted())
    if skipped.rows == source.nrows:
        raise InvalidSource(
            f"{source.files[0].path}: all {skipped.rows:,} rows of the source are bad (null, of "
            "another length, NaN or infinite), expected 1 or more that are vectors"
        )
    return source.drop_rows(skipped)


def write_bad(path: AnyPath, source: Source) -> None:
    """Seal the list of a source's bad rows: the runs of bad rows of each file.

    Its size is bounded by the largest number of runs.
    """
    skipped = source.skipped
    assert skipped is not None
    files = []
    for part in source.files:
        runs = skipped.between(part.start, part.stop) - part.start
        if len(runs):
            at = {"name": part.path.name, "first_row": part.start, "n": part.n}
            files.append({**at, "rows": runs.tolist()})
    head = {"format": _FORMAT, "version": _VERSION, "rows": skipped.rows}
    write_json(path, {**head, "files": files})


def count_bad_rows(path: AnyPath) -> int:
    """Count the rows in a list of bad rows."""
    return int(read_json(path, _FORMAT, _VERSION)["rows"])


def read_bad(path: AnyPath, described: dict[str, Any]) -> Skipped | None:
    """Read a list of bad rows; None if it is missing, damaged, or not the one described."""
    try:
        content = read_json(path, _FORMAT, _VERSION)
        skipped = Skipped.of_runs(
            np.array(file["rows"], np.int64).reshape(-1, 2) + file["first_row"]
            for file in content["files"]
        )
    except (MissingFile, CorruptFile, KeyError, TypeError, ValueError):
        return None
    return skipped if skipped.describe() == described else None


def _plan_blocks(source: Source) -> Iterator[tuple[SourceFile, int, int]]:
    rows = max(1, _BLOCK_BYTES // (4 * source.d))
    for part in source.files:
        for begin in range(part.start, part.stop, rows):
            yield part, begin, min(begin + rows, part.stop)


def _find_bad_in(block: tuple[SourceFile, int, int]) -> tuple[SourceFile, int, int, Int64]:
    part, begin, end = block
    bad = np.empty(0, np.int64)
    if part.file.is_decoded or part.file.dtype.kind == "f":
        vectors = part.file.read(begin - part.start, end - part.start)
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(vectors.astype(np.float32, copy=False)).all(axis=1)
        bad = np.flatnonzero(~finite) + begin
    return part, begin, end, bad
