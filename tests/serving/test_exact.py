"""However the lists are split, a coordinator answers what the local index does, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import teravec
from teravec.errors import InvalidArgument
from teravec.serving.server.step_sizes import StepSizes
from tests.serving.conftest import QUERIES, Launch, addresses, built, url

# Splits of 60 lists: one, three and five servers, even and uneven, apart, and with replicas.
SPLITS = {
    "one": ["0:60"],
    "three": ["0:11", "11:12", "12:60"],
    "three apart": ["0:5,40:60", "5:20", "20:40"],
    "five": ["0:1", "1:30", "30:31", "31:59", "59:60"],
    "replicas": ["0:30", "30:60", "0:20", "20:50", "50:60"],
    "whole twice": ["0:60", "0:60"],
}


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("split", SPLITS)
def test_any_split_equals_the_local_index(
    split: str, metric: str, indexes: dict[str, Path], serve: Launch
) -> None:
    path = indexes[metric]
    servers = [serve(path, lists=lists) for lists in SPLITS[split]]
    coordinator = serve(path, servers=addresses(servers))
    with teravec.open(path) as local, teravec.connect(url(coordinator)) as remote:
        assert (remote.d, remote.ntotal, remote.metric) == (local.d, local.ntotal, metric)
        for k, nprobe in ((1, 1), (10, 7), (200, 60)):
            found, true = remote.search(QUERIES, k, nprobe), local.search(QUERIES, k, nprobe)
            np.testing.assert_array_equal(found[1], true[1])
            np.testing.assert_array_equal(found[0], true[0])
        radius = float(np.median(local.search(QUERIES, 30, 60)[0][:, -1]))
        for nprobe in (3, 60):
            found_range = remote.range_search(QUERIES, radius, nprobe)
            true_range = local.range_search(QUERIES, radius, nprobe)
            assert len(true_range[1]) > 100
            for found_part, true_part in zip(found_range, true_range, strict=True):
                np.testing.assert_array_equal(found_part, true_part)


@pytest.fixture(scope="module")
def two_stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("two-stages")
    codecs = {"l2": "rabitq1+sq8", "ip": "rabitq2+sq8", "cosine": "rabitq1+fp16"}
    return {metric: built(root, metric, codec, calibrate=False) for metric, codec in codecs.items()}


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("split", SPLITS)
def test_any_split_of_two_stages_equals_the_local_index(
    split: str, metric: str, two_stages: dict[str, Path], serve: Launch
) -> None:
    steps = StepSizes(candidate_bytes=50_000)  # in runs
    if split == "five":
        steps = replace(steps, scanned_bytes=20_000)
    path = two_stages[metric]
    servers = [serve(path, lists=lists, steps=steps) for lists in SPLITS[split]]
    coordinator = serve(path, servers=addresses(servers), steps=steps)
    with teravec.open(path) as local, teravec.connect(url(coordinator)) as remote:
        # With 200 x 30 candidates, all of the index are refined.
        for k, nprobe in ((1, 1), (5, 9), (20, 60), (200, 60)):
            found, true = remote.search(QUERIES, k, nprobe), local.search(QUERIES, k, nprobe)
            np.testing.assert_array_equal(found[1], true[1])
            np.testing.assert_array_equal(found[0], true[0])
        for candidates in (5, 40, local.ntotal):
            found = remote.search(QUERIES, 5, 20, candidates=candidates)
            true = local.search(QUERIES, 5, 20, candidates=candidates)
            np.testing.assert_array_equal(found[1], true[1])
            np.testing.assert_array_equal(found[0], true[0])
        one = remote.search(QUERIES[7:8], 10, 30), local.search(QUERIES[7:8], 10, 30)
        np.testing.assert_array_equal(one[0][0], one[1][0])
        radius = float(np.median(local.search(QUERIES, 30, 60)[0][:, -1]))
        found_range = remote.range_search(QUERIES, radius, 20)
        true_range = local.range_search(QUERIES, radius, 20)
        for found_part, true_part in zip(found_range, true_range, strict=True):
            np.testing.assert_array_equal(found_part, true_part)


def test_recall_and_the_default_mean_the_same(index: Path, serve: Launch) -> None:
    servers = [serve(index, lists=lists) for lists in ("0:30", "30:60")]
    coordinator = serve(index, servers=addresses(servers))
    with teravec.open(index) as local, teravec.connect(url(coordinator)) as remote:
        for effort in ({"recall": 0.8}, {"recall": 0.95}, {}):
            found = remote.search(QUERIES, 10, **effort)  # type: ignore[arg-type]
            true = local.search(QUERIES, 10, **effort)  # type: ignore[arg-type]
            np.testing.assert_array_equal(found[1], true[1])
            np.testing.assert_array_equal(found[0], true[0])


def test_a_single_server_needs_no_coordinator(index: Path, serve: Launch) -> None:
    server = serve(index)
    with teravec.open(index) as local, teravec.connect(url(server)) as remote:
        with pytest.raises(InvalidArgument, match="one stage"):
            remote.search(QUERIES, 10, 8, candidates=50)
        found, true = remote.search(QUERIES, 10, 8), local.search(QUERIES, 10, 8)
        np.testing.assert_array_equal(found[1], true[1])
        np.testing.assert_array_equal(found[0], true[0])
        none = remote.search(QUERIES[:0], 10, 8)
        assert none[0].shape == none[1].shape == (0, 10)


def test_only_the_slices_owned_need_be_there(index: Path, serve: Launch, tmp_path: Path) -> None:
    slices = sorted((index / "slices").iterdir())
    homes: list[Path] = []
    for owned in ((0, 1, 4), (2, 3, 5), ()):
        home = tmp_path / f"home{len(homes)}"
        (home / "slices").mkdir(parents=True)
        (home / "model").symlink_to(index / "model")
        (home / "manifest.json").symlink_to(index / "manifest.json")
        for number in owned:
            (home / "slices" / slices[number].name).symlink_to(slices[number])
        homes.append(home)
    servers = [serve(homes[0], slices=(0, 1, 4)), serve(homes[1], slices=(2, 3, 5))]
    coordinator = serve(homes[2], servers=addresses(servers))
    with teravec.open(index) as local, teravec.connect(url(coordinator)) as remote:
        found, true = remote.search(QUERIES, 10, 60), local.search(QUERIES, 10, 60)
        np.testing.assert_array_equal(found[1], true[1])


def test_large_requests_go_in_runs(index: Path, serve: Launch) -> None:
    from teravec.serving.wire.limits import Limits

    server = serve(index, limits=Limits(queries=7, answer_bytes=12 * 25))
    with teravec.open(index) as local, teravec.connect(url(server)) as remote:
        found, true = remote.search(QUERIES, 5, 4), local.search(QUERIES, 5, 4)
        np.testing.assert_array_equal(found[1], true[1])


def test_work_in_steps_is_the_same(index: Path, serve: Launch) -> None:
    server = serve(index, steps=StepSizes(scanned_bytes=50_000))
    with teravec.open(index) as local, teravec.connect(url(server)) as remote:
        found, true = remote.search(QUERIES, 20, 30), local.search(QUERIES, 20, 30)
        np.testing.assert_array_equal(found[1], true[1])
        np.testing.assert_array_equal(found[0], true[0])


def test_k_beyond_all_vectors_is_padded(
    indexes: dict[str, Path], two_stages: dict[str, Path], serve: Launch
) -> None:
    for path in (indexes["cosine"], two_stages["l2"]):
        servers = [serve(path, lists=lists) for lists in SPLITS["replicas"]]
        coordinator = serve(path, servers=addresses(servers))
        with teravec.open(path) as local, teravec.connect(url(coordinator)) as remote:
            k = local.ntotal + 7
            found, true = remote.search(QUERIES[:3], k, 60), local.search(QUERIES[:3], k, 60)
            for mine, theirs in zip(true, found, strict=True):
                np.testing.assert_array_equal(mine, theirs)
            assert (found[1][:, -7:] == -1).all()
            assert (found[1][:, :-7] >= 0).all()
