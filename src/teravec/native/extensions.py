"""The compiled extensions, where this installation has them."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from types import ModuleType

__all__ = [
    "level",
    "listing",
    "native",
    "paging",
    "panel_places",
    "reading",
    "refining",
    "ringing",
    "scanning",
    "sketching",
    "warn_if_missing",
]

log = logging.getLogger(__name__)

_SWITCHED_OFF = os.environ.get("TERAVEC_NATIVE", "1") == "0"


def warn_if_missing() -> None:
    """Say so where kernels could not be compiled, which nobody asked for."""
    if native is None and not _SWITCHED_OFF:
        log.warning(
            "the compiled kernels are missing: everything is slower, and codes in two stages by "
            "far; install a C compiler, then teravec again"
        )


def _load(name: str) -> ModuleType | None:
    if _SWITCHED_OFF:
        return None
    try:
        return import_module(f"teravec.native.{name}")
    except ImportError:  # installed without a compiler
        return None


native: ModuleType | None = _load("_native")
"""``teravec.native._native``, or None: not compiled, or switched off by ``TERAVEC_NATIVE=0``."""

scanning: ModuleType | None = _load("_scan")
"""``teravec.native._scan``, or None."""

sketching: ModuleType | None = _load("_sketch")
"""``teravec.native._sketch``, or None."""

listing: ModuleType | None = _load("_lists")
"""``teravec.native._lists``, or None."""

refining: ModuleType | None = _load("_refine")
"""``teravec.native._refine``, or None."""

paging: ModuleType | None = _load("_pages")
"""``teravec.native._pages``, or None."""

reading: ModuleType | None = _load("_reads")
"""``teravec.native._reads``, or None."""

ringing: ModuleType | None = _load("_ring")
"""``teravec.native._ring``, or None."""

level: int = native.best_level() if native is not None else 0
"""Instruction set that the kernels run at: 0 baseline, 1 AVX2 and FMA, 2 AVX-512F."""


def panel_places() -> int:
    """Centroids in a panel; groups are padded to whole ones."""
    return int(native.panel_places(level)) if native else 1
