"""Where do vectors come from? Files, memory or streams, as one matrix read by ranges of rows."""

from teravec.sources.attributes import Attributes, parse_columns
from teravec.sources.bad_rows import find_bad, match_description, read_bad, write_bad
from teravec.sources.conversion import GAP_BYTES, spans
from teravec.sources.data import Data, are_paths, open_data
from teravec.sources.databases.query import DatabaseQuery, as_query
from teravec.sources.fingerprint import same_vectors
from teravec.sources.matrix import Source, SourceFiles
from teravec.sources.opening import open_rows, open_source, reopen
from teravec.sources.paths import PathLike
from teravec.sources.queries import open_queries
from teravec.sources.remote import remote_files
from teravec.sources.weights import Weights

__all__ = [
    "GAP_BYTES",
    "Attributes",
    "Data",
    "DatabaseQuery",
    "PathLike",
    "Source",
    "SourceFiles",
    "Weights",
    "are_paths",
    "as_query",
    "find_bad",
    "match_description",
    "open_data",
    "open_queries",
    "open_rows",
    "open_source",
    "parse_columns",
    "read_bad",
    "remote_files",
    "reopen",
    "same_vectors",
    "spans",
    "write_bad",
]
