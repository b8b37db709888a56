"""A source of queries searched through a server: as a local search does it, file for file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import teravec
from teravec.bulk.corpus import answers
from teravec.bulk.questions import Within
from teravec.cli.main import app
from teravec.errors import InvalidArgument, LimitExceeded, MemoryLimitTooSmall, OtherIndex
from teravec.serving.wire.limits import Limits
from teravec.sources import open_source
from tests.serving.conftest import QUERIES, Launch, built, url
from tests.stopping import Stopped, StopsAfter

SMALL = Limits(queries=32)
RADIUS = 100.0


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def files(index: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The indexed vectors, and queries."""
    root = tmp_path_factory.mktemp("queries")
    np.save(root / "q.npy", QUERIES)
    return {"base": index.parent / "x0.npy", "queries": root / "q.npy"}


@pytest.mark.parametrize(
    "options",
    [
        ("search", "-k", 7, "--nprobe", 5),
        ("search", "-k", 3),
        ("search", "-k", 3, "--recall", 0.8, "--exclude-self"),
        ("range-search", "--radius", RADIUS, "--nprobe", 9),
        ("range-search", "--radius", 20.0, "--recall", 0.8, "--exclude-self"),
    ],
)
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_the_command_writes_the_same_file(
    options: tuple[object, ...],
    metric: str,
    indexes: dict[str, Path],
    files: dict[str, Path],
    serve: Launch,
    tmp_path: Path,
) -> None:
    command, *rest = options
    radius = 0.95 if "--exclude-self" in rest else 0.6
    rest = [radius if metric == "cosine" and type(o) is float and o > 1 else o for o in rest]
    queries = files["base" if "--exclude-self" in rest else "queries"]
    server = serve(indexes[metric], limits=SMALL)
    for extension in ("npz", "parquet", "csv"):
        local, remote = tmp_path / f"local.{extension}", tmp_path / f"remote.{extension}"
        run(command, indexes[metric], queries, *rest, "--out", local, "-q")
        run(command, "--server", server.address, queries, *rest, "--out", remote, "-q")
        assert remote.read_bytes() == local.read_bytes()


def test_codes_in_two_stages(serve: Launch, tmp_path: Path) -> None:
    index = built(tmp_path, codec="rabitq1+sq8", calibrate=False)
    server = serve(index, limits=SMALL)
    with teravec.connect(url(server)) as remote:
        for extra in ({}, {"candidates": 40}, {"exclude_self": True}):
            asked: dict[str, Any] = {"k": 5, "nprobe": 6, **extra}
            queries = tmp_path / "x0.npy" if "exclude_self" in extra else QUERIES
            teravec.search(index, queries, out=tmp_path / "local.npz", **asked)
            teravec.search(remote, queries, out=tmp_path / "remote.npz", **asked)
            assert (tmp_path / "local.npz").read_bytes() == (tmp_path / "remote.npz").read_bytes()


def test_a_killed_run_goes_on_at_another_server(
    index: Path, files: dict[str, Path], serve: Launch, tmp_path: Path
) -> None:
    out = tmp_path / "r.parquet"
    teravec.search(index, files["base"], 4, 5, out=out)
    expected = out.read_bytes()
    out.unlink()
    first = serve(index)
    with teravec.connect(url(first)) as remote:
        remote.batch_bytes, search = 300_000, partial(teravec.search, remote, files["base"], 4, 5)
        with pytest.raises(Stopped):
            search(out=out, progress=StopsAfter(units=3000))
    first.close()
    with teravec.connect(url(serve(index))) as remote:
        summary = teravec.search(remote, files["base"], 4, 5, out=out)
    assert isinstance(summary, teravec.CorpusSummary)
    assert 3000 <= summary.resumed < 6000
    assert out.read_bytes() == expected
    assert not (tmp_path / "r.parquet.partial").exists()


def test_results_within_a_radius_are_bounded(
    index: Path, files: dict[str, Path], serve: Launch
) -> None:
    source = open_source(files["queries"])
    with teravec.open(index) as local, teravec.connect(url(serve(index))) as remote:
        lims, distances, ids = local.range_search(QUERIES, RADIUS, 10)
        most = int(np.diff(lims).max()) * 2
        remote.batch_bytes = most * 4 * 64
        found = list(answers(remote, source, Within(RADIUS, teravec.Effort(10)), 0, len(QUERIES)))
        assert len(found) > 1
        assert all(part.total <= most for _, part in found)
        np.testing.assert_array_equal(np.concatenate([p.ids for _, p in found]), ids)
        np.testing.assert_array_equal(np.concatenate([p.distances for _, p in found]), distances)
        remote.batch_bytes = most // 2 * 64
        with pytest.raises(MemoryLimitTooSmall, match=r"query \d+ has"):
            list(answers(remote, source, Within(RADIUS, teravec.Effort(10)), 0, len(QUERIES)))


def test_requests_shrink_to_what_a_server_takes(index: Path, serve: Launch) -> None:
    with teravec.open(index) as local:
        effort = local.effort(recall=0.9, k=3)
        expected = local.search_at(QUERIES, 3, effort)
        many = int(np.diff(local.range_search(QUERIES, RADIUS, 60)[0]).max())
        ranges = local.range_search(QUERIES, RADIUS, 60)
    # A request may have so few results that one query's just fit.
    with teravec.connect(url(serve(index, limits=Limits(answer_bytes=12 * many)))) as remote:
        assert remote.effort(recall=0.9, k=3) == effort
        for mine, theirs in zip(remote.search_at(QUERIES, 3, effort), expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)
        found = remote.range_search_at(QUERIES, RADIUS, teravec.Effort(60), 1 << 20)
        for mine, theirs in zip(found, ranges, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    with (
        teravec.connect(url(serve(index, limits=Limits(answer_bytes=12 * (many - 1))))) as remote,
        pytest.raises(LimitExceeded),
    ):
        remote.range_search_at(QUERIES, RADIUS, teravec.Effort(60), 1 << 20)


def test_another_version_ends_a_search(index: Path, serve: Launch, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(index)
    server = serve(tmp_path / "current")
    other = built(tmp_path, seed=3, calibrate=False)
    with teravec.connect(url(server)) as remote:
        true = remote.search_at(QUERIES, 3, teravec.Effort(4))[1]
        (tmp_path / "current").unlink()
        (tmp_path / "current").symlink_to(other)
        server.reload()
        # The server keeps the version for a while, but describes the current one only.
        np.testing.assert_array_equal(remote.search_at(QUERIES, 3, teravec.Effort(4))[1], true)
        for ask in (lambda: remote.effort(recall=0.5), lambda: remote.source):
            with pytest.raises((OtherIndex, InvalidArgument), match=r"version|calibrated"):
                ask()


def test_an_older_server_is_asked_for_what_it_knows(
    index: Path,
    files: dict[str, Path],
    serve: Launch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = serve(index)
    monkeypatch.setattr(server.service, "details", lambda asked: {})  # as those that knew none
    asked = "search", "--server", server.address, files["queries"], "-q"
    run("search", index, files["queries"], "--nprobe", 4, "--out", tmp_path / "local.npz", "-q")
    run(*asked, "--nprobe", 4, "--out", tmp_path / "remote.npz")
    assert (tmp_path / "local.npz").read_bytes() == (tmp_path / "remote.npz").read_bytes()
    assert "give nprobe" in run(*asked, "--recall", 0.8, code=2)
    assert "update the server" in run(*asked, "--nprobe", 4, "--exclude-self", code=2)


def test_evaluation_through_a_server(index: Path, serve: Launch) -> None:
    truth = teravec.groundtruth(index.parent / "x0.npy", QUERIES, 10)
    with teravec.connect(url(serve(index))) as remote:
        found = teravec.evaluate(remote, QUERIES, truth, 5, nprobe=[2, 60])
        found += teravec.evaluate(remote, QUERIES, truth, 5, recall=0.8)
    expected = teravec.evaluate(index, QUERIES, truth, 5, nprobe=[2, 60])
    expected += teravec.evaluate(index, QUERIES, truth, 5, recall=0.8)
    assert [(e.nprobe, e.recall) for e in found] == [(e.nprobe, e.recall) for e in expected]
    assert all(e.bytes_per_query > 0 for e in found)
