"""Opening a user's data as a source: paths, data in memory, or a stream."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from teravec.arguments import path_of
from teravec.errors import InvalidArgument, InvalidSource, OutputExists, TeravecError
from teravec.memory import MIB
from teravec.progress import NoProgress, Progress
from teravec.sources.attaching import (
    find_attributes,
    find_beside,
    refuse_text_ids,
    spool_attributes,
    spooling_blocks,
)
from teravec.sources.attributes import ALL
from teravec.sources.column_spool import columns_spool
from teravec.sources.columnar import Columns
from teravec.sources.databases.address import is_database
from teravec.sources.databases.query import DatabaseQuery
from teravec.sources.databases.spilling import spill_query
from teravec.sources.held import HeldFile
from teravec.sources.holding import (
    check_ids,
    gives_slices,
    hold,
    hold_block,
    is_held_table,
    is_pair,
)
from teravec.sources.matrix import Source
from teravec.sources.opening import open_files, open_source
from teravec.sources.paths import PathLike
from teravec.sources.remote import is_remote
from teravec.sources.spool import open_spool, spool
from teravec.sources.vectorfile import VectorFile

__all__ = ["Data", "are_paths", "check_ids", "open_data"]

Data = Any
"""Paths, or data in memory, or a stream; `open_data` says which."""

_END = object()
_BATCH_ROWS = 8192  # for streams that accept a batch size


def open_data(
    data: Data,
    *,
    ids: Any = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    format: str | None = None,
    skip_bad: bool = False,
    spool_path: Path | None = None,
    shared: bool = False,
    memory_bytes: int = 512 * MIB,
    progress: Progress | None = None,
    name: str = "data",
    columns: Sequence[str] = (),
    attributes: Any = None,
) -> Source:
    """Open data as a source: paths as files, data in memory without a copy, streams spooled.

    Parameters
    ----------
    data : path-like, array-like, table, data frame or stream
        - Paths, one or several: as for `open_source`.
        - Of shape (n, d): a NumPy array or memory map of any real type, order and strides; lists
          of lists; a PyTorch tensor; any object with ``__array__`` or ``__dlpack__``, or that
          gives slices.
        - A table or data frame of pyarrow, pandas or polars, or with ``__arrow_c_array__``. Its
          column of lists or arrays holds the vectors.
        - A list of these: their rows one after another.
        - A stream: an object with ``__arrow_c_stream__`` that is none of these (a
          RecordBatchReader, a DuckDB relation); a data set of Hugging Face; an iterator or
          iterable of batches, each as above, or ``(ids, vectors)``, or one vector.
        - A `DatabaseQuery`, whose rows are spooled in ranges of its key.
    ids : array-like of shape (n,), integers, optional
        0 or more, each once. Not given: ``id_column``, or row numbers.
    id_column, vector_column : str, optional
        Columns of files and tables.
    format : str, optional
        Format of files, as for `open_source`.
    skip_bad : bool
        Read bad rows as NaN, so that `find_bad` can find them.
    spool_path : Path, optional
        File to spool a stream to. Not given: streams are refused.
    shared : bool
        Spool data in memory too, because other processes must open them.
    memory_bytes : int
        Bounds what the readers of a database hold.
    progress : Progress, optional
    name : str
        Name of the data in messages.
    columns : sequence of str
        Columns that the index keeps; ``("all",)`` for every one.
    attributes : path-like or table, optional
        Has these columns, in the order of the rows. Not given: the data have them.

    Raises
    ------
    InvalidArgument
        Not data, paths mixed with arrays, or ids that do not fit.
    InvalidSource
        No readable vectors; the message says what was found and what to do.
    OutputExists
        The spool holds other vectors.
    """
    if isinstance(data, Source):
        return data
    if isinstance(data, DatabaseQuery):
        if spool_path is None or ids is not None or format is not None:
            raise InvalidArgument("a query takes id_column; ids and format are for other data")
        if columns or attributes is not None:
            raise InvalidArgument(
                "columns of a database's query cannot be kept; write its rows to Parquet first"
            )
        spilled = spill_query(
            data,
            spool_path,
            id_column=id_column,
            vector_column=vector_column,
            skip_bad=skip_bad,
            memory_bytes=memory_bytes,
            progress=progress or NoProgress(),
        )
        source = open_files(spilled.files, spilled.ids, vector_column, skip_bad=skip_bad)
        source.watermarks = spilled.watermarks
        return source
    data, paths = _find_paths(data, name)
    if paths is not None:
        if ids is not None:
            raise InvalidArgument(
                "ids= is for data in memory, a path found; name an id_column, or give the array, "
                "as np.load(path, mmap_mode='r')"
            )
        source = open_source(
            paths,
            id_column=id_column,
            vector_column=vector_column,
            format=format,
            skip_bad=skip_bad,
            columns=columns,
            attributes=attributes,
            spool_path=spool_path,
        )
        found = source.attributes
        if found is not None and found.beside is not None and shared and spool_path is not None:
            source.attributes = spool_attributes(found, spool_path)
        return source
    if format is not None:
        raise InvalidArgument(f"format={format!r} is for files; {type(data).__name__} found")
    if ids is not None and id_column is not None:
        raise InvalidArgument("ids and id_column given, one expected")
    kept = () if attributes is not None else tuple(columns)
    named = Columns(id_column, vector_column, lenient=skip_bad, kept=kept)
    shown = progress or NoProgress()
    beside = None if attributes is None else find_beside(attributes, columns, spool_path)
    files = _hold_all(data, named, f"{name} in memory")
    if files is not None:
        if beside is not None:
            refuse_text_ids(files)
        found = beside or find_attributes(files, named)
        if found is not None:
            found.check_rows(sum(file.n for file in files), name)
        source = open_files(
            _attach_ids(files, ids), id_column, vector_column, skip_bad=skip_bad, attributes=found
        )
        if not shared:
            return source
        if spool_path is None:
            raise InvalidArgument(
                f"{name} in memory found, which the engine's workers cannot see; give a path, or "
                "an output beside which they are spooled"
            )
        return _spool_source(source, spool_path, shown, skip_bad=skip_bad)
    if spool_path is None:
        raise InvalidArgument(
            f"a stream ({type(data).__name__}) found where there is no place to spool it; give "
            "an array, a table or a path"
        )
    batches = spooling_blocks(_hold_batches(data, named), named, spool_path)
    if ids is not None:
        batches = _attach_ids_to_stream(batches, ids)
    spooled = spool(batches, spool_path, shown, skip_bad=skip_bad)
    if beside is None and not kept and columns_spool(spool_path).exists():
        named = replace(named, kept=ALL)  # the ids are texts
    found = beside or find_attributes([spooled], named)
    if found is not None:
        found.check_rows(spooled.n, "the stream")
    return open_files([spooled], id_column, vector_column, skip_bad=skip_bad, attributes=found)


def _find_paths(data: Data, name: str) -> tuple[Data, list[PathLike] | None]:
    """Return the data and, if they are paths, the list of paths, else None.

    The first item of an iterator is read to find out. The returned data still include it.
    """
    if data is None:
        raise InvalidArgument(
            f"{name} is None; a path, an array, a data frame, an Arrow table or stream, or an "
            "iterator of arrays expected"
        )
    if _is_path(data):
        return data, [_as_path(data, name)]
    if isinstance(data, list | tuple):
        named = [_is_path(item) for item in data]
        if any(named) and not all(named):
            path, other = named.index(True), named.index(False)
            raise InvalidArgument(
                f"{name}: paths are mixed with arrays: element {path} is a path, element {other} "
                f"is {type(data[other]).__name__}; one kind expected"
            )
        return data, [_as_path(item, name) for item in data] if all(named) else None
    if isinstance(data, set | frozenset):
        raise InvalidArgument(f"{name}: a set found, which has no order; give a list")
    if isinstance(data, Iterator) and not hasattr(data, "__arrow_c_stream__"):
        with _stream_errors("at its beginning"):  # a generator may yield paths, as Path.glob does
            first = list(islice(data, 1))
        if first and _is_path(first[0]):
            return data, [_as_path(item, name) for item in chain(first, data)]
        return chain(first, data), None
    return data, None


def _as_path(item: Any, name: str) -> PathLike:
    """Return a path, or a URL as it is."""
    return item if is_remote(item) or is_database(item) else path_of(item, name)


def are_paths(data: Data) -> Any:
    """Return the data if they are a path or a list of paths, else None."""
    if _is_path(data):
        return data
    return data if isinstance(data, list | tuple) and data and all(map(_is_path, data)) else None


def _is_path(data: Data) -> bool:
    return isinstance(data, str | bytes | os.PathLike)


def _hold_all(data: Data, columns: Columns, name: str) -> list[HeldFile] | None:
    """Hold data in memory as files; return None for a stream."""
    if is_held_table(data) or isinstance(data, Mapping | np.ndarray) or gives_slices(data):
        return [hold(Path(name), data, columns)]
    if _is_stream(data):
        return None
    if isinstance(data, list | tuple) and _are_blocks(data):
        return [
            hold_block(Path(f"block {number} of the {name}"), block, columns)
            for number, block in enumerate(data)
        ]
    return [hold(Path(name), data, columns)]


def _are_blocks(data: list[Any] | tuple[Any, ...]) -> bool:
    first = data[0]
    has_rows = is_held_table(first) or isinstance(first, Mapping) or is_pair(first)
    return has_rows or len(getattr(first, "shape", ())) == 2


def _is_stream(data: Data) -> bool:
    streaming = ("__arrow_c_stream__", "to_batches", "iter_batches")
    if _is_dataset(data) or any(hasattr(data, name) for name in streaming):
        return True
    array_like = ("__array__", "__array_interface__", "__dlpack__", "__getitem__")
    return isinstance(data, Iterator) or (
        isinstance(data, Iterable) and not any(hasattr(data, name) for name in array_like)
    )


def _is_dataset(data: Data) -> bool:
    """Whether this is a Hugging Face data set, which may be a selection of its table's rows."""
    return hasattr(data, "with_format") and hasattr(data, "iter")


def _hold_batches(data: Data, columns: Columns) -> Iterator[VectorFile]:
    """Yield a stream's batches as files, one in memory at a time."""
    batches = _number_batches(_open_stream(data))
    for number, batch in batches:
        name = Path(f"batch {number} of the stream")
        if _is_path(batch):
            raise InvalidArgument(f"{name}: a path found among arrays, one kind expected")
        yield hold_block(name, batch, columns)
        del batch  # free it before the next batch is made


def _number_batches(batches: Iterator[Any]) -> Iterator[tuple[int, Any]]:
    number = 0
    while True:
        with _stream_errors(f"at batch {number}"):
            batch = next(batches, _END)
        if batch is _END:
            return
        yield number, batch
        del batch
        number += 1


@contextmanager
def _stream_errors(where: str) -> Iterator[None]:
    """Name the stream in its errors; a bare ``OSError`` would look like one of the spool's."""
    try:
        yield
    except TeravecError:
        raise
    except (OSError, pa.ArrowException) as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InvalidSource(f"the stream failed {where}: {why}") from error


def _open_stream(data: Data) -> Iterator[Any]:
    """Open a stream's iterator of batches, with small batches if it accepts a size."""
    try:
        if _is_dataset(data):
            return iter(data.with_format("arrow").iter(batch_size=_BATCH_ROWS))
        if hasattr(data, "to_arrow_reader"):  # DuckDB
            return iter(data.to_arrow_reader(_BATCH_ROWS))
        if hasattr(data, "__arrow_c_stream__"):
            return iter(pa.RecordBatchReader.from_stream(data))
        if hasattr(data, "to_batches"):  # a pyarrow dataset or scanner
            return iter(data.to_batches())
        if hasattr(data, "to_arrow_refs"):  # Ray Data, whose workers read ahead
            return iter(data.iter_batches(batch_size=_BATCH_ROWS, batch_format="pyarrow"))
        if hasattr(data, "iter_batches"):  # an open Parquet file of pyarrow
            return iter(data.iter_batches(batch_size=_BATCH_ROWS))
    except (pa.ArrowException, OSError, TypeError) as error:
        why = " ".join(str(error).split())
        raise InvalidSource(f"{type(data).__name__}: no stream of batches: {why}") from error
    return iter(data)


def _attach_ids(files: list[HeldFile], ids: Any) -> list[HeldFile]:
    if ids is None:
        return files
    known = check_ids(ids, sum(file.n for file in files), Path("ids"))
    start = 0
    for file in files:
        _refuse_second_ids(file)
        file.hold_ids(known[start : start + file.n])
        start += file.n
    return files


def _attach_ids_to_stream(batches: Iterator[VectorFile], ids: Any) -> Iterator[VectorFile]:
    known = check_ids(ids, len(ids), Path("ids"))
    start = 0
    for batch in batches:
        assert isinstance(batch, HeldFile)
        _refuse_second_ids(batch)
        if start + batch.n > len(known):
            raise InvalidArgument(
                f"ids: {len(known):,} found, {start + batch.n:,} vectors or more; one for each "
                "expected"
            )
        batch.hold_ids(known[start : start + batch.n])
        start += batch.n
        yield batch
    if start < len(known):
        raise InvalidArgument(f"ids: {len(known):,} found, {start:,} expected, one a vector")


def _refuse_second_ids(file: HeldFile) -> None:
    if file.held_ids is not None:
        raise InvalidArgument(f"{file.path}: ids found beside the vectors, and ids= given")


def _spool_source(source: Source, path: Path, progress: Progress, *, skip_bad: bool) -> Source:
    """Write a source to a spool, or find the spool that exists, and open that."""
    if path.exists() and not skip_bad:  # bad rows have no values to compare
        before = open_files([open_spool(path)], source.id_column)
        if not source.is_described_by(before.describe()):
            raise OutputExists(
                f"{path}: holds {before.ntotal:,} x {before.d} vectors of an earlier run, not "
                "those given now; remove it, or choose another output"
            )
    attributes = source.attributes
    if attributes is not None:  # before the vectors: where those are, these are complete
        attributes = spool_attributes(attributes, path)
    blocks = [part.file for part in source.files]
    file = spool(blocks, path, progress, source.ntotal, skip_bad=skip_bad)
    return open_files(
        [file], source.id_column, source.vector_column, skip_bad=skip_bad, attributes=attributes
    )
