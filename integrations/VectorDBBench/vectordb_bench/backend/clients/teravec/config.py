"""What a run of VectorDBBench on teravec is told."""

from pydantic import BaseModel

from ..api import DBCaseConfig, DBConfig, MetricType

METRICS = {MetricType.COSINE: "cosine", MetricType.L2: "l2", MetricType.IP: "ip"}


class TeravecConfig(DBConfig):
    """Where the index lies: a directory, or the URL of an object store."""

    path: str

    def to_dict(self) -> dict:
        return {"path": self.path}


class TeravecIndexConfig(BaseModel, DBCaseConfig):
    """How the index is built and searched."""

    metric_type: MetricType | None = None
    codec: str = "sq8"
    nlist: int | None = None
    nprobe: int | None = None
    recall: float | None = None

    def index_param(self) -> dict:
        metric = METRICS[self.metric_type or MetricType.COSINE]
        return {"metric": metric, "codec": self.codec, "nlist": self.nlist}

    def search_param(self) -> dict:
        return {"nprobe": self.nprobe, "recall": self.recall}
