"""The intermediate results of an exact search, and their checkpoint on disk."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.errors import OutputExists
from teravec.kernels.metric import Metric
from teravec.storage.arrays import read_array, write_array
from teravec.storage.jsonfile import read_json, write_json
from teravec.storage.local_store import AnyPath, stored
from teravec.storage.store import StorePath

__all__ = ["BestSoFar", "Checkpoint", "remove_checkpoint"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

log = logging.getLogger(__name__)

_FORMAT, _VERSION = "teravec-groundtruth", 1
_STATE = "state.json"
_NOBODY = np.iinfo(np.int64).max
_ARRAY = re.compile(r"(values|ids)-.*\.npy")


@dataclass
class BestSoFar:
    """Results after ``rows`` rows; values (squared L2 or negated similarities) ascend."""

    rows: int
    values: Float64
    ids: Int64

    @classmethod
    def none(cls, nq: int, k: int) -> BestSoFar:
        """Make empty results for nq queries."""
        return cls(0, np.full((nq, k), np.inf), np.full((nq, k), -1, np.int64))

    def merge(self, later: BestSoFar) -> None:
        """Merge the results of the following rows, up to ``later.rows``."""
        values = np.concatenate([self.values, later.values], axis=1)
        ids = np.concatenate([self.ids, later.ids], axis=1)
        order = np.lexsort((ids, values), axis=1)[:, : self.values.shape[1]]
        self.values = np.take_along_axis(values, order, axis=1)
        self.ids = np.take_along_axis(ids, order, axis=1)
        self.rows = later.rows

    def limit(self, values: Float64) -> None:
        """Fill empty results so that only rows of at most a query's value (nq,) enter them."""
        self.values[:] = values[:, None]
        self.ids[:] = _NOBODY  # above all ids, so that a row that ties with a limit stays

    def end_limit(self, values: Float64) -> None:
        """Empty the places that ``limit`` filled and no row has taken."""
        nobody = (self.ids == _NOBODY) & (self.values == values[:, None])
        self.values[nobody], self.ids[nobody] = np.inf, -1

    def distances(self, metric: Metric) -> Float32:
        """Return the values as users see them. Negates similarities in place, so call it last."""
        if metric.larger_is_closer:
            np.negative(self.values, out=self.values)
        with np.errstate(over="ignore", under="ignore"):
            return self.values.astype(np.float32)


class Checkpoint:
    """``state.json``, and the two arrays whose checksums it holds."""

    def __init__(self, directory: AnyPath, identity: dict[str, Any]) -> None:
        self._directory, self._identity = stored(directory), identity

    def load(self) -> BestSoFar | None:
        """Load the state to resume from; None if there is none."""
        path = self._directory / _STATE
        if not path.exists():
            return None
        content = read_json(path, _FORMAT, _VERSION)
        for key, expected in self._identity.items():
            if content.get(key) != expected:
                raise OutputExists(
                    f"{self._directory}: the checkpoint of another ground truth: {key} "
                    f"{content.get(key)!r} found, {expected!r} expected; remove it to begin anew"
                )
        rows = content["rows"]
        shape = (self._identity["queries"]["shape"][0], self._identity["k"])
        values, ids = (
            read_array(self._directory / f"{name}-{rows}.npy", content[name], shape, dtype)
            for name, dtype in (("values", np.float64), ("ids", np.int64))
        )
        log.info("ground truth resumes at row %d", rows)
        return BestSoFar(rows, values, ids)

    def save(self, best: BestSoFar) -> None:
        """Save the state. The previous one stays valid until ``state.json`` is replaced."""
        values = write_array(self._directory / f"values-{best.rows}.npy", best.values)
        ids = write_array(self._directory / f"ids-{best.rows}.npy", best.ids)
        state = {"format": _FORMAT, "version": _VERSION, **self._identity}
        write_json(
            self._directory / _STATE, {**state, "rows": best.rows, "values": values, "ids": ids}
        )
        _remove_arrays(self._directory, keep_rows=best.rows)


def remove_checkpoint(checkpoint: AnyPath) -> None:
    """Remove a checkpoint, if there is one. Other files in its directory stay."""
    directory = stored(checkpoint)
    (directory / _STATE).remove()  # first: without it, no run resumes from the arrays
    _remove_arrays(directory)
    directory.remove_unfinished()


def _remove_arrays(directory: StorePath, keep_rows: int = -1) -> None:
    keep = [f"{kind}-{keep_rows}.npy" for kind in ("values", "ids")]
    for path in directory.children():
        if _ARRAY.fullmatch(path.last_name) and path.last_name not in keep:
            path.remove()
