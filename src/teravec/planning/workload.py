"""The input of a prediction: the index to build, the machines, the queries and the prices."""

from __future__ import annotations

from dataclasses import dataclass

from teravec.arguments import real_number, whole_number
from teravec.errors import InvalidArgument
from teravec.storage.listfile import ID_BYTES
from teravec.storage.rowfile import page_bytes_for
from teravec.training.options import TrainOptions, TrainPlan, plan_training

__all__ = ["Cluster", "Prices", "Queries", "Workload"]


@dataclass(frozen=True)
class Workload:
    """The index to build.

    Parameters
    ----------
    train : TrainPlan
        The plan that a build makes from the same options.
    item_bytes : int
        Bytes of one element of the source's vectors.
    imbalance : float
        nlist times the sum of squared list sizes, divided by the square of their sum: the codes
        of an average visited list, relative to the average list.
    """

    train: TrainPlan
    item_bytes: int = 4
    imbalance: float = 1.5

    @classmethod
    def of(
        cls, ntotal: int, d: int, options: TrainOptions, *, item_bytes: int, imbalance: float
    ) -> Workload:
        """Return the workload of a build with these options, or raise InvalidArgument."""
        imbalance = real_number(imbalance, "imbalance")
        if d < 1 or item_bytes not in (1, 2, 4) or not imbalance >= 1:
            raise InvalidArgument(
                f"d is {d}, bytes an element {item_bytes}, imbalance {imbalance}; "
                "at least 1, one of 1, 2 and 4, and at least 1 expected"
            )
        return cls(plan_training(options, ntotal, d), item_bytes, imbalance)

    @property
    def ntotal(self) -> int:
        """Number of vectors."""
        return self.train.ntotal

    @property
    def code_size(self) -> int:
        """Bytes of a code."""
        return self.train.code_size

    @property
    def row_bytes(self) -> int:
        """Bytes of a vector in a list: code and id."""
        return self.train.row_bytes

    @property
    def scanned_bytes(self) -> int:
        """Bytes that a search scans for a vector: its code, or its sketch in two stages."""
        return self.train.codec.sketch_size(self.train.d_index) or self.code_size

    @property
    def page_bytes(self) -> int:
        """Bytes of a page of finer codes; 0 with one stage."""
        if not self.train.codec.sketch_bits:
            return 0
        return page_bytes_for(self.code_size - self.scanned_bytes + ID_BYTES)

    @property
    def index_bytes(self) -> int:
        """Bytes of codes and ids, and of what finer codes leave of their pages."""
        if not self.page_bytes:
            return self.ntotal * self.row_bytes
        fine = self.code_size - self.scanned_bytes + ID_BYTES
        pages = self.page_bytes / ((self.page_bytes - 8) // fine)
        return int(self.ntotal * (self.scanned_bytes + ID_BYTES + pages))

    @property
    def source_bytes(self) -> int:
        """Bytes of the source's vectors."""
        return self.ntotal * self.train.d * self.item_bytes

    @property
    def centroid_bytes(self) -> int:
        """Bytes of the centroids in float32."""
        return 4 * self.train.nlist * self.train.d_index


@dataclass(frozen=True)
class Cluster:
    """The machines of the build, all alike.

    Parameters
    ----------
    machines, threads : int
        Number of machines; threads of each.
    memory_bytes : int
        Limit of the one process on each machine.
    shards, slices : int, optional
        Not given: shards that fit in memory, at least one per machine; slices of about 1 GiB.
    servers : int, optional
        Machines that answer queries. Not given: all of them.
    """

    machines: int = 1
    threads: int = 1
    memory_bytes: int = 4 << 30
    shards: int | None = None
    slices: int | None = None
    servers: int | None = None

    def __post_init__(self) -> None:
        for name in ("machines", "threads", "shards", "slices", "servers"):
            if (count := getattr(self, name)) is not None:
                whole_number(count, name, 1)


@dataclass(frozen=True)
class Queries:
    """What a query costs in lists.

    Parameters
    ----------
    nprobe : float
        Lists visited, on average.
    k : int
    recall : float, optional
        Recall of the k nearest that these lists give, if it is known.
    origin : str
        Where the number of lists comes from, in words.
    refined : float, optional
        With codes in two stages: candidates whose finer codes are read. Not given: 50 with
        sketches of 2 bits, 200 with 1, as measured at recall 0.95 (docs/design/0013).
    """

    nprobe: float = 64
    k: int = 10
    recall: float | None = None
    origin: str = "given"
    refined: float | None = None

    def __post_init__(self) -> None:
        real_number(self.nprobe, "nprobe", 1, expected="a number of at least 1")
        whole_number(self.k, "k", 1)


@dataclass(frozen=True)
class Prices:
    """Prices in any currency.

    Parameters
    ----------
    machine_hour : float
    disk_gb_month : float
        Price of 10^9 bytes for a month.
    """

    machine_hour: float = 0.0
    disk_gb_month: float = 0.0

    def __post_init__(self) -> None:
        for name, price in vars(self).items():
            real_number(price, name.replace("_", "-"), 0, 1e15, "a number from 0 to 1e15")
