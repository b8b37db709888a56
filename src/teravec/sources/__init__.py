"""Where vectors come from: files read as one matrix, by row ranges, in bounded memory."""

from teravec.sources.bad_rows import as_described, find_bad, read_bad, write_bad
from teravec.sources.conversion import GAP_BYTES, spans
from teravec.sources.matrix import Source, SourceFiles, open_rows, open_source, same_vectors
from teravec.sources.paths import PathLike
from teravec.sources.queries import open_queries
from teravec.sources.weights import Weights

__all__ = [
    "GAP_BYTES", "PathLike", "Source", "SourceFiles", "Weights", "as_described", "find_bad",
    "open_queries", "open_rows", "open_source", "read_bad", "same_vectors", "spans", "write_bad",
]  # fmt: skip
