"""The train stage: it makes a sealed ``model/`` from a source and options."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.engines.block_sizes import USUAL_SIZES, BlockSizes
from teravec.engines.resources import Resources
from teravec.errors import InvalidSource
from teravec.kernels.assignment import CentroidAssigner
from teravec.kernels.codec import flat_quantizer, train_codec
from teravec.kernels.hnsw import build_hnsw, save_hnsw
from teravec.kernels.metric import Metric, normalized
from teravec.memory import require
from teravec.model.description import ModelDescription
from teravec.model.list_sizes import ListsEstimate
from teravec.model.transform import Transform, train_transform
from teravec.progress import NoProgress, Progress
from teravec.sources import Source, Weights
from teravec.storage.arrays import describe_file, write_array
from teravec.storage.layout import IndexPaths
from teravec.training.apart import Kept, checked_places
from teravec.training.given_centroids import GivenCentroids
from teravec.training.kmeans import KMeansState, kmeans
from teravec.training.locality import locality_order
from teravec.training.moments import sample_moments
from teravec.training.options import KMeansOptions, TrainPlan
from teravec.training.record import BuildRecord
from teravec.training.rows import SampleRows
from teravec.training.sample import draw_rows_outside, draw_sample
from teravec.training.splitting import SplitOptions, split_large_lists, splitting_bytes
from teravec.training.training_set import PROBE, TrainingSet
from teravec.training.weights import draw_weights

__all__ = ["EXACT_QUANTIZER_NLIST", "train"]

Float32 = npt.NDArray[np.float32]

log = logging.getLogger(__name__)

# Above this many lists a query finds its lists through HNSW. Comparing one query with all
# centroids costs nlist * d multiplications; the graph computes a few hundred distances.
EXACT_QUANTIZER_NLIST = 1 << 16
_FEWEST_HELD_OUT = 1000  # with fewer vectors outside the sample, the sample is a better test
_CODEC_BYTES = 32 << 20  # of float32 vectors: 87,000 of 96 dimensions; Faiss uses 100,000


def train(
    source: Source,
    record: BuildRecord,
    paths: IndexPaths,
    resources: Resources,
    weights: Weights | None,
    given: GivenCentroids | None = None,
) -> ModelDescription:
    """Train the model of a build, or read it if it is sealed.

    ``training/`` keeps the sample and the last iteration of k-means until the model is sealed: a
    rerun continues where a killed run stopped. The engine draws the sample, sums the moments of
    a PCA, runs k-means and splits lists. The codec is trained in this process, on a fixed number
    of vectors. In k-means the device assigns the vectors. Given centroids take the place of
    k-means; transform and codec are trained all the same.

    Raises
    ------
    MemoryLimitTooSmall
        Centroids and one block of vectors do not fit in the limit.
    """
    if ModelDescription.is_sealed(paths.model):
        description = ModelDescription.read(paths.model)
        paths.training.remove_all()
        return description
    plan, threads = record.plan(), resources.threads
    needed = training_bytes(plan, threads, resources.sizes)
    require(needed, resources.memory_bytes, f"training {plan.nlist:,} lists")
    if given is not None:
        given.check(plan.metric)
    vectors = _draw_training_set(source, plan, paths, resources, weights)
    _check_values(source, plan, vectors)
    options = KMeansOptions(
        plan.nlist, plan.niter, plan.seed, plan.metric is Metric.COSINE, threads, resources.device
    )
    if given is None:
        state = kmeans(vectors, options, paths.training, resources.progress, resources.engine)
    else:
        state = KMeansState(given.read(plan.metric, vectors.transform))
    part = vectors.evenly(codec_rows(plan))
    probe = _read_held_out(source, plan, vectors)
    lists = _finish_lists(plan, state.centroids, vectors, part, probe, resources)
    arrays: dict[str, Any] = {"centroids.npy": lists.centroids}
    quantizer = flat_quantizer(lists.centroids, plan.metric)
    list_nos, _ = lists.assigner.assign(part, threads=threads)
    parts = plan.codec.training_parts
    # Show progress only for product quantizers, which take most of the training time.
    progress = resources.progress if parts > 1 else NoProgress()
    with progress.stage("codec", parts, "sub-quantizers") as bar:
        arrays["codec.npy"] = train_codec(
            plan.codec, quantizer, plan.metric, part, list_nos, threads, bar.advance
        )
    if (packed := vectors.transform.pack()) is not None:
        arrays["transform.npy"] = packed
    given_files = None if given is None else given.describe()["files"]
    description = _seal(
        plan, arrays, lists, state.history, vectors.n, paths, resources.progress, given_files
    )
    paths.training.remove_all()
    return description


def _draw_training_set(
    source: Source,
    plan: TrainPlan,
    paths: IndexPaths,
    resources: Resources,
    weights: Weights | None,
) -> TrainingSet:
    """Draw the sample and its weights, and train the transform."""
    engine, progress, sizes = resources.engine, resources.progress, resources.sizes
    sample = draw_sample(source, plan, paths.training, progress, engine, sizes)
    whole = TrainingSet(sample, Transform.unpack(None), plan.d, sizes=sizes)
    transform = train_transform(
        plan.transform,
        plan.d,
        lambda: sample_moments(sample, whole.block_rows, engine, progress, sizes.moment_blocks),
        centered=plan.metric is Metric.L2,
        seed=plan.seed,
        some=whole.probe,
    )
    drawn = None if weights is None else draw_weights(weights, plan, paths.training)
    return TrainingSet(sample, transform, plan.d_index, drawn, sizes)


def _check_values(source: Source, plan: TrainPlan, vectors: TrainingSet) -> None:
    """Refuse vectors that codes or float32 cannot distinguish, before the work of k-means."""

    def place_of(number: int) -> str:
        return source.place_of(int(rows.rows(number, number + 1)[0]))

    rows = SampleRows(plan.ntotal, plan.sample, plan.seed)
    if math.isfinite(plan.codec.largest):
        start = 0
        for block in vectors.blocks():
            plan.codec.check_values(block, partial(_place_after, place_of, start))
            start += len(block)
    places = checked_places(vectors.n)
    some = vectors.take(places)
    halves = plan.codec.usual_name == "fp16" and not plan.codec.residual
    rounded = some.astype(np.float16).astype(np.float32) if halves else some
    kept = Kept(some, rounded, plan.codec.name, lambda i: place_of(int(places[i])))
    if lost := kept.is_too_near(unit=plan.metric is Metric.COSINE) or kept.is_lost():
        raise InvalidSource(lost)
    if coarse := kept.is_coarse():
        log.warning("%s", coarse)


def _place_after(place_of: Callable[[int], str], start: int, number: int) -> str:
    return place_of(start + number)


@dataclass(frozen=True)
class _Lists:
    """The final lists: their centroids, assigner and estimated sizes."""

    centroids: Float32
    assigner: CentroidAssigner
    estimate: ListsEstimate


def _finish_lists(
    plan: TrainPlan,
    centroids: Float32,
    vectors: TrainingSet,
    part: Float32,
    probe: Float32,
    resources: Resources,
) -> _Lists:
    """Split lists above the cap, and sort all lists so that near lists are neighbours."""
    threads = resources.threads

    def make(centroids: Float32) -> CentroidAssigner:
        return CentroidAssigner.auto(centroids, probe, seed=plan.seed, threads=threads)

    if plan.max_list_bytes is None:
        centroids = centroids[locality_order(centroids)]
        assigner = make(centroids)
        list_nos, _ = assigner.assign(part, threads=threads)
        counts = np.bincount(list_nos, minlength=len(centroids))
        return _Lists(centroids, assigner, ListsEstimate.of(counts, plan.ntotal, plan.row_bytes))
    options = SplitOptions(
        plan.max_list_bytes // plan.row_bytes, plan.ntotal, plan.seed, plan.metric is Metric.COSINE
    )
    split, counts, rounds = split_large_lists(
        vectors, centroids, options, make, resources.engine, resources.progress
    )
    estimate = ListsEstimate.of(
        counts,
        plan.ntotal,
        plan.row_bytes,
        max_bytes=plan.max_list_bytes,
        added=len(split) - len(centroids),
        rounds=rounds,
    )
    split = split[locality_order(split)]
    return _Lists(split, make(split), estimate)


def _read_held_out(source: Source, plan: TrainPlan, vectors: TrainingSet) -> Float32:
    """Read vectors outside the sample, to check the sealed model's assignment.

    The sample itself would look too good, because k-means moved the centroids towards it. On
    sift-photos 99.8 % of the sample were assigned as by exact search, but 99.5 % of other vectors.
    """
    rows = draw_rows_outside(source.ntotal, plan, PROBE)
    if len(rows) < _FEWEST_HELD_OUT:
        return vectors.probe()
    taken = source.take(rows)
    return vectors.transform.apply(normalized(taken) if plan.metric is Metric.COSINE else taken)


def training_bytes(plan: TrainPlan, threads: int, sizes: BlockSizes = USUAL_SIZES) -> int:
    """Return the memory of training: centroids, their sums, and blocks in flight."""
    row = 4 * max(plan.d, plan.d_index)
    # Centroids in float32: old, new, packed for the kernel, and in the quantizer. In float64:
    # sums and means.
    centroids = plan.most_lists * (plan.d_index * (4 * 4 + 2 * 8) + 64)
    blocks = 5 * sizes.training_block_bytes + 4096 * row
    square = 4 * 8 * plan.d**2 if plan.transform.name != "none" else 0
    codec = 3 * 4 * plan.d_index * codec_rows(plan)
    needed = centroids + max(blocks, codec) + square + threads * (8 << 20)
    if plan.max_list_bytes is not None:
        splitting = splitting_bytes(plan.most_lists, plan.d_index, threads, sizes)
        needed = max(needed, codec + splitting)
    return needed


def codec_rows(plan: TrainPlan) -> int:
    """Return the number of vectors that train the codec, whatever the memory limit."""
    return max(plan.codec.min_training_vectors, _CODEC_BYTES // (4 * plan.d_index))


def _seal(
    plan: TrainPlan,
    arrays: dict[str, Any],
    lists: _Lists,
    history: list[dict[str, float]],
    ntrain: int,
    paths: IndexPaths,
    progress: Progress,
    given_files: list[dict[str, Any]] | None,
) -> ModelDescription:
    files = {name: write_array(paths.model / name, array) for name, array in arrays.items()}
    quantizer = "exact"
    nlist, assigner = len(lists.centroids), lists.assigner
    if nlist > EXACT_QUANTIZER_NLIST:
        quantizer = "hnsw"
        path = paths.model / "quantizer.hnsw"
        log.info("building HNSW over %d centroids", nlist)
        with progress.stage("graph", nlist, "centroids") as bar:
            graph = save_hnsw(build_hnsw(arrays["centroids.npy"]))
            bar.advance(nlist)
        with path.publish() as file:
            file.write(graph, 0)
        files[path.last_name] = describe_file(path)
    assignment = {
        "ngroups": assigner.ngroups,
        "margin": assigner.margin if math.isfinite(assigner.margin) else None,
        "probes": assigner.probes,
        "agreement": assigner.agreement,
    }
    description = ModelDescription(
        plan.d,
        plan.d_index,
        nlist,
        plan.code_size,
        ntrain,
        str(plan.metric),
        plan.transform.name,
        plan.codec.name,
        quantizer,
        plan.seed,
        assignment,
        history,
        files,
        asdict(lists.estimate),
        given=given_files,
    )
    description.write(paths.model)
    log.info("model sealed: %.2f %% of vectors assigned as exact", 100 * assigner.agreement)
    return description
