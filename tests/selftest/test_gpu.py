"""The self-test's route for each GPU; the same code on PyTorch's processor device."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from teravec.selftest.comparison import compare
from teravec.selftest.routes import Route, build_whole, routes

pytest.importorskip("torch", reason="PyTorch is not installed: make test-gpu installs it")


def test_the_gpus_route_agrees_with_plain_faiss() -> None:
    """Off by more than 0.1 % from another route of ours would be a fault."""
    x = np.random.default_rng(5).standard_normal((6000, 16), np.float32)
    given = [
        routes("local", 2, None)[0],
        Route("PyTorch on the processor", partial(build_whole, device="torch-cpu")),
        *(route for route in routes("local", 2, None) if route.name.startswith("cuda")),
    ]
    results = list(compare(x, given))
    assert [r.fault for r in results] == [""] * len(results)
    ours = [r for r in results if r.route == "PyTorch on the processor"]
    assert len(ours) == 2
    assert all(r.objective > 0 and r.seconds > 0 for r in ours)
