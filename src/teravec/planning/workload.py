"""What is to be built, on what, and asked: what a prediction is made of."""

from __future__ import annotations

from dataclasses import dataclass

from teravec.arguments import real_number, whole_number
from teravec.errors import InvalidArgument
from teravec.training.options import TrainOptions, TrainPlan, plan_training

__all__ = ["Cluster", "Prices", "Queries", "Workload"]


@dataclass(frozen=True)
class Workload:
    """An index to build.

    Parameters
    ----------
    train : TrainPlan
        As a build would make it of the same options.
    item_bytes : int
        Of one element of the source's vectors.
    imbalance : float
        nlist times the sum of squared list sizes, divided by the square of their sum: how many
        times more codes a visited list holds than the mean one.
    """

    train: TrainPlan
    item_bytes: int = 4
    imbalance: float = 1.5

    @classmethod
    def of(
        cls, ntotal: int, d: int, options: TrainOptions, *, item_bytes: int, imbalance: float
    ) -> Workload:
        """The workload of a build with these options, or InvalidArgument."""
        imbalance = real_number(imbalance, "imbalance")
        if d < 1 or item_bytes not in (1, 2, 4) or not imbalance >= 1:
            raise InvalidArgument(
                f"d is {d}, bytes an element {item_bytes}, imbalance {imbalance}; "
                "at least 1, one of 1, 2 and 4, and at least 1 expected"
            )
        return cls(plan_training(options, ntotal, d), item_bytes, imbalance)

    @property
    def ntotal(self) -> int:
        """Vectors."""
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
    def source_bytes(self) -> int:
        """Bytes of the source's vectors."""
        return self.ntotal * self.train.d * self.item_bytes

    @property
    def centroid_bytes(self) -> int:
        """Bytes of the centroids in float32."""
        return 4 * self.train.nlist * self.train.d_index


@dataclass(frozen=True)
class Cluster:
    """Machines that work on it, all alike.

    Parameters
    ----------
    machines, threads : int
        Machines; threads of each.
    memory_bytes : int
        Limit of the one process on each machine.
    shards, slices : int, optional
        Not given: by memory, at least one a machine; of about 1 GiB.
    servers : int, optional
        Machines that answer queries; all of them when not given.
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
    """What a search asks for.

    Parameters
    ----------
    nprobe, k : int
    """

    nprobe: int = 64
    k: int = 10

    def __post_init__(self) -> None:
        whole_number(self.nprobe, "nprobe", 1)
        whole_number(self.k, "k", 1)


@dataclass(frozen=True)
class Prices:
    """What is paid, in any currency.

    Parameters
    ----------
    machine_hour : float
    disk_gb_month : float
        For 10^9 bytes.
    """

    machine_hour: float = 0.0
    disk_gb_month: float = 0.0

    def __post_init__(self) -> None:
        for name, price in vars(self).items():
            real_number(price, name.replace("_", "-"), 0, 1e15, "a number from 0 to 1e15")
