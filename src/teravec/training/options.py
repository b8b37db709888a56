"""The options of training, and the rules for options that the user leaves open."""

from __future__ import annotations

import math
from dataclasses import dataclass

from teravec.arguments import whole_number
from teravec.engines.options import CPU
from teravec.errors import InvalidArgument
from teravec.kernels.codec import Codec, code_bytes
from teravec.kernels.metric import Metric
from teravec.model.transform import TransformKind
from teravec.storage.listfile import ID_BYTES

__all__ = ["MIN_SAMPLE_PER_LIST", "KMeansOptions", "TrainOptions", "TrainPlan", "plan_training"]

MIN_SAMPLE_PER_LIST = 39  # Faiss's min_points_per_centroid: fewer give poor centroids
_SAMPLE_PER_LIST = 64
_MOST_ASSIGNED = 1 << 18  # of the sample, where nothing but codec and transform is trained
_CALIBRATION_ROWS = 1000  # rows outside the sample for a calibration's queries
_MOST_ITERATIONS = 100_000  # each adds an entry to the model; k-means converges long before
_LARGEST_NLIST = 1 << 30  # the place of a vector in an index packs its list number in 31 bits


@dataclass(frozen=True)
class TrainOptions:
    """The user's options of training; None leaves a choice to the rules.

    Parameters
    ----------
    nlist : int, optional
        Inverted lists. Not given: the power of two nearest 4 sqrt(ntotal), but at least 39
        vectors per list.
    metric : str
        ``l2``, ``ip`` or ``cosine``.
    transform : str, optional
        ``none``, ``rotation`` or ``pcaM``. Not given: rotation for rabitq, whose error bound
        needs it; none for the other codecs.
    codec : str
        A name of ``teravec.kernels.codec``.
    sample : int, optional
        Training vectors. Not given: 64 per list.
    niter : int
        Iterations of k-means.
    seed : int
        Seed of every random choice. The same seed gives the same model.
    max_list_bytes : int, optional
        Cap on the bytes of a list's codes and ids. Lists expected to be larger, judging by the
        sample, are split, which adds lists. Not given: no cap.
    """

    nlist: int | None = None
    metric: str = "l2"
    transform: str | None = None
    codec: str = "sq8"
    sample: int | None = None
    niter: int = 10
    seed: int = 1234
    max_list_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("nlist", "sample", "niter", "seed", "max_list_bytes"):
            value = getattr(self, name)
            if value is not None or name in ("niter", "seed"):
                object.__setattr__(self, name, whole_number(value, name))


@dataclass(frozen=True)
class TrainPlan:
    """The options of training with every choice made."""

    d: int
    d_index: int
    nlist: int
    metric: Metric
    transform: TransformKind
    codec: Codec
    sample: int
    niter: int
    seed: int
    ntotal: int
    max_list_bytes: int | None = None

    @property
    def code_size(self) -> int:
        """Bytes of a vector's code."""
        return code_bytes(self.codec, self.d_index)

    @property
    def row_bytes(self) -> int:
        """Bytes of a vector in a list: code and id."""
        return self.code_size + ID_BYTES

    @property
    def most_lists(self) -> int:
        """Most lists after splitting."""
        if self.max_list_bytes is None:
            return self.nlist
        return self.nlist + 5 * self.ntotal * self.row_bytes // (2 * self.max_list_bytes)


@dataclass(frozen=True)
class KMeansOptions:
    """Options of k-means.

    Parameters
    ----------
    nlist, niter, seed : int
    spherical : bool
        Scale centroids to unit length, for cosine.
    threads : int
    device : str
        Device that assigns vectors, by its name in ``kernels.device``.
    """

    nlist: int
    niter: int
    seed: int
    spherical: bool
    threads: int
    device: str = CPU


def auto_nlist(ntotal: int) -> int:
    """Choose nlist: a power of two, with about sqrt(ntotal) / 4 vectors per list."""
    ideal = 1 << round(math.log2(4 * math.sqrt(ntotal)))
    return max(1, min(ideal, ntotal // MIN_SAMPLE_PER_LIST))


def plan_training(
    options: TrainOptions, ntotal: int, d: int, given_lists: int | None = None
) -> TrainPlan:
    """Check the options against the source, and make the open choices.

    Parameters
    ----------
    options : TrainOptions
    ntotal, d : int
    given_lists : int, optional
        Number of centroids, where the user gave them: the sample trains all but those.

    Raises
    ------
    InvalidArgument
        A value is out of range or does not fit the source.
    """
    if ntotal < 1:
        raise InvalidArgument("there are no vectors to train on")
    metric, codec = Metric.parse(options.metric), Codec.parse(options.codec)
    default_transform = "rotation" if codec.wants_rotation else "none"
    asked = default_transform if options.transform is None else options.transform
    transform = TransformKind.parse(asked)
    d_index = transform.output_dimension(d)
    codec.check_dimension(d_index)
    nlist = auto_nlist(ntotal) if options.nlist is None else options.nlist
    nlist = nlist if given_lists is None else given_lists
    if not 1 <= nlist <= _LARGEST_NLIST:
        raise InvalidArgument(f"nlist is {nlist}; 1 to {_LARGEST_NLIST:,} expected")
    if not 1 <= options.niter <= _MOST_ITERATIONS:
        at_least = "at least 1" if options.niter < 1 else f"at most {_MOST_ITERATIONS:,}"
        raise InvalidArgument(f"niter is {options.niter}; {at_least} expected")
    if options.seed < 0:
        raise InvalidArgument(f"seed is {options.seed}; at least 0 expected")
    clustered = nlist
    if given_lists is not None and options.max_list_bytes is None:
        clustered = min(nlist, _MOST_ASSIGNED // _SAMPLE_PER_LIST)
    sample = options.sample
    if sample is None:
        sample = _default_sample(ntotal, clustered, codec)
    sample = min(sample, ntotal)
    if sample < nlist and given_lists is None:
        raise InvalidArgument(
            f"{sample:,} training vectors for {nlist:,} lists; at least one for each expected "
            f"(the source has {ntotal:,} vectors)"
        )
    if codec.kind == "pq" and sample < 1 << codec.bits:
        raise InvalidArgument(
            f"{sample:,} training vectors for codec {codec.name}; "
            f"at least {1 << codec.bits:,} expected"
        )
    plan = TrainPlan(
        d,
        d_index,
        nlist,
        metric,
        transform,
        codec,
        sample,
        options.niter,
        options.seed,
        ntotal,
        options.max_list_bytes,
    )
    mean = ntotal * plan.row_bytes / nlist
    if options.max_list_bytes is not None and options.max_list_bytes < mean:
        raise InvalidArgument(
            f"max-list-bytes is {options.max_list_bytes:,}; {nlist:,} lists have {mean:,.0f} bytes "
            "on average, and at least that is expected: ask for more lists"
        )
    return plan


def _default_sample(ntotal: int, nlist: int, codec: Codec) -> int:
    """Choose the size of the sample.

    Small sources keep up to 1,000 rows (at most a tenth) out of training, as queries of the
    calibration. A calibration on vectors of the sample is wrong by up to 0.05, which matters more
    than slightly fewer training vectors.
    """
    ideal = max(_SAMPLE_PER_LIST * nlist, codec.min_training_vectors)
    fewest = max(nlist, codec.min_training_vectors)
    return min(ideal, max(fewest, ntotal - min(_CALIBRATION_ROWS, ntotal // 10)))
