"""Where vectors come from: files, memory or streams as one matrix, read by ranges of rows."""

from teravec.sources.conversion import GAP_BYTES, spans
from teravec.sources.data import Data, open_data
from teravec.sources.matrix import Source, SourceFiles, open_source
from teravec.sources.paths import PathLike, checked_path
from teravec.sources.weights import Weights

__all__ = [
    "GAP_BYTES",
    "Data",
    "PathLike",
    "Source",
    "SourceFiles",
    "Weights",
    "checked_path",
    "open_data",
    "open_source",
    "spans",
]
