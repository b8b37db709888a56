"""The compiled extensions, where this installation has them, and the choice of what to call.

Only this room asks what is compiled. A function whose stand-in is plain NumPy lies beside it here
(``lists``, ``pages``, ``reads``, ``refining``, ``ring``, ``waves``). A stand-in that needs more
than that stays in its own room, which chooses by ``either``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cache, wraps
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

__all__ = [
    "EXTENSIONS",
    "SWITCHED_OFF",
    "either",
    "level",
    "linear",
    "listing",
    "native",
    "paging",
    "panel_places",
    "pooling",
    "reading",
    "refining",
    "ringing",
    "scanning",
    "sketching",
    "warn_if_missing",
    "warn_of_missing",
    "waving",
]

log = logging.getLogger(__name__)

EXTENSIONS = (
    "native",
    "scanning",
    "sketching",
    "linear",
    "listing",
    "refining",
    "paging",
    "reading",
    "ringing",
    "waving",
    "pooling",
)
"""Names in this module, each for one extension."""

SWITCHED_OFF = os.environ.get("TERAVEC_NATIVE", "1") == "0"
"""Whether the user asked for an installation without extensions."""

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def _load(name: str) -> Any:
    """Return the extension of this name; None if it is not compiled, or switched off."""
    if SWITCHED_OFF:
        return None
    try:
        return import_module(f"teravec.native.{name}")
    except ImportError:  # installed without a compiler
        return None


native, scanning, sketching = _load("_native"), _load("_scan"), _load("_sketch")
linear = _load("_linear")
listing, refining, paging = _load("_lists"), _load("_refine"), _load("_pages")
reading, ringing, waving = _load("_reads"), _load("_ring"), _load("_waves")
pooling = _load("_threads")

level: int = native.best_level() if native is not None else 0
"""Instruction set that the kernels run at: 0 baseline, 1 AVX2 and FMA, 2 AVX-512F."""


def panel_places() -> int:
    """Return how many centroids a panel has; groups are padded to whole panels."""
    return int(native.panel_places(level)) if native is not None else 1


def either(
    extension: str,
    compiled: Callable[_Parameters, _Result],
    stand_in: Callable[_Parameters, _Result],
) -> Callable[_Parameters, _Result]:
    """Make a function that calls one of two, chosen at each call.

    Parameters
    ----------
    extension : str
        The extension that ``compiled`` calls, one of EXTENSIONS.
    compiled, stand_in : callable
        Their parameters are equal. ``stand_in`` is called if the extension is missing. The
        documentation is that of ``compiled``.
    """
    assert extension in EXTENSIONS

    @wraps(compiled)
    def call(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        if globals()[extension] is None:
            return stand_in(*args, **kwargs)
        return compiled(*args, **kwargs)

    return call


def warn_if_missing(switched_off: bool = SWITCHED_OFF) -> None:
    """Log once a process which extensions could not be compiled, unless they are switched off."""
    missing = tuple(name for name in EXTENSIONS if globals()[name] is None)
    if missing and not switched_off:
        warn_of_missing(missing)


@cache
def warn_of_missing(missing: tuple[str, ...]) -> None:
    """Log that these extensions are missing, the first time it is called for them."""
    log.warning(
        "compiled kernels are missing (%s): everything is slower, and codes in two stages by far; "
        "install a C compiler, then teravec again",
        ", ".join(missing),
    )
