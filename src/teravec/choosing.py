"""Choosing a build's codec, transform and lists by the recall that searches will ask for."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np

from teravec.errors import InvalidArgument
from teravec.predicting import advise
from teravec.sources import Data, DatabaseQuery, are_paths
from teravec.storage.layout import IndexPaths
from teravec.storage.places import PlaceLike, place_of
from teravec.training.options import TrainOptions
from teravec.training.record import read_record

__all__ = ["options_for_recall"]

log = logging.getLogger(__name__)


def options_for_recall(
    recall: float, data: Data, out: PlaceLike, options: TrainOptions, **advice: Any
) -> TrainOptions:
    """Return the options of a build, with the codec, transform and lists that ``advise`` marks.

    A build that has begun at ``out`` keeps what was chosen for it.

    Parameters
    ----------
    recall : float
    data : as for ``build``
        Nothing that can be read only once.
    out : path-like
    options : TrainOptions
        Metric, sample, iterations and seed.
    **advice
        Other arguments of ``advise``.

    Raises
    ------
    InvalidArgument
        No codec reaches the recall, or the data can be read only once.
    """
    paths = IndexPaths(place_of(out, "out"))
    if paths.build.exists():
        begun = read_record(paths).train
        return replace(options, codec=begun.codec, transform=begun.transform, nlist=begun.nlist)
    if not _can_be_read_twice(data):
        raise InvalidArgument(
            "for_recall reads the data twice, and a stream or a database can be read once only: "
            "write it to a file, or give an array or a table"
        )
    found = advise(
        data,
        recall=recall,
        metric=options.metric,
        nlist="auto" if options.nlist is None else options.nlist,
        niter=options.niter,
        seed=options.seed,
        **advice,
    )
    best = found.best
    if best is None:
        highest = max((row.highest_recall for row in found), default=0.0)
        raise InvalidArgument(
            f"no codec that was tried reaches recall {recall:g}: at most {highest:.3f} is in "
            "reach; teravec advise shows each"
        )
    log.warning(
        "recall %g: %s in %d lists, %.1f bytes a vector, %.0f bytes a query expected",
        recall,
        best.name,
        best.nlist,
        best.bytes_per_vector,
        best.bytes_per_query,
    )
    transform = None if best.transform == "usual" else best.transform
    return replace(options, codec=best.codec, transform=transform, nlist=best.nlist)


def _can_be_read_twice(data: Data) -> bool:
    """Whether the data are files or in memory: neither a stream nor a database."""
    if isinstance(data, DatabaseQuery):
        return False
    held = isinstance(data, np.ndarray | list | tuple) or hasattr(data, "__array__")
    return are_paths(data) is not None or held or hasattr(data, "num_rows")
