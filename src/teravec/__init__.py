"""teravec: inverted-file vector indexes on disk, built and searched in a stated amount of memory.

::

    import teravec

    teravec.build("embeddings/*.parquet", "myindex", codec="sq6", memory="8GiB")
    teravec.build(vectors, "another", ids=ids)  # an array, a table, a data frame, a stream
    with teravec.open("myindex") as index:
        distances, ids = index.search(queries, k=10, recall=0.95)
"""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import Any as _Any

from teravec.advising.advice import Advice, Bounds, Option
from teravec.api import build, connect, files, open, store
from teravec.bulk.corpus import CorpusSummary
from teravec.bulk.duplicates import DuplicateSummary
from teravec.bulk.results import Neighbors
from teravec.bulk.returned import Nearest, Within
from teravec.changing import (
    add,
    compact,
    copy,
    delete,
    maintain,
    rebalance,
    rollback,
    vacuum,
    versions,
)
from teravec.checking import bench_disk, info, selftest, verify
from teravec.duplicating import duplicates
from teravec.engines.resources import Resources
from teravec.errors import (
    AccessDenied,
    Busy,
    CorruptFile,
    DeadlineExceeded,
    ForeignFile,
    IncompatibleVersion,
    InvalidArgument,
    InvalidFilter,
    InvalidSource,
    LimitExceeded,
    MemoryLimitTooSmall,
    MissingFile,
    OldVersion,
    OtherIndex,
    OutputExists,
    ProtocolError,
    ServiceError,
    StorageError,
    TeravecError,
    Unavailable,
    WorkerLost,
)
from teravec.evaluation.evaluation import Evaluation
from teravec.evaluation.evaluations import Evaluations
from teravec.exchanging import export_faiss, import_faiss
from teravec.index.calibration import Calibration, Measured, Reach
from teravec.index.hardness import Hardness
from teravec.index.kept_queries import KeptQueries, NeighboursEntry, QueriesEntry
from teravec.index.manifest import CalibrationEntry, Manifest
from teravec.index.spread import Spread
from teravec.kernels.metric import Metric
from teravec.kernels.sketch import Candidates
from teravec.measuring import calibrate, evaluate, groundtruth
from teravec.model.description import ModelDescription
from teravec.planning.constants import Constants
from teravec.planning.machines import Machine
from teravec.planning.planned import Planned
from teravec.planning.prediction import Plan, QueryPlan, Stage
from teravec.planning.workload import Cluster, Prices, Queries, Workload
from teravec.predicting import advise, plan
from teravec.progress import Bar, Progress
from teravec.querying import range_search, search
from teravec.report import Report
from teravec.search.effort import Effort
from teravec.search.index import Index
from teravec.search.searchable import Searchable
from teravec.search.stats import SearchStats
from teravec.segments.delete_set import DeleteSet, SequencedRows
from teravec.segments.segment import RowsEntry, Segment
from teravec.segments.voided import VoidedLists
from teravec.selftest.comparison import SelfTest, SelfTestResult
from teravec.serving.wire.client import RemoteIndex
from teravec.staging import merge, shard, train
from teravec.storage.device import DeviceProfile, Rate
from teravec.storage.device_reads import Method
from teravec.storage.store import Store
from teravec.tables import get, query, range_query
from teravec.training.options import TrainOptions
from teravec.training.record import LayoutOptions
from teravec.writing.copying import Copied
from teravec.writing.history import Vacuumed
from teravec.writing.maintaining import Maintained, MaintenanceStep

__all__ = [
    "AccessDenied",
    "Advice",
    "Bar",
    "Bars",
    "Bounds",
    "Busy",
    "Calibration",
    "CalibrationEntry",
    "Candidates",
    "Cluster",
    "Constants",
    "Copied",
    "CorpusSummary",
    "CorruptFile",
    "DeadlineExceeded",
    "DeleteSet",
    "DeviceProfile",
    "DuplicateSummary",
    "Effort",
    "Evaluation",
    "Evaluations",
    "ForeignFile",
    "Hardness",
    "IncompatibleVersion",
    "Index",
    "InvalidArgument",
    "InvalidFilter",
    "InvalidSource",
    "KeptQueries",
    "LayoutOptions",
    "LimitExceeded",
    "Machine",
    "Maintained",
    "MaintenanceStep",
    "Manifest",
    "Measured",
    "MemoryLimitTooSmall",
    "Method",
    "Metric",
    "MissingFile",
    "ModelDescription",
    "Nearest",
    "Neighbors",
    "NeighboursEntry",
    "OldVersion",
    "Option",
    "OtherIndex",
    "OutputExists",
    "Plan",
    "Planned",
    "Prices",
    "Progress",
    "ProtocolError",
    "Queries",
    "QueriesEntry",
    "QueryPlan",
    "Rate",
    "Reach",
    "RemoteIndex",
    "Report",
    "Resources",
    "RowsEntry",
    "SearchStats",
    "Searchable",
    "Segment",
    "SelfTest",
    "SelfTestResult",
    "SequencedRows",
    "ServiceError",
    "Spread",
    "Stage",
    "StageTime",
    "StorageError",
    "Store",
    "TeravecError",
    "TrainOptions",
    "Unavailable",
    "Vacuumed",
    "VoidedLists",
    "Within",
    "WorkerLost",
    "Workload",
    "add",
    "advise",
    "bench_disk",
    "build",
    "calibrate",
    "compact",
    "connect",
    "copy",
    "delete",
    "duplicates",
    "evaluate",
    "export_faiss",
    "files",
    "get",
    "groundtruth",
    "import_faiss",
    "info",
    "maintain",
    "merge",
    "open",
    "plan",
    "query",
    "range_query",
    "range_search",
    "rebalance",
    "rollback",
    "search",
    "selftest",
    "shard",
    "store",
    "train",
    "vacuum",
    "verify",
    "versions",
]

__version__ = _version("teravec")
_LAZY = ("Bars", "StageTime")
_FORMER = {"SliceEntry": "Segment"}  # names of earlier releases


def __getattr__(name: str) -> _Any:
    if name in _LAZY:  # not before it is asked for: it takes tens of milliseconds to import
        return getattr(_import_module("teravec.bars"), name)
    if name in _FORMER:
        return globals()[_FORMER[name]]
    raise AttributeError(f"module 'teravec' has no attribute {name!r}")
