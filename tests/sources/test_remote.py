"""Sources by URL: web servers, data sets of the Hub, object stores; the rows that a disk gives."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import teravec
from teravec.errors import InvalidArgument, InvalidSource
from teravec.sources import open_source, reopen
from teravec.sources.remote_listing import translate
from tests.storage.object_stand_in import KEYS, make_bucket, s3_server

from . import writers
from .web_stand_in import Web, web_server

N, D = 300, 6
X = writers.random_matrix(N, D, "f4")

WRITERS = {
    "x.fbin": writers.write_bin,
    "x.fvecs": writers.write_vecs,
    "x.npy": writers.write_npy,
    "x.parquet": writers.write_parquet,
    "x.arrow": writers.write_ipc,
    "x.feather": writers.write_feather,
}


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with web_server(tmp_path_factory.mktemp("web")) as server:
        yield server


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_from_a_web_server(name: str, web: Web) -> None:
    WRITERS[name](web.root / name, X)
    local, source = open_source(web.root / name), open_source(f"{web.url}/files/{name}")
    for found in (source, reopen(source.opened_by)):
        assert np.array_equal(found.read(0, N), local.read(0, N))
        assert np.array_equal(found.take(np.array([3, 70, 299])), X[[3, 70, 299]])
    described, expected = source.describe(), local.describe()
    assert described["files"][0].pop("fingerprint") != expected["files"][0].pop("fingerprint")
    assert described == expected


def test_a_file_is_opened_once_and_read_by_ranges(web: Web) -> None:
    x = writers.random_matrix(20_000, 32, "f4")
    writers.write_bin(web.root / "large.fbin", x)
    source = open_source(f"{web.url}/files/large.fbin")
    web.asked.clear()
    assert np.array_equal(source.take(np.array([19_000])), x[19_000:19_001])
    assert [size for _, _, size in web.asked] == [4 * 32]


def test_rows_of_parquet_cost_their_own_column_chunks(web: Web) -> None:
    n = 4000
    wide = pa.array([bytes(np.random.default_rng(i).bytes(2000)) for i in range(n)])
    x = writers.random_matrix(n, 8, "f4")
    table = pa.table({"text": wide, "v": list(x), "more": wide})
    pq.write_table(table, web.root / "wide.parquet", row_group_size=500, compression="none")
    source = open_source(f"{web.url}/files/wide.parquet")
    web.asked.clear()
    assert np.array_equal(source.take(np.array([1700, 1800])), x[[1700, 1800]])
    size = (web.root / "wide.parquet").stat().st_size
    assert 0 < sum(size for _, _, size in web.asked) < size / 100


def test_a_file_that_changes_is_an_error(web: Web) -> None:
    writers.write_npy(web.root / "changing.npy", X)
    source = open_source(f"{web.url}/files/changing.npy")
    before = source.describe()
    writers.write_npy(web.root / "changing.npy", np.concatenate([X, X * 50_000]))
    again = open_source(f"{web.url}/files/changing.npy")
    assert again.describe() != before


def test_data_sets_of_the_hub(
    web: Web, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    folder = web.root / "ann" / "vectors"
    parts = [("data/train-2.parquet", 100), ("data/train-10.parquet", 150), ("extra/a.parquet", 50)]
    start = 0
    for name, rows in parts:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        writers.write_parquet(folder / name, X[start : start + rows])
        start += rows
    (folder / "README.md").write_text("about")
    (folder / "data" / ".hidden.parquet").write_text("no")
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    whole = open_source("hf://datasets/ann/vectors")
    other = open_source("hf://datasets/ann/vectors/data/train-2.parquet")
    assert whole.match_order(other.describe()) is whole  # files that have changed since a build
    assert np.array_equal(whole.read(0, N), X)
    assert whole.describe()["files"][0]["folder"] == "data"
    assert "README.md" in caplog.text
    assert web.headers[-1]["Authorization"] == "Bearer hf_s3cret"
    for url, some in (
        ("hf://datasets/ann/vectors@main/data/*.parquet", slice(0, 250)),
        ("hf://datasets/ann/vectors/**/*.parquet", slice(0, 300)),
        ("hf://datasets/ann/vectors/extra", slice(250, 300)),
        ("hf://datasets/ann/vectors/data/train-10.parquet", slice(100, 250)),
    ):
        source = open_source(url)
        assert np.array_equal(source.read(0, source.ntotal), X[some]), url
    manifest = teravec.build(
        "hf://datasets/ann/vectors", tmp_path / "index", nlist=4, calibrate=False
    )
    assert manifest.ntotal == N
    texts = [path.read_bytes() for path in (tmp_path / "index").rglob("*") if path.is_file()]
    assert not any(b"s3cret" in data for data in texts)
    for url in ("hf://datasets/ann/none", "hf://datasets/ann/vectors/none/*.npy"):
        with pytest.raises(InvalidSource, match="expected files of vectors"):
            open_source(url)
    with pytest.raises(InvalidArgument, match="hf://datasets/OWNER/NAME"):
        open_source("hf://models/ann")


def test_object_stores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import obstore

    with s3_server() as endpoint:
        bucket = make_bucket(endpoint)
        monkeypatch.setenv("AWS_ENDPOINT", endpoint)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        for name, value in KEYS.items():
            monkeypatch.setenv(f"AWS_{name.upper()}", value)
        store = obstore.store.S3Store(bucket)
        for number, (start, stop) in enumerate([(0, 100), (100, 300)]):
            writers.write_npy(tmp_path / "x.npy", X[start:stop])
            name = f"some/lang=en/part-{9 + number}.npy"
            obstore.put(store, name, (tmp_path / "x.npy").read_bytes())
        obstore.put(store, "some/_SUCCESS", b"")
        obstore.put(store, "some/index/build.json", b"{}")
        obstore.put(store, "some/index/centroids.npy", b"{}")
        for url in (f"s3://{bucket}", f"s3://{bucket}/some", f"s3://{bucket}/some/**/*.npy"):
            source = open_source(url)
            assert np.array_equal(source.read(0, N), X), url
        one = open_source(f"s3://{bucket}/some/lang=en/part-9.npy:npy")
        assert one.ntotal == 100
        with pytest.raises(InvalidSource, match="no such file or folder"):
            open_source(f"s3://{bucket}/none")
        with pytest.raises(InvalidSource, match="reached twice"):
            open_source([f"s3://{bucket}", f"s3://{bucket}/some/lang=en/part-9.npy"])


def test_data_have_credentials_of_their_own(s3_endpoint: str, tmp_path: Path) -> None:
    """None are in the environment; those of the data are written nowhere, and workers get them."""
    import obstore
    from typer.testing import CliRunner

    from teravec.cli.main import app

    bucket = make_bucket(s3_endpoint)
    options: Any = {"endpoint": s3_endpoint, "region": "us-east-1", "allow_http": True, **KEYS}
    writers.write_npy(tmp_path / "x.npy", X)
    store = obstore.store.S3Store(bucket, config=options)
    obstore.put(store, "data/x.npy", (tmp_path / "x.npy").read_bytes())
    data = teravec.files(f"s3://{bucket}/data/*.npy:npy", options)
    source = open_source(data)
    again = reopen(copy.deepcopy(source.opened_by))  # by the same means as workers get it
    assert np.array_equal(again.read(0, N), X)
    assert KEYS["secret_access_key"] not in repr((data, source.opened_by, source.describe()))
    manifest = teravec.build(data, tmp_path / "one", nlist=4, calibrate=False)
    given = [f"--source-option={name}={value}" for name, value in options.items()]
    command = ["build", f"s3://{bucket}/data", "--out", str(tmp_path / "two"), *given]
    ran = CliRunner().invoke(app, [*command, "--nlist", "4", "--no-calibrate", "-q"])
    assert ran.exit_code == 0, ran.output
    with teravec.open(tmp_path / "two") as index:
        assert (index.seal, index.ntotal) == (manifest.seal, N)
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(value.encode() in data for value in KEYS.values() for data in kept)
    with pytest.raises(InvalidArgument, match="a URL such as"):
        teravec.files(str(tmp_path), options)
    with pytest.raises(InvalidArgument):
        open_source(teravec.files(f"s3://{bucket}/data", {**options, "no_such_option": "s3cret"}))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/files/none.npy", "none.npy: no such file"),
        ("/files/*.npy", "lists none"),
        ("/files", "lists none"),
        ("/files/x.npy?token=s3cret", "without a query"),
    ],
)
def test_what_cannot_be_read(path: str, message: str, web: Web) -> None:
    with pytest.raises(InvalidArgument, match=message) as error:
        open_source(web.url + path)
    assert "s3cret" not in str(error.value)


def test_nobody_answers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(InvalidArgument, match="without user"):
        open_source("http://ann:s3cret@127.0.0.1/x.npy")
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.npy", ["a.npy", ".npy"], ["a/b.npy", "a.npyx"]),
        ("**/*.npy", ["a.npy", "a/b.npy", "a/b/c.npy"], ["a.np"]),
        ("data/**", ["data/a", "data/a/b"], ["dat/a"]),
        ("part-[0-3]?.npy", ["part-12.npy"], ["part-42.npy", "part-1.npy"]),
        ("[!a].npy", ["b.npy"], ["a.npy"]),
        ("a[.npy", ["a[.npy"], ["a.npy"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    assert all(translate(pattern).fullmatch(name) for name in yes)
    assert not any(translate(pattern).fullmatch(name) for name in no)
