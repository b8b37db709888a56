"""Commands take a URL of an object store where they take the path of an index."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from teravec.cli.main import app
from tests.conftest import clustered
from tests.storage.object_stand_in import KEYS, make_bucket

ROWS = clustered(400, 8)


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == code, result.output
    assert KEYS["secret_access_key"] not in result.output
    return result.output


@pytest.fixture
def url(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place; how it is reached is in the environment."""
    environment = {
        "AWS_ACCESS_KEY_ID": KEYS["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": KEYS["secret_access_key"],
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ALLOW_HTTP": "true",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{make_bucket(s3_endpoint)}/indexes/one"


def test_every_command(url: str, tmp_path: Path) -> None:
    np.save(tmp_path / "base.npy", ROWS[:300])
    np.save(tmp_path / "more.npy", ROWS[300:])
    np.save(tmp_path / "queries.npy", ROWS[:5] + 0.01)
    base, queries, truth = tmp_path / "base.npy", tmp_path / "queries.npy", tmp_path / "truth.ibin"
    built = json.loads(
        run("build", base, "--out", url, "--nlist", 8, "--codec", "flat", "--niter", 2, "--json")
    )
    assert built["index"] == url
    run("groundtruth", base, queries, "-k", 3, "--out", truth)
    assert "sound" in run("verify", url)
    assert json.loads(run("info", url, "--json"))["ntotal"] == 300
    found = json.loads(run("search", url, queries, "-k", 1, "--nprobe", 8, "--json"))
    assert np.ravel(found["ids"]).tolist() == [0, 1, 2, 3, 4]
    assert "1.0000" in run("eval", url, queries, truth, "--nprobe", 8, "-k", 3)
    run("calibrate", url, queries, "--truth", truth)
    assert "version 1: add 100 rows" in run("add", url, tmp_path / "more.npy", "-q")
    assert "version 2: delete 2 ids" in run("delete", url, "--ids", "3,350")
    assert "roll back to version 1" in run("rollback", url, 1)
    run("rollback", url, 2)
    assert "compact" in run("compact", url, "--full", "-q")
    assert "nothing to do" in run("maintain", url, "-q")
    assert f"{url}: removed 5 versions" in run("vacuum", url, "--older-than", "0s")
    assert run("versions", url).count("\n") == 2
    run("export-faiss", url, tmp_path / "out.faiss")
    copied = run("cp", url, tmp_path / "local", "-q")
    assert "version 5" in copied
    assert "sound" in run("verify", f"file://{tmp_path}/local")
    assert json.loads(run("cp", tmp_path / "local", url, "-q", "--json"))["files"] == 0
    for stage in ("train", "shard"):
        more = ["--nlist", 8, "--niter", 2, "--codec", "flat"] if stage == "train" else []
        run(stage, base, "--out", f"{url}-stages", *more, "-q")
    run("merge", "--out", f"{url}-stages", "-q")
    assert "sound" in run("verify", f"{url}-stages")


def test_store_options(url: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    options = [
        *("--store-option", f"endpoint={s3_endpoint}", "--store-option", "allow_http=true"),
        *("--store-option", f"secret_access_key={KEYS['secret_access_key']}"),
    ]
    assert f"{url}: no teravec index there" in run("info", url, *options, code=1)
    assert "one of the store options" in run("info", url, "--store-option", "spam=1", code=2)
    assert "name=value expected" in run("info", url, "--store-option", "spam", code=2)
    assert "unknown scheme" not in run("info", "s3:/not/a/url", code=1)


def test_errors_are_one_line(url: str) -> None:
    gone = "s3://no-such-bucket/index"
    assert run("info", gone, code=2).count("\n") == 1
    assert "there is no such bucket" in run("info", gone, code=2)
    assert "without user, query" in run("info", f"{url}?sig=x", code=2)


def test_commands_with_a_cache_on_disk(url: str, tmp_path: Path) -> None:
    """Those that read, among them some that only an index in a directory was given before."""
    np.save(tmp_path / "base.npy", ROWS)
    np.save(tmp_path / "queries.npy", ROWS[:5] + 0.01)
    base, queries = tmp_path / "base.npy", tmp_path / "queries.npy"
    local = tmp_path / "local"
    run("build", base, "--out", local, "--nlist", 8, "--codec", "flat", "--niter", 2, "-q")
    run("cp", local, url, "-q")
    cache = ["--cache", tmp_path / "cache", "--cache-bytes", "4MiB"]
    for number in range(2):
        args = ["search", url, queries, "-k", 1, "--nprobe", 8, "--json", "--stats", *cache]
        found = json.loads(run(*args))
        assert np.ravel(found["ids"]).tolist() == [0, 1, 2, 3, 4]
        [counts] = found["caches"].values()
        assert (counts["hits"] > 0) == bool(number)
    assert "hit rate" in run("search", url, queries, "-k", 1, "--nprobe", 8, "--stats", *cache)
    within = run("range-search", url, queries, "--radius", 1.0, "--nprobe", 8, "--json", *cache)
    assert json.loads(within)["results"] >= 5
    assert '"id"' in run("get", url, "--ids", "7", "--vectors", *cache)
    groups = tmp_path / "groups.parquet"
    run("duplicates", url, base, "--threshold", 0.5, "--nprobe", 8, "--out", groups, "-q", *cache)
    assert groups.exists()
    assert "sound" in run("verify", url, *cache)
    run("rebalance", url, "-q")
    run("export-faiss", local, tmp_path / "out.faiss")
    run("import-faiss", tmp_path / "out.faiss", "--out", f"{url}-imported", "-q")
    assert "sound" in run("verify", f"{url}-imported")
    assert "at least 1,048,576 expected" in run(*args[:-1], "1000", code=2)
    assert "a directory for it expected" in run("info", url, "--cache-bytes", "4MiB", code=2)
