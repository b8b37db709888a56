"""The user's cache directory: what was measured on this machine, and can be measured again."""

from __future__ import annotations

import os
from pathlib import Path

from teravec.errors import StorageError

__all__ = ["CACHE_VARIABLE", "user_cache"]

CACHE_VARIABLE = "TERAVEC_CACHE_DIR"
"""Environment variable that names another directory."""


def user_cache() -> Path:
    """Return the directory, which may not exist yet.

    It is ``$TERAVEC_CACHE_DIR``; else ``teravec`` in ``$XDG_CACHE_HOME``; else
    ``~/.cache/teravec``. As the XDG specification demands, relative paths are ignored.

    Raises
    ------
    StorageError
        The user has no home directory.
    """
    own = Path(os.environ.get(CACHE_VARIABLE, ""))
    if own.is_absolute():
        return own
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        root = shared if shared.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        raise StorageError(
            f"no home directory found for the cache; set {CACHE_VARIABLE} to a directory"
        ) from None
    return root / "teravec"
