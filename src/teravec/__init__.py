"""teravec: inverted-file vector indexes on disk, built and searched in a stated amount of memory.

::

    import teravec

    teravec.build("embeddings/*.parquet", "myindex", codec="sq6", memory="8GiB")
    with teravec.open("myindex") as index:
        distances, ids = index.search(queries, k=10, recall=0.95)
"""

from teravec.api import build, calibrate, export_faiss, merge, open, shard, train, verify
from teravec.errors import (
    CorruptFile,
    ForeignFile,
    IncompatibleVersion,
    InvalidArgument,
    InvalidSource,
    MemoryLimitTooSmall,
    MissingFile,
    OutputExists,
    StorageError,
    TeravecError,
    WorkerLost,
)
from teravec.search.index import Index
from teravec.search.stats import SearchStats

__all__ = [
    "CorruptFile",
    "ForeignFile",
    "IncompatibleVersion",
    "Index",
    "InvalidArgument",
    "InvalidSource",
    "MemoryLimitTooSmall",
    "MissingFile",
    "OutputExists",
    "SearchStats",
    "StorageError",
    "TeravecError",
    "WorkerLost",
    "build",
    "calibrate",
    "export_faiss",
    "merge",
    "open",
    "shard",
    "train",
    "verify",
]
