"""Trying choices within a time limit, and foreseeing what a full index shows."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.advising.advice import Advice, Bounds, Option, choose
from teravec.advising.choices import REFERENCE, list_choices, pca_dimensions
from teravec.advising.drawn import Drawn, draw, most_lists
from teravec.advising.scaling import STEP, Scaling, exponents
from teravec.advising.trial import AtRecall, Choice, Trial, train_centroids, try_choice
from teravec.engines.resources import Resources
from teravec.errors import InvalidArgument
from teravec.evaluation.keeping import keep_depth
from teravec.index.opened import OPENED_LIST_BYTES
from teravec.planning.constants import Constants
from teravec.planning.model import comparisons, predict
from teravec.planning.workload import Cluster, Prices, Queries, Workload
from teravec.progress import NoProgress
from teravec.sources import Source
from teravec.training.options import MIN_SAMPLE_PER_LIST, TrainOptions

__all__ = ["AdviseOptions", "find_advice"]

Float32 = npt.NDArray[np.float32]

log = logging.getLogger(__name__)

_LOOKS = 4.8  # times that k-means looks at the whole sample, in 10 iterations
_TRAINING_SHARE, _TRUTH_SHARE = 0.2, 0.2  # of the time
_QUERIES = 1000
_KEPT_BYTES = 16  # of each neighbour that an index keeps with its queries
_TABLE_BYTES = 24  # of each list, in a slice
_NEIGHBOUR_LISTS = (2.0, 0.5)  # times the usual number, tried for the best codec


@dataclass(frozen=True)
class AdviseOptions:
    """What to try, and for how long.

    Parameters
    ----------
    train : TrainOptions
        Metric, iterations and seed of the build; nlist, if it is given, is the only one tried.
    bounds : Bounds
    seconds : float
    codecs : tuple of str
        Only these; with the transform of ``train``. Empty: all that are usual.
    """

    train: TrainOptions
    bounds: Bounds
    seconds: float = 300.0
    codecs: tuple[str, ...] = ()


def find_advice(
    source: Source,
    options: AdviseOptions,
    resources: Resources,
    speeds: Constants,
    *,
    queries: Float32 | None = None,
    command: Iterable[str] = (),
    item_bytes: int = 4,
) -> Advice:
    """Try choices on a sample, and put what full indexes would show in order.

    Parameters
    ----------
    source : Source
        With row numbers as ids.
    options : AdviseOptions
    resources : Resources
        Memory limits the sample, too.
    speeds : Constants
        Of the machine that will build.
    queries : ndarray of shape (nq, d), float32, optional
    command : iterable of str
        Words of the build's command, before codec and lists.
    item_bytes : int
        Bytes of one element of the source.
    """
    search = _Search(source, options, resources, speeds, queries, item_bytes)
    with tempfile.TemporaryDirectory(prefix="teravec-advise-") as folder:
        return search.run(Path(folder), tuple(command))


class _Search:
    def __init__(
        self,
        source: Source,
        options: AdviseOptions,
        resources: Resources,
        speeds: Constants,
        queries: Float32 | None,
        item_bytes: int,
    ) -> None:
        self._source, self._options, self._speeds = source, options, speeds
        self._resources, self._queries, self._item_bytes = resources, queries, item_bytes
        self._quiet = resources.with_progress(NoProgress())
        self._started = time.monotonic()
        self._trials: list[tuple[Trial, Scaling]] = []

    def run(self, folder: Path, command: tuple[str, ...]) -> Advice:
        """Draw, try, foresee, choose."""
        self._folder = folder
        drawn = self._drawn = self._draw()
        lists = min(drawn.plan.nlist, most_lists(len(drawn.sample)))
        if drawn.plan.nlist <= len(drawn.sample) // MIN_SAMPLE_PER_LIST:
            lists = drawn.plan.nlist
        options = self._options
        pca = None if options.codecs else pca_dimensions(drawn.sample, drawn.plan.metric)
        choices = list_choices(
            self._source.d,
            drawn.plan.nlist,
            pca,
            options.bounds.bytes_per_vector,
            options.codecs,
            options.train.transform,
        )
        untried: list[str] = []
        with self._resources.progress.stage("advise", len(choices), "choices") as bar:
            centroids = self._train(drawn, lists)
            scaling = self._scaling(drawn, lists, centroids)
            for at, choice in enumerate(choices):
                if at and self._left_s() <= 0:
                    untried.append(choice.name)
                    continue
                self._try(drawn, choice, centroids, scaling)
                bar.advance(1)
        if scaling.exact and options.train.nlist is None:
            self._try_other_lists()
        found = [self._foresee(trial, scale) for trial, scale in self._trials]
        return Advice(
            choose(found, options.bounds), options.bounds, self._basis(lists), command, untried
        )

    # ------------------------------------------------------------------ steps

    def _draw(self) -> Drawn:
        """Draw what the time limit allows, judged by the machine's speeds."""
        speeds, threads, d = self._speeds, self._resources.threads, self._source.d
        seconds = self._options.seconds
        rate = speeds.truth_flops * threads / (2 * d * _QUERIES)
        rate = min(rate, speeds.read_bytes / (self._item_bytes * d))
        compared = int(_TRUTH_SHARE * seconds * rate)
        sampled = 1 << 10
        while sampled < 1 << 26:  # training takes longer than in proportion
            lists = max(1, sampled // 64)
            flops = _LOOKS * 2 * sampled * 2 * d * comparisons(lists, speeds)
            if flops / (speeds.flops * threads) > _TRAINING_SHARE * seconds:
                break
            sampled *= 2
        return draw(
            self._source,
            self._options.train,
            self._resources,
            queries=self._queries,
            most_sampled=sampled,
            most_compared=compared,
        )

    def _train(self, drawn: Drawn, lists: int) -> Float32:
        place = self._folder / f"centroids-{lists}-{len(drawn.sample)}"
        found = train_centroids(drawn, lists, place, self._quiet, drawn.plan.niter)
        shutil.rmtree(place, ignore_errors=True)
        return found

    def _scaling(self, drawn: Drawn, lists: int, centroids: Float32) -> Scaling:
        """Try the reference codec with fewer lists, or fewer vectors, where these are too few."""
        more_lists = drawn.plan.nlist / lists
        more_vectors = drawn.ntotal / drawn.covered
        if more_lists <= 1 and more_vectors <= 1:
            return Scaling()
        choice, by_lists, by_vectors = Choice(REFERENCE, None, drawn.plan.nlist), None, None
        whole = self._measure(drawn, choice, centroids)
        if more_lists > 1:
            few = self._measure(drawn, choice, self._train(drawn, max(1, lists // STEP)))
            by_lists = exponents(whole.at, few.at)
        if more_vectors > 1:
            thin = self._measure(drawn.thinned(STEP), choice, centroids)
            by_vectors = exponents(whole.at, thin.at, falling=True)
        return Scaling(more_lists, more_vectors, by_lists, by_vectors)

    def _try(self, drawn: Drawn, choice: Choice, centroids: Float32, scaling: Scaling) -> None:
        try:
            self._trials.append((self._measure(drawn, choice, centroids), scaling))
        except InvalidArgument as error:  # as half precision cannot hold large values
            log.warning("%s was not tried: %s", choice.name, error)

    def _measure(self, drawn: Drawn, choice: Choice, centroids: Float32) -> Trial:
        place = self._folder / "trial"
        bounds = self._options.bounds
        recalls = sorted({0.8, 0.9, 0.95, bounds.recall})
        trial = try_choice(
            drawn,
            choice,
            centroids,
            place,
            self._quiet,
            k=bounds.k,
            recalls=tuple(recalls),
            seconds=max(5.0, self._left_s() / 4),
        )
        shutil.rmtree(place)
        log.info("%s: tried in %.1f s", choice.name, trial.seconds)
        return trial

    def _try_other_lists(self) -> None:
        """Try twice and half the lists for the choice that is best so far."""
        options, drawn = self._options, self._drawn
        best = choose((self._foresee(*each) for each in self._trials), options.bounds)[0]
        if not best.best or self._left_s() <= 0:
            return
        trial = next(t for t, _ in self._trials if self._foresee(t, Scaling()).name == best.name)
        for factor in _NEIGHBOUR_LISTS:
            lists = int(trial.choice.nlist * factor)
            if self._left_s() <= 0 or not 1 < lists <= len(drawn.sample) // MIN_SAMPLE_PER_LIST:
                continue
            centroids = self._train(drawn, lists)
            self._try(drawn, replace(trial.choice, nlist=lists), centroids, Scaling())

    def _left_s(self) -> float:
        return self._options.seconds - (time.monotonic() - self._started)

    # ------------------------------------------------------------------ what a full index shows

    def _foresee(self, trial: Trial, scaling: Scaling) -> Option:
        choice, bounds, speeds = trial.choice, self._options.bounds, self._speeds
        drawn, threads = self._drawn, self._resources.threads
        found = trial.at.get(bounds.recall)
        at: AtRecall | None = None if found is None else scaling.apply(found)
        plan = self._plan(choice, at)
        index_bytes = self._index_bytes(trial)
        cached = 0.0
        if bounds.memory_bytes is not None:
            opened = choice.nlist * (OPENED_LIST_BYTES + 4 * drawn.plan.d)
            cached = min(1.0, max(0.0, (bounds.memory_bytes - opened) / 2 / index_bytes))
        latency_s = queries_per_s = None
        if at is not None:
            read_s = at.bytes * (1 - cached) / speeds.read_bytes
            waits = (2 if at.page_bytes else 1) + 1
            latency_s = at.cpu_s / threads + read_s + waits * speeds.read_latency_s * (1 - cached)
            queries_per_s = 1 / max(read_s, at.cpu_s / threads)
        return Option(
            choice.codec,
            choice.transform or "usual",
            choice.nlist,
            index_bytes / drawn.ntotal,
            trial.calibration.reach(bounds.k).highest,
            None if at is None else at.lists,
            None if at is None else at.bytes,
            None if at is None else at.cpu_s,
            cached,
            latency_s,
            queries_per_s,
            plan.seconds,
            max(stage.memory_bytes for stage in plan.stages),
        )

    def _plan(self, choice: Choice, at: AtRecall | None) -> Any:
        train = replace(
            self._options.train, nlist=choice.nlist, codec=choice.codec, transform=choice.transform
        )
        work = Workload.of(
            self._drawn.ntotal, self._source.d, train, item_bytes=self._item_bytes, imbalance=1.5
        )
        resources = self._resources
        cluster = Cluster(1, resources.threads, resources.memory_bytes)
        return predict(work, cluster, Queries(), Prices(), self._speeds)

    def _index_bytes(self, trial: Trial) -> float:
        """Return the bytes of the full index's files: vectors, tables, model, kept queries."""
        drawn, nlist = self._drawn, trial.choice.nlist
        each = (trial.slice_bytes - _TABLE_BYTES * trial.lists) / trial.indexed
        model = 4 * nlist * trial.d_index
        kept = len(drawn.queries) * (4 * drawn.plan.d + _KEPT_BYTES * keep_depth(100))
        return each * drawn.ntotal + _TABLE_BYTES * nlist + model + kept

    def _basis(self, lists: int) -> dict[str, Any]:
        drawn = self._drawn
        return {
            "ntotal": drawn.ntotal,
            "d": drawn.plan.d,
            "sampled": len(drawn.sample),
            "neighbours": len(drawn.near),
            "compared": drawn.covered,
            "queries": len(drawn.queries),
            "held_out": self._queries is None,
            "lists_tried": lists,
            "seconds": round(time.monotonic() - self._started, 1),
        }
