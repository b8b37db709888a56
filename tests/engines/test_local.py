"""The engine in this process."""

from __future__ import annotations

import pytest

from teravec.engines.engine import Engine
from teravec.engines.local import LocalEngine
from tests.engines.engine_suite import EngineSuite


@pytest.fixture(params=[1, 3])
def engine(request: pytest.FixtureRequest) -> Engine:
    """An engine of some threads."""
    return LocalEngine(request.param, 1 << 30)


class TestLocalEngine(EngineSuite):
    """All that both engines promise."""
