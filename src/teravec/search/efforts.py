"""The efforts that searches of one index may ask for."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cached_property
from typing import Any

from teravec.errors import InvalidArgument
from teravec.index.calibration import Calibration, check_recall
from teravec.index.opened import OpenedIndex
from teravec.search.effort import (
    DEFAULT_NPROBE,
    DEFAULT_RECALL,
    Effort,
    calibrated_effort,
    default_candidates,
    effort_of_nprobe,
)
from teravec.search.filtered import FilteredEffort
from teravec.search.request import checked_candidates

__all__ = ["Efforts"]

log = logging.getLogger(__name__)

_MOST_OF_LISTS = 0.999
_MOST = 64  # that are remembered
_OTHER_MODEL = 2  # times the lists, where a list may have become two since they were measured


class Efforts:
    """Efforts by nprobe or recall, those by recall remembered: queries one by one ask alike.

    Parameters
    ----------
    index : OpenedIndex
    """

    def __init__(self, index: OpenedIndex) -> None:
        self._index = index
        self._known: dict[tuple[float | None, int, float | None], Effort] = {}
        self._filtered: dict[tuple[Any, ...], FilteredEffort] = {}
        self._warned = self._said = False

    @cached_property
    def calibration(self) -> Calibration | None:
        """Recall as it was measured against effort; None where the index has no calibration."""
        return self._index.read_calibration()

    def candidates(self, k: int) -> int:
        """Most vectors a query whose finer codes are read, where nobody says."""
        return default_candidates(k, self._index.model.codec.sketch_bits)

    def effort(
        self,
        nprobe: int | None,
        recall: float | None,
        k: int,
        radius: float | None,
        candidates: int | None,
    ) -> Effort:
        """As ``Index.effort``."""
        by_recall = nprobe is None and candidates is None and type(recall) is float
        if by_recall and (known := self._known.get((recall, k, radius))):
            return known  # a lone query notices what else is checked
        model = self._index.model
        if candidates is not None:
            candidates = checked_candidates(candidates, two_stages=bool(model.codec.sketch_bits))
            return replace(self.effort(nprobe, recall, k, radius, None), candidates=candidates)
        if nprobe is not None and recall is not None:
            raise InvalidArgument(f"nprobe {nprobe} and recall {recall} given; one expected")
        recall = None if recall is None else check_recall(recall)
        if nprobe is not None:
            return effort_of_nprobe(nprobe, model.nlist)
        if recall is not None and self.calibration is None:
            raise InvalidArgument(
                f"recall {recall} asked for, but {self._index.paths} is not calibrated: "
                "run teravec calibrate, or give nprobe"
            )
        asked = recall, k, radius
        if known := self._known.get(asked):
            return known
        if len(self._known) >= _MOST:
            self._known.clear()
        if recall is None:
            effort = self._default(k, radius)
        else:
            assert self.calibration is not None
            effort = self._calibrated(self.calibration, recall, k, radius)
        self._known[asked] = effort
        return effort

    def filtered(
        self, nprobe: int | None, recall: float | None, k: int, candidates: int | None
    ) -> FilteredEffort:
        """How far a search under a filter goes, by nprobe or recall, as ``effort`` takes them.

        Raises
        ------
        InvalidArgument
            As ``effort``; or the calibration was made without what a filter needs.
        """
        asked = nprobe, recall, k, candidates
        if known := self._filtered.get(asked):
            return known  # a lone query notices what else is asked
        effort = self._find_filtered(*asked)
        if len(self._filtered) < _MOST:
            self._filtered[asked] = effort
        return effort

    def _find_filtered(
        self, nprobe: int | None, recall: float | None, k: int, candidates: int | None
    ) -> FilteredEffort:
        plain = self.effort(nprobe, recall, k, None, candidates)
        calibration = self.calibration
        asked = DEFAULT_RECALL if recall is None else recall
        if nprobe is not None or calibration is None or (recall is None and not plain.prune):
            return FilteredEffort(plain.nprobe, plain.nprobe, candidates=plain.candidates)
        if calibration.spread is None:
            raise InvalidArgument(
                f"recall {asked} asked for under a filter, but {self._index.paths} was calibrated "
                "without columns: run teravec calibrate again, or give nprobe"
            )
        # What codes lose they lose in lists that were visited too.
        of_lists = min(asked / calibration.reach(k).highest, _MOST_OF_LISTS)
        missing = 1 / of_lists - 1
        most = max(plain.typical, DEFAULT_NPROBE)
        return FilteredEffort(1, most, calibration.spread, missing, plain.candidates)

    def _calibrated(
        self, calibration: Calibration, recall: float, k: int, radius: float | None
    ) -> Effort:
        """As ``calibrated_effort``; twice the lists if they were split since it was measured."""
        model, manifest = self._index.model, self._index.manifest
        entry, factor = manifest.calibration, 1
        if entry is not None and entry.is_of_another_model(manifest.model):
            factor = _OTHER_MODEL
            if not self._said:
                log.warning(
                    "%s: lists were split or joined since recall was measured: searches by recall "
                    "visit %d times the lists; teravec calibrate %s measures again",
                    self._index.paths,
                    factor,
                    self._index.paths,
                )
                self._said = True
        return calibrated_effort(calibration, recall, k, radius, model.metric, model.nlist, factor)

    def _default(self, k: int, radius: float | None) -> Effort:
        """A recall of 0.9, or 16 lists where that cannot be promised, which is told once."""
        model, why = self._index.model, "no calibration: teravec calibrate makes one"
        if self.calibration is not None:
            try:
                return self._calibrated(self.calibration, DEFAULT_RECALL, k, radius)
            except InvalidArgument as error:
                why = str(error)
        if model.nlist > DEFAULT_NPROBE and not self._warned:
            log.warning(
                "%s: %s; searches without a recall or an nprobe visit %d lists",
                self._index.paths,
                why,
                DEFAULT_NPROBE,
            )
            self._warned = True
        return Effort(min(DEFAULT_NPROBE, model.nlist))
