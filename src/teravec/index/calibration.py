"""A calibration's file: recall against effort, measured on one version of an index.

That of a build is ``calibration.json``, and names the slices it measured. Later versions name their
calibration: it stays theirs while rows are added, and grows old.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from teravec.arguments import real_number
from teravec.errors import CorruptFile, ForeignFile, InvalidArgument
from teravec.index.hardness import Hardness
from teravec.index.kept_queries import KeptQueries, parse_kept
from teravec.index.manifest import Manifest
from teravec.index.spread import Spread, parse_spread
from teravec.kernels.metric import Metric
from teravec.storage.arrays import read_file
from teravec.storage.jsonfile import parse_json, read_json
from teravec.storage.layout import IndexPaths

__all__ = [
    "CONFIDENCE",
    "Calibration",
    "Measured",
    "Reach",
    "calibration_content",
    "check_recall",
    "read_calibration",
    "read_kept",
]

_FORMAT, _VERSION = "teravec-calibration", 1

_SATURATED = 0.002  # a doubling of nprobe that gains less recall than this gains nothing
CONFIDENCE = 1.645  # standard errors below the mean: the one-sided 95 % bound of the recall


def check_recall(recall: float) -> float:
    """Return the recall if a calibration can promise it, or raise InvalidArgument."""
    expected = "a number between 0 and 1"
    number = real_number(recall, "recall", expected=expected)
    if number == 1:
        raise InvalidArgument(
            "recall 1 asked for; no sample of queries promises that: give an nprobe, equal to "
            "nlist if nothing may be missed"
        )
    if not 0 < number < 1:
        percent = f": {number:g} % is {number / 100:g}" if 1 < number < 100 else ""
        raise InvalidArgument(f"recall is {number:g}; {expected} expected{percent}")
    return number


@dataclass(frozen=True)
class Measured:
    """The recall measured at one effort.

    Parameters
    ----------
    nprobe : int
    prune : float
        See `search.effort.Effort`.
    lists, codes : float
        Lists visited and codes scanned per query, on average.
    recall, error : tuple of float
        Mean recall at each of the calibration's ks, and its standard error.
    radius_recall, radius_error : tuple of float
        The same within each of the calibration's radii.
    """

    nprobe: int
    prune: float
    lists: float
    codes: float
    recall: tuple[float, ...]
    error: tuple[float, ...]
    radius_recall: tuple[float, ...]
    radius_error: tuple[float, ...]


@dataclass(frozen=True)
class Reach:
    """The highest recall at one k.

    Parameters
    ----------
    k : int
    highest : float
        Highest mean recall, at any effort.
    promised : float
        Highest recall that a search may ask for.
    lists : float
        Lists visited per query for the highest recall, on average.
    """

    k: int
    highest: float
    promised: float
    lists: float


@dataclass(frozen=True)
class Calibration:
    """Recall against effort, measured on queries whose true neighbours are known.

    Parameters
    ----------
    model : str
        Checksum of the model.
    slices : tuple of str
        Seals of the segments. With the model they identify the measured version.
    queries : int
        Number of queries.
    origin : str
        Origin of the queries. ``held out``: vectors of the source outside the training sample;
        ``source``: any vectors of the source; ``given``: the user's queries.
    ks : tuple of int
        Ascending.
    radii : tuple of float
        From narrow to wide.
    points : tuple of Measured
        By ascending nprobe.
    stopped_s : float, optional
        Seconds of searching, if the time limit ended the calibration. Otherwise the file omits
        this key.
    hardness : Hardness, optional
        How a query's nprobe depends on the query. Calibrations of earlier releases omit this key:
        their efforts depend on gaps alone.
    known : KeptQueries, optional
        The queries and their neighbours, kept to calibrate again, if this is the calibration of
        a build. Versions name their own; then the file omits this key.
    spread : Spread, optional
        How rows lie about centroids, for searches under a filter. The file omits this key if the
        index keeps no columns.
    """

    model: str
    slices: tuple[str, ...]
    queries: int
    origin: str
    ks: tuple[int, ...]
    radii: tuple[float, ...]
    points: tuple[Measured, ...]
    stopped_s: float | None = None
    hardness: Hardness | None = None
    known: KeptQueries | None = field(default=None, compare=False)
    spread: Spread | None = None

    def column(self, k: int) -> int | None:
        """Find the position of the smallest of ``ks`` that is at least k, or None."""
        return next((i for i, known in enumerate(self.ks) if known >= k), None)

    def reach(self, k: int = 10) -> Reach:
        """Return the highest recall of the k nearest, or of the largest k that was measured."""
        column = self.column(k)
        column = len(self.ks) - 1 if column is None else column
        lower = [p.recall[column] - CONFIDENCE * p.error[column] for p in self.points]
        highest = max(self.points, key=lambda point: point.recall[column])
        return Reach(self.ks[column], highest.recall[column], max(0.0, *lower), highest.lists)

    def __repr__(self) -> str:
        best = ", ".join(
            f"@{k} up to {max(p.recall[i] for p in self.points):.3f}" for i, k in enumerate(self.ks)
        )
        return f"<teravec.Calibration: recall{best}, on {self.queries:,} queries ({self.origin})>"

    def probing_for(self, recall: float, k: int) -> tuple[int, float]:
        """Find the smallest nprobe, and its prune, that reach a recall of the k nearest.

        Decides by the lower bound of the measured recall, at the smallest k of ``ks`` that is at
        least this k.

        Raises
        ------
        InvalidArgument
            The recall is out of reach; the message says what can be reached, and how.
        """
        column = self.column(k)
        if column is None:
            raise InvalidArgument(
                f"recall of {k} neighbours asked for, of at most {self.ks[-1]} measured; "
                f"give nprobe, or calibrate with k {k}"
            )
        measured = [(p.recall[column], p.error[column]) for p in self.points]
        return self._invert(recall, measured, f"of the {self.ks[column]} nearest")

    def probing_within(self, recall: float, radius: float, metric: Metric) -> tuple[int, float]:
        """Find the smallest nprobe, and its prune, that reach a recall within a radius.

        Raises
        ------
        InvalidArgument
            The recall is out of reach; the message says what can be reached, and how.
        """
        sign = -1.0 if metric.larger_is_closer else 1.0
        column = next((i for i, r in enumerate(self.radii) if sign * r >= sign * radius), None)
        if column is None:
            widest = f"{self.radii[-1]:.6g}" if self.radii else "none"
            raise InvalidArgument(
                f"recall within radius {radius:.6g} asked for, the widest measured is {widest}; "
                "give nprobe, or calibrate with a larger k"
            )
        measured = [(p.radius_recall[column], p.radius_error[column]) for p in self.points]
        return self._invert(recall, measured, f"within radius {self.radii[column]:.6g}")

    def _invert(
        self, recall: float, measured: Sequence[tuple[float, float]], what: str
    ) -> tuple[int, float]:
        """Find where the curve reaches a recall, by interpolation in log(nprobe) and prune."""
        recall = check_recall(recall)
        lower = [mean - CONFIDENCE * error for mean, error in measured]
        curve = np.maximum.accumulate(lower)  # recall falls with more effort only by chance
        at = int(np.searchsorted(curve, recall))
        if at == len(curve):
            best = max(mean for mean, _ in measured)
            raise InvalidArgument(self._explain_out_of_reach(recall, curve.tolist(), best, what))
        point = self.points[at]
        if at == 0:
            return point.nprobe, point.prune
        before = self.points[at - 1]
        share = float((recall - curve[at - 1]) / (curve[at] - curve[at - 1]))
        grown = before.nprobe * (point.nprobe / before.nprobe) ** share
        return math.ceil(grown - 1e-9), before.prune + share * (point.prune - before.prune)

    def _explain_out_of_reach(
        self, recall: float, curve: Sequence[float], best: float, what: str
    ) -> str:
        last = self.points[-1]
        why = (
            f"recall {recall} {what} is out of reach: at most {max(curve[-1], 0.0):.4f} can be "
            f"promised, with {last.lists:,.0f} lists a query (measured on {self.queries:,} "
            f"queries, {CONFIDENCE} standard errors taken off)"
        )
        if best >= recall:
            return f"{why}; {best:.4f} was found: give nprobe, or calibrate with more queries"
        if self.stopped_s is not None:
            return (
                f"{why}; calibration was stopped after {self.stopped_s:.0f} s: give nprobe, or "
                "run teravec calibrate to go on"
            )
        if last.prune == 0 or (len(curve) > 2 and curve[-1] - curve[-3] < _SATURATED):
            return f"{why}; more lists do not help, a finer codec does"
        return f"{why}; more was not measured: give nprobe, or calibrate with more codes"

    def summary(self) -> dict[str, Any]:
        """Return effort and recall at each point, ready for JSON, for ``teravec info``."""
        return {
            "queries": self.queries,
            "origin": self.origin,
            "ks": list(self.ks),
            "radii": list(self.radii),
            "reach": asdict(self.reach()),
            "points": [asdict(point) for point in self.points],
            **({} if self.stopped_s is None else {"stopped_s": self.stopped_s}),
        }


def calibration_content(calibration: Calibration) -> dict[str, Any]:
    """Return a calibration as JSON, ready to be sealed."""
    content = {"format": _FORMAT, "version": _VERSION, **asdict(calibration)}
    for name in ("stopped_s", "hardness", "known", "spread"):
        if content[name] is None:
            del content[name]
    return content


def read_calibration(paths: IndexPaths, manifest: Manifest) -> Calibration | None:
    """Read the calibration of a version; None if it is not calibrated.

    Raises
    ------
    ForeignFile
        The calibration belongs to another index, or to an earlier build of this one.
    CorruptFile, IncompatibleVersion
    """
    entry = manifest.calibration
    if manifest.number and entry is None:
        return None
    path = paths.calibration if entry is None else paths.file(entry.file)
    if entry is not None:
        data = read_file(path, {"size": entry.size, "checksum": entry.checksum})
        content = parse_json(data, str(path), _FORMAT, _VERSION)
    elif not path.exists():
        return None
    else:
        content = read_json(path, _FORMAT, _VERSION)
    del content["format"], content["version"]
    try:
        points = tuple(
            Measured(**{n: _to_tuple(v) for n, v in p.items()}) for p in content["points"]
        )
        content["hardness"] = Hardness(**content["hardness"]) if "hardness" in content else None
        content["known"] = parse_kept(content["known"]) if "known" in content else None
        if content.get("spread") is not None:
            content["spread"] = parse_spread(content["spread"])
        found = Calibration(**{n: _to_tuple(v) for n, v in {**content, "points": points}.items()})
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise CorruptFile(f"{path}: unexpected fields: {error}") from error
    seals = tuple(segment.checksum for segment in manifest.segments)
    expected = manifest.model if entry is None or entry.model is None else entry.model
    if found.model != expected or (entry is None and found.slices != seals):
        raise ForeignFile(
            f"{path}: calibration of model {found.model} and {len(found.slices)} slices found, of "
            f"{expected} and the {len(seals)} slices of {paths.manifest.last_name} expected; "
            "calibrate again"
        )
    return found


def read_kept(paths: IndexPaths, manifest: Manifest) -> KeptQueries | None:
    """Find the known queries of a version; None if it keeps none.

    Raises as ``read_calibration``.
    """
    if manifest.number or manifest.calibration is not None:
        return manifest.known
    calibration = read_calibration(paths, manifest)
    return None if calibration is None else calibration.known


def _to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
