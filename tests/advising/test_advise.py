"""Advice: what it foresees is what full builds show; bounds decide what is marked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import teravec
from teravec.advising.advice import Advice, Bounds, Option, choose
from teravec.advising.choices import list_choices, pca_dimensions, row_bytes
from teravec.advising.reads import ListReads
from teravec.advising.scaling import STEP, Scaling, exponents
from teravec.advising.trial import AtRecall
from teravec.cli.main import app
from teravec.errors import InvalidArgument
from teravec.kernels.metric import Metric
from teravec.storage.listfile import ID_BYTES

Float32 = np.ndarray[Any, np.dtype[np.float32]]


def vectors(n: int, d: int = 24, seed: int = 3) -> Float32:
    """Vectors of intrinsic dimension 8."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 8)) @ np.random.default_rng(0).random((8, d))
    return np.sin(x * (np.random.default_rng(1).random(d) * 4 + 0.1)).astype(np.float32)


@pytest.fixture(scope="module")
def base() -> Float32:
    return vectors(6_000)


@pytest.fixture(scope="module")
def advice(base: Float32) -> Advice:
    return teravec.advise(
        base, recall=0.9, codecs="sq8,rabitq2+sq8", machine="epyc", seconds=1e6, nlist=128
    )


def test_what_is_foreseen_is_what_a_full_build_shows(
    base: Float32, advice: Advice, tmp_path: Path
) -> None:
    queries = vectors(500, seed=4)
    truth = teravec.groundtruth(base, queries, k=10)
    for row in advice:
        place = tmp_path / row.codec
        teravec.build(base, place, codec=row.codec, nlist=row.nlist, calibrate=False)
        teravec.calibrate(place, data=base)  # without a limit of time
        info = teravec.info(place)
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        assert row.bytes_per_vector == pytest.approx(size / len(base), rel=0.1)
        reach = info["calibration"]["reach"]["highest"]
        assert row.highest_recall == pytest.approx(reach, abs=0.02)
        if row.bytes_per_query is not None:
            found = teravec.evaluate(place, queries, truth, recall=0.9)[0]
            # Of 600 queries: the smallest effort that can be promised may be a step apart.
            assert row.bytes_per_query == pytest.approx(found.bytes_per_query, rel=0.35)
            assert row.lists == pytest.approx(found.lists_per_query, rel=0.35)
    assert {row.codec for row in advice} == {"sq8", "rabitq2+sq8"}


def test_the_best_is_first_and_has_a_command(advice: Advice) -> None:
    best = advice.best
    assert best is not None
    assert best is advice[0]
    assert sum(row.best for row in advice) == 1
    assert not best.misses
    assert advice.command is not None
    assert advice.command.startswith("teravec build DATA --out INDEX --codec ")
    assert advice.basis["compared"] == 6_000
    assert "bytes/query at 0.9" in repr(advice)
    assert advice.to_arrow().num_rows == len(advice)
    assert json.loads(json.dumps(advice.content()))["best"]["codec"] == best.codec


def test_the_command_and_a_build_that_chooses(base: Float32, tmp_path: Path) -> None:
    np.save(tmp_path / "base.npy", base[:3000])
    arguments = ["advise", str(tmp_path / "base.npy"), "--recall", "0.8", "--codecs", "sq8,sq4"]
    shown = CliRunner().invoke(app, [*arguments, "--quiet"])
    assert shown.exit_code == 0, shown.output
    assert "best: teravec build" in shown.output
    printed = CliRunner().invoke(app, [*arguments, "--json"])
    (tmp_path / "advice.json").write_text(printed.output)
    content = json.loads(printed.output)
    plan = ["plan", "--ntotal", "3e6", "--d", "24", "--recall", "0.8", "--json"]
    planned = CliRunner().invoke(app, [*plan, "--advice", str(tmp_path / "advice.json")])
    assert json.loads(planned.output)["lists_from"] == "advise"
    none = CliRunner().invoke(app, [*arguments, "--bytes-per-vector", "3"])
    assert none.exit_code == 0
    assert "none meets every bound" in none.output
    assert content["best"]["codec"] in ("sq8", "sq4")


def test_build_for_a_recall(base: Float32, tmp_path: Path) -> None:
    built = teravec.build(base[:2000], tmp_path / "i", for_recall=0.8)
    assert built.codec
    again = teravec.build(base[:2000], tmp_path / "i", for_recall=0.8)
    assert again.model == built.model
    with pytest.raises(InvalidArgument, match="read once only"):
        teravec.build(iter([base[:2000]]), tmp_path / "j", for_recall=0.8)
    with pytest.raises(InvalidArgument, match="leave these out"):
        teravec.build(base, tmp_path / "j", for_recall=0.8, codec="fp16")


def test_too_few_vectors_are_refused(base: Float32) -> None:
    with pytest.raises(InvalidArgument, match="at least 1,000"):
        teravec.advise(base[:900])


# ------------------------------------------------------------------ pure parts

ONE = Option("sq8", "usual", 64, 40.0, 0.99, 5.0, 4e5, 1e-3, 0.0, 2e-3, 500.0, 60.0, 1 << 28)


def test_bounds_decide() -> None:
    two = replace(ONE, codec="rabitq2+sq8", bytes_per_vector=60.0, bytes_per_query=2e5)
    low = replace(ONE, codec="sq4", bytes_per_vector=20.0, highest_recall=0.8, lists=None)
    low = replace(low, bytes_per_query=None, cpu_s=None, latency_s=None, queries_per_s=None)
    options = [low, ONE, two]

    def best(**bounds: Any) -> str:
        found = choose(options, Bounds(0.95, **bounds))
        return found[0].codec if found[0].best else ""

    assert best() == "rabitq2+sq8"
    assert best(bytes_per_vector=50) == "sq8"
    assert best(latency_s=0.01) == "sq8"  # the smallest that is quick enough
    assert best(latency_s=0.001) == ""
    assert choose(options, Bounds())[-1].misses == "recall 0.95"
    cached = [replace(option, cached=1.0) for option in (ONE, replace(two, cpu_s=2e-3))]
    assert choose(cached, Bounds(memory_bytes=1 << 40))[0].codec == "sq8"


def test_choices_fit_their_bounds() -> None:
    every = list_choices(96, 1024, 64)
    assert any(choice.transform == "pca64" for choice in every)
    few = list_choices(96, 1024, 64, most_row_bytes=60)
    assert few
    assert all(row_bytes(choice, 96) <= 60 for choice in few)
    with pytest.raises(InvalidArgument, match="bytes-per-vector is 4"):
        list_choices(96, 1024, None, most_row_bytes=4)


def test_a_pca_is_tried_where_it_saves_dimensions() -> None:
    rng = np.random.default_rng(0)
    flat = rng.standard_normal((2000, 32)).astype(np.float32)
    assert pca_dimensions(flat, Metric.L2) is None
    thin = flat * np.where(np.arange(32) < 8, 1, 0.01).astype(np.float32)
    assert pca_dimensions(thin, Metric.L2) == 8


@given(st.lists(st.integers(0, 500), min_size=1, max_size=60), st.integers(1, 64), st.data())
def test_reads_hold_the_lists_and_at_most_the_file(
    sizes: list[int], width: int, draw: st.DataObject
) -> None:
    wanted = draw.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1))
    reads = ListReads(np.array(sizes, np.int64), width)
    found = reads.count_bytes(np.array(wanted, np.int64))
    least = sum(sizes[each] for each in set(wanted)) * width
    assert least <= found <= sum(sizes) * width + 2 * 512 * len(sizes)
    alone = ListReads(np.array(sizes, np.int64), width, gap_bytes=-1)
    assert alone.count_bytes(np.array(wanted, np.int64)) <= least + 2 * 512 * len(sizes)
    assert reads.count_id_bytes(np.array(wanted, np.int64)) >= least // width * ID_BYTES


def test_powers_are_those_that_the_trials_show() -> None:
    many = {0.9: AtRecall(0.9, 40.0, 4000, 4e5, 1e5, 50, 1e-3)}
    few = {0.9: AtRecall(0.9, 20.0, 8000, 8e5, 1e5, 50, 1e-3)}
    powers = exponents(many, few)
    assert powers[0.9] == pytest.approx(np.log(2) / np.log(STEP))
    grown = Scaling(STEP, 1.0, powers, None).apply(many[0.9])
    assert grown.lists == pytest.approx(80.0)
    assert grown.codes == pytest.approx(2000)
    assert grown.bytes == pytest.approx(1e5 + 3e5 / 2)
    denser = Scaling(1.0, 16.0, None, {0.9: -0.25}).apply(many[0.9])
    assert denser.lists == pytest.approx(20.0)
    assert Scaling().apply(many[0.9]) == many[0.9]
