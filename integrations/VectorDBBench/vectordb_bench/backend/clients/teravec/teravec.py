"""teravec in VectorDBBench: rows are collected, and ``optimize`` builds the index of them."""

import logging
import shutil
import uuid
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import teravec

from vectordb_bench.backend.filter import Filter, FilterOp

from ..api import VectorDB
from .config import TeravecIndexConfig

log = logging.getLogger(__name__)


class Teravec(VectorDB):
    """An index on disk.

    Rows that are inserted before there is an index are written to Parquet files beside it, and
    become the index in ``optimize``; later ones are added to the index. So insertions may come from
    any number of processes.
    """

    name = "Teravec"
    thread_safe = True
    supported_filter_types: list[FilterOp] = [FilterOp.NonFilter, FilterOp.NumGE, FilterOp.StrEqual]

    def __init__(
        self,
        dim: int,
        db_config: dict,
        db_case_config: TeravecIndexConfig,
        collection_name: str = "vdbbench",
        drop_old: bool = False,
        with_scalar_labels: bool = False,
        **kwargs,
    ):
        self.dim, self.case_config = dim, db_case_config
        self.with_scalar_labels = with_scalar_labels
        self.root = Path(db_config["path"]) / collection_name
        self.index_path, self.rows_path = self.root / "index", self.root / "rows"
        self.filter: str | None = None
        self.index = None
        if drop_old:
            shutil.rmtree(self.root, ignore_errors=True)
        self.rows_path.mkdir(parents=True, exist_ok=True)

    @property
    def has_index(self) -> bool:
        return (self.index_path / "manifest.json").exists()

    @contextmanager
    def init(self):
        self.index = teravec.open(self.index_path) if self.has_index else None
        try:
            yield
        finally:
            if self.index is not None:
                self.index.close()
            self.index = None

    def insert_embeddings(
        self,
        embeddings: list[list[float]],
        metadata: list[int],
        labels_data: list[str] | None = None,
        **kwargs,
    ) -> tuple[int, Exception | None]:
        values = pa.array(np.asarray(embeddings, np.float32).ravel())
        columns = {
            "id": pa.array(metadata, pa.int64()),
            "number": pa.array(metadata, pa.int64()),  # a column, for filters
            "vector": pa.FixedSizeListArray.from_arrays(values, self.dim),
        }
        if self.with_scalar_labels:
            columns["label"] = pa.array(labels_data, pa.string())
        try:
            if self.has_index:
                teravec.add(self.index_path, pa.table(columns))
            else:
                pq.write_table(pa.table(columns), self.rows_path / f"{uuid.uuid4().hex}.parquet")
        except Exception as error:
            log.warning("rows could not be inserted: %s", error)
            return 0, error
        return len(metadata), None

    def optimize(self, data_size: int | None = None):
        if not self.has_index:
            columns = ["number", "label"] if self.with_scalar_labels else ["number"]
            teravec.build(
                self.rows_path,
                self.index_path,
                id_column="id",
                vector_column="vector",
                columns=columns,
                **self.case_config.index_param(),
            )
        else:
            teravec.maintain(self.index_path)
        if self.index is None:
            self.index = teravec.open(self.index_path)
        else:
            self.index.refresh()

    def prepare_filter(self, filters: Filter):
        if filters.type == FilterOp.NonFilter:
            self.filter = None
        elif filters.type == FilterOp.NumGE:
            self.filter = f"number >= {filters.int_value}"
        elif filters.type == FilterOp.StrEqual:
            self.filter = f"label = '{filters.label_value}'"
        else:
            msg = f"teravec has no such filter: {filters}"
            raise ValueError(msg)

    def search_embedding(self, query: list[float], k: int = 100, **kwargs) -> list[int]:
        vector = np.asarray(query, np.float32)
        effort = self.case_config.search_param()
        ids = self.index.search(vector, k, filter=self.filter, **effort)[1]
        return ids[ids >= 0].tolist()
