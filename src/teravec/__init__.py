"""teravec: inverted-file vector indexes on disk, built and searched in a stated amount of memory.

::

    import teravec

    teravec.build("embeddings/*.parquet", "myindex", codec="sq6", memory="8GiB")
    with teravec.open("myindex") as index:
        distances, ids = index.search(queries, k=10, recall=0.95)
"""

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
from teravec.search.index import Index
from teravec.search.stats import SearchStats
from teravec.serving.client import RemoteIndex

__all__ = [
    "AccessDenied",
    "Busy",
    "CorruptFile",
    "DeadlineExceeded",
    "ForeignFile",
    "IncompatibleVersion",
    "Index",
    "InvalidArgument",
    "InvalidSource",
    "LimitExceeded",
    "MemoryLimitTooSmall",
    "MissingFile",
    "OtherIndex",
    "OutputExists",
    "ProtocolError",
    "RemoteIndex",
    "SearchStats",
    "ServiceError",
    "StorageError",
    "TeravecError",
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
