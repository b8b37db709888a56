"""teravec: inverted-file vector indexes on disk, built and searched in a stated amount of memory.

::

    import teravec

    teravec.build("embeddings/*.parquet", "myindex", codec="sq6", memory="8GiB")
    with teravec.open("myindex") as index:
        distances, ids = index.search(queries, k=10, recall=0.95)
"""

from importlib.metadata import version as _version
from typing import Any

from teravec.api import (
    build,
    calibrate,
    connect,
    export_faiss,
    merge,
    open,
    shard,
    train,
    verify,
)
from teravec.engines.resources import Resources
from teravec.errors import (
    AccessDenied,
    Busy,
    CorruptFile,
    DeadlineExceeded,
    ForeignFile,
    IncompatibleVersion,
    InvalidArgument,
    InvalidSource,
    LimitExceeded,
    MemoryLimitTooSmall,
    MissingFile,
    OtherIndex,
    OutputExists,
    ProtocolError,
    ServiceError,
    StorageError,
    TeravecError,
    Unavailable,
    WorkerLost,
)
from teravec.progress import Progress
from teravec.search.index import Index
from teravec.search.stats import SearchStats
from teravec.serving.client import RemoteIndex
from teravec.training.options import TrainOptions
from teravec.training.record import LayoutOptions

__all__ = [
    "AccessDenied",
    "Bars",
    "Busy",
    "CorruptFile",
    "DeadlineExceeded",
    "ForeignFile",
    "IncompatibleVersion",
    "Index",
    "InvalidArgument",
    "InvalidSource",
    "LayoutOptions",
    "LimitExceeded",
    "MemoryLimitTooSmall",
    "MissingFile",
    "OtherIndex",
    "OutputExists",
    "Progress",
    "ProtocolError",
    "RemoteIndex",
    "Resources",
    "SearchStats",
    "ServiceError",
    "StorageError",
    "TeravecError",
    "TrainOptions",
    "Unavailable",
    "WorkerLost",
    "build",
    "calibrate",
    "connect",
    "export_faiss",
    "merge",
    "open",
    "shard",
    "train",
    "verify",
]

__version__ = _version("teravec")


def __getattr__(name: str) -> Any:
    if name == "Bars":  # not before it is asked for: it takes tens of milliseconds to import
        from teravec.bars import Bars

        return Bars
    raise AttributeError(f"module 'teravec' has no attribute {name!r}")
