"""Settings with which a server could answer nobody are refused when it starts."""

from __future__ import annotations

import math
import resource
from pathlib import Path

import pytest

from teravec.errors import InvalidArgument
from teravec.serving.deploy.launch import ServeOptions, launch
from teravec.serving.deploy.memory_bound import memory_bound, memory_line
from teravec.serving.wire.limits import Limits, check_seconds
from tests.serving.conftest import Launch


@pytest.mark.parametrize("value", [0, -1, 1.5, "7", True, 1 << 60])
@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("queue", "--queue"),
        ("queries", "--max-queries"),
        ("k", "--max-k"),
        ("nprobe", "--max-nprobe"),
        ("request_bytes", "--max-request"),
        ("answer_bytes", "--max-answer"),
        ("queue_bytes", "--max-waiting"),
    ],
)
def test_bounds_of_no_use(name: str, option: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match=f"{option} is .* expected, .* is usual"):
        Limits(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 1e9])
def test_times_of_no_use(value: float) -> None:
    with pytest.raises(InvalidArgument, match="seconds expected, 30 is usual"):
        check_seconds("--drain", value, 30.0)
    with pytest.raises(InvalidArgument, match="timeout_s is"):
        Limits(timeout_s=value)
    check_seconds("--drain", 0.0, 30.0)


def test_bounds_below_one_query(index: Path) -> None:
    for limits in (Limits(request_bytes=1100), Limits(queue_bytes=1100)):
        with pytest.raises(InvalidArgument, match="one query of 24 dimensions takes 1,120"):
            launch(ServeOptions(index, limits=limits))
    for options in ({"threads": 0}, {"threads": 10**11}, {"batch_rows": 0}):
        with pytest.raises(InvalidArgument, match="is usual"):
            ServeOptions(index, **options)  # type: ignore[arg-type]


def test_the_most_memory_adds_up() -> None:
    limits = Limits(queue_bytes=500 << 20, answer_bytes=12 << 20)
    parts = memory_bound(limits, 1 << 30, batches=3, http=False)
    assert parts["--memory"] == 1 << 30
    flight = parts["Flight's connections and small requests"]
    assert flight >= 4096 * (32 << 10)
    assert sum(parts.values()) == ((1024 + 300 + 500 + 32 + 4 * 96) << 20) + flight
    assert memory_line(parts).startswith("memory at most 2,400 MiB: --memory 1,024, ")
    assert "HTTP" in memory_bound(limits, 1 << 30)


def test_descriptors_are_raised_at_start(index: Path, serve: Launch) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(900, before[1]), before[1]))
    try:
        serve(index)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
