"""Handles on an index whose attributes are what they say, and no settings."""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["Fixed"]

_ARGUMENTS = ("nprobe", "recall", "candidates", "k", "radius")
_STEPS = (
    "candidates_kept",
    "nearest_lists",
    "range_search_lists",
    "refine",
    "search_beside_own",
    "search_lists",
    "sketch_lists",
)
_SETTLED = ("d", "ntotal", "nlist", "metric", "root")
_OTHER_NAMES = {"ef": "nprobe", "efsearch": "nprobe", "ef_search": "nprobe", "nprobes": "nprobe"}


class Fixed:
    """Refuses attributes that it does not have, and says where the value goes instead.

    In Faiss ``index.nprobe = 64`` is how a search is set; taken without a word here, every search
    would go on with the default.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        settled = name in _SETTLED and name in self.__dict__
        if settled or isinstance(getattr(type(self), name, None), property):
            raise AttributeError(f"{name} of an index follows from its files; it cannot be set")
        if name[0] != "_" and name not in self.__dict__ and name not in _annotated(type(self)):
            raise AttributeError(self._advice(name, value))
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name[:1] == "_":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raise AttributeError(self._advice(name, "..."))

    def _advice(self, name: str, value: Any) -> str:
        meant = _OTHER_NAMES.get(name.lower(), name)
        if meant in _ARGUMENTS:
            first = "range_search(queries" if meant == "radius" else "search(queries, k"
            first = "search(queries" if meant == "k" else first
            return (
                f"an index has no attribute {name}: give it to each search, as "
                f"index.{first}, {meant}={value})"
            )
        if name in _STEPS:
            return f"an index has no attribute {name} any more: it is index.steps.{name}"
        if name in ("threads", "memory"):
            return f"an index has no attribute {name}: give it to teravec.open, as {name}={value}"
        return f"{type(self).__name__!r} object has no attribute {name!r}"


def _annotated(kind: type) -> set[str]:
    """Names of the attributes that a class declares."""
    return {name for each in kind.__mro__ for name in inspect.get_annotations(each)}
