"""Every instruction set of the kernels, and the fallback, in one session."""

from __future__ import annotations

import pytest

from teravec.native import extensions as compiled

LEVELS = [-1] if compiled.native is None else [-1, *range(compiled.native.best_level() + 1)]


def use(monkeypatch: pytest.MonkeyPatch, level: int) -> None:
    """Run the fallback (-1) or the compiled kernels at a level."""
    if level < 0:
        for name in ("native", "sketching", "refining", "paging"):
            monkeypatch.setattr(compiled, name, None)
    else:
        monkeypatch.setattr(compiled, "level", level)


@pytest.fixture(params=LEVELS, ids=lambda level: "numpy" if level < 0 else f"level{level}")
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a test at each level."""
    use(monkeypatch, request.param)
    return int(request.param)
