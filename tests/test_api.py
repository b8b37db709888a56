"""What the public functions take: values of any library, or typed errors; nothing else."""

from __future__ import annotations

import decimal
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import teravec
from teravec import Index, InvalidArgument, RemoteIndex, TeravecError
from teravec.serving.deploy.launch import ServeOptions, launch
from teravec.serving.wire.client import connect
from tests.conftest import clustered

X = clustered(300, 8)
RECORDS = np.zeros(2, [("a", "f4"), ("b", "f4")])
ODD: list[Any] = [
    None,
    True,
    "5",
    b"5",
    2.5,
    float("nan"),
    10**30,
    -3,
    [3],
    (),
    {},
    np.array([3.0]),
    np.bool_(True),
    np.datetime64("2020"),
    1j,
    np.complex64(2),
    decimal.Decimal("2.5"),
    object(),
    RECORDS,
    Index,
    np.ma.masked,
    lambda: 3,
    np.float32("inf"),
    "",
]


class Here:
    """A path of a framework's own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("api")
    np.save(root / "x.npy", X)
    np.save(root / "q.npy", X[:5])
    teravec.build(root / "x.npy", root / "i", nlist=4)
    teravec.build(root / "x.npy", root / "two", nlist=4, codec="rabitq2+sq8", calibrate=False)
    return root


@pytest.fixture(scope="module")
def here(root: Path) -> Iterator[Index]:
    with teravec.open(Here(root / "i")) as index:
        yield index


def served(path: Path) -> Iterator[RemoteIndex]:
    server = launch(ServeOptions(path))
    try:
        with connect(str(server.address)) as index:
            yield index
    finally:
        server.close()


@pytest.fixture(scope="module")
def there(root: Path) -> Iterator[RemoteIndex]:
    yield from served(root / "i")


@pytest.fixture(scope="module")
def two_there(root: Path) -> Iterator[RemoteIndex]:
    yield from served(root / "two")


def typed(call: Callable[[], Any]) -> str:
    """The message of a typed error on one line; empty where the call was answered."""
    message = ""
    try:
        call()
    except TeravecError as error:
        message = str(error)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("value", ODD, ids=lambda v: type(v).__name__)
def test_searches_alike_here_and_there(value: Any, here: Index, there: RemoteIndex) -> None:
    calls: list[Callable[[Any], Any]] = [
        lambda index: index.search(value, 2, 2),
        lambda index: index.search(X[:2], value, 2),
        lambda index: index.search(X[:2], 2, value),
        lambda index: index.search(X[:2], 2, recall=value),
        lambda index: index.search(X[:2], 2, 2, candidates=value),
        lambda index: index.range_search(X[:2], value, 2),
        lambda index: index.range_search(value, 2.0, 2),
    ]
    for number, call in enumerate(calls):
        mine, theirs = typed(partial(call, here)), typed(partial(call, there))
        assert bool(mine) == bool(theirs), (number, mine, theirs)
        if number not in (4,) and "nprobe" not in mine:  # a server knows its stages and lists
            assert mine == theirs


@pytest.mark.parametrize("value", ODD, ids=lambda v: type(v).__name__)
def test_other_functions(value: Any, root: Path, tmp_path: Path, there: RemoteIndex) -> None:
    data, out = root / "x.npy", tmp_path / "out"

    def build(**options: Any) -> Any:
        return lambda: teravec.build(data, out, **{"nlist": 2, "calibrate": False, **options})

    names = (
        "nlist",
        "metric",
        "transform",
        "codec",
        "sample",
        "niter",
        "seed",
        "max_list_bytes",
        "shards",
        "slices",
        "keep_shards",
        "memory",
        "threads",
        "id_column",
        "vector_column",
        "weights",
        "overwrite",
        "progress",
        "engine",
        "device",
    )
    refused_when_none = {"metric", "codec", "niter", "seed", "keep_shards", "overwrite", "engine"}
    for name in names:
        fails = typed(build(**{name: value}))
        assert fails or out.exists()
        if value is None:
            assert bool(fails) == (name in {*refused_when_none, "device"}), name
        if out.exists():
            for path in sorted(out.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            out.rmdir()
    assert typed(lambda: teravec.open(value))
    assert typed(lambda: teravec.connect(value))
    assert typed(lambda: teravec.verify(value))
    assert typed(lambda: teravec.export_faiss(value, value))
    assert typed(lambda: teravec.merge(value))
    assert typed(lambda: teravec.calibrate(root / "two", data=value))
    for name in ("options", "layout", "resources"):
        assert value is None or typed(partial(teravec.train, data, out, **{name: value}))
    typed(lambda: teravec.open(root / "i", memory=value).close())
    typed(lambda: teravec.open(root / "i", threads=value).close())
    typed(lambda: teravec.open(root / "i", lists=value).close())
    assert (
        value is True
        or typed(lambda: teravec.open(root / "i", keep_lists=value).close())
        or (isinstance(value, np.bool_))
    )
    typed(lambda: there.search(X[:1], 1, timeout_s=value))


def test_numbers_of_numpy(here: Index, there: RemoteIndex) -> None:
    expected = here.search(X[:3], 5, 3)
    index: Any
    for index in (here, there):
        for k, nprobe in (
            (np.int64(5), np.uint8(3)),
            (np.array(5), np.int16(3)),
            (np.int32(5), np.array(3)),
        ):
            np.testing.assert_array_equal(index.search(X[:3], k, nprobe)[1], expected[1])
        by_recall = index.search(X[:3], 5, recall=0.5)[1]
        for recall in (np.float64(0.5), np.float32(0.5), decimal.Decimal("0.5"), np.array(0.5)):
            np.testing.assert_array_equal(index.search(X[:3], 5, recall=recall)[1], by_recall)
        within = index.range_search(X[:3], 4.0, 3)[2]
        for radius in (4, np.float16(4), np.int8(4), np.array(4.0), decimal.Decimal(4)):
            np.testing.assert_array_equal(index.range_search(X[:3], radius, 3)[2], within)


@pytest.mark.parametrize(
    "queries",
    [
        X[:2].tolist(),
        X[:2].astype("f8"),
        X[:2].astype(">f4"),
        X[:2].astype(np.longdouble),
        np.asfortranarray(X[:2]),
        X[:4:2][:, ::-1][:, ::-1],
        np.ma.array(X[:2]),
        tuple(X[:2]),
        list(X[:2]),
    ],
    ids=range(9),
)
def test_queries_of_any_kind(queries: Any, here: Index, there: RemoteIndex) -> None:
    expected = here.search(np.asarray(queries, np.float32), 3, 4)[1]
    for index in (here, there):
        np.testing.assert_array_equal(index.search(queries, 3, 4)[1], expected)


def test_masked_values_are_no_queries(here: Index, there: RemoteIndex) -> None:
    masked = np.ma.array(X[:2], mask=X[:2] > 1e-3)
    for index in (here, there):
        with pytest.raises(InvalidArgument, match="masked queries found"):
            index.search(masked, 1, 1)


def test_one_query_as_a_vector(here: Index, there: RemoteIndex, two_there: RemoteIndex) -> None:
    for index in (here, there, two_there):
        distances, ids = index.search(X[7], 4, 4)
        rows = index.search(X[7:8], 4, 4)
        assert (distances.shape, ids.shape) == ((4,), (4,))
        np.testing.assert_array_equal(ids, rows[1][0])
        np.testing.assert_array_equal(index.search(X[7].tolist(), 4, 4)[1], ids)
        lims, _, found = index.range_search(X[7], 5.0, 4)
        assert lims.tolist() == [0, len(found)]
        with pytest.raises(InvalidArgument, match=r"shape \(7,\) found, \(nq, 8\) expected"):
            index.search(X[7, :7], 4, 4)


def test_no_queries(here: Index, there: RemoteIndex, two_there: RemoteIndex) -> None:
    index: Any
    nothing: list[Any] = [[], X[:0], np.empty((0, 8))]
    for index in (here, there, two_there):
        for queries in nothing:
            distances, ids = index.search(queries, 3)
            assert (distances.shape, ids.shape) == ((0, 3), (0, 3))
            assert [len(part) for part in index.range_search(queries, 1.0)] == [1, 0, 0]


def test_k_beyond_ntotal_is_padded(
    root: Path, here: Index, there: RemoteIndex, two_there: RemoteIndex
) -> None:
    with teravec.open(root / "two") as two_here:
        for index in (here, there, two_here, two_there):
            distances, ids = index.search(X[:2], 305, 4)
            assert ids.shape == distances.shape == (2, 305)
            assert (np.sort(ids[:, :300]) == np.arange(300)).all()
            assert (ids[:, 300:] == -1).all()
            assert np.isposinf(distances[:, 300:]).all()
            np.testing.assert_array_equal(ids[:, :300], index.search(X[:2], 300, 4)[1])
        with pytest.raises(TeravecError, match="results a query"):
            two_here.search(X[:2], 2**31 - 1, 4)


def test_handles_say_what_they_are(here: Index, there: RemoteIndex, root: Path) -> None:
    assert repr(here) == f"<teravec.Index {str(root / 'i')!r}: 300 x 8, l2, sq8, 4 lists>"
    assert "300 x 8, l2, 4 lists" in repr(there)
    for index in (here, there):
        assert len(index) == 300
        assert index
        for name in ("nprobe", "efSearch", "recall", "typo", "ntotal", "d"):
            with pytest.raises(AttributeError):
                setattr(index, name, 64)
        with pytest.raises(AttributeError, match=r"index\.search\(queries, k, nprobe=64\)"):
            index.nprobe = 64
        assert not hasattr(index, "nprobe")
    assert len(repr(here.manifest)) < 100
    assert len(repr(here.calibration)) < 150
    assert teravec.__version__.count(".") >= 2


def test_addresses(there: RemoteIndex) -> None:
    with pytest.raises(InvalidArgument, match="names the HTTP port"):
        teravec.connect("http://127.0.0.1:7480")
    for url in ("", "ftp://a:1", "grpc://[::1", "host", "host:port", "grpc://h:1/path"):
        with pytest.raises(InvalidArgument):
            teravec.connect(url)


def test_paths_of_any_library(root: Path, tmp_path: Path) -> None:
    teravec.build(Here(root / "x.npy"), Here(tmp_path / "i"), nlist=2, weights=None)
    teravec.verify(Here(tmp_path / "i"))
    teravec.export_faiss(Here(tmp_path / "i"), Here(tmp_path / "f"))
    assert (
        teravec.calibrate(
            Here(tmp_path / "i"), Here(root / "q.npy"), data=[Here(root / "x.npy")]
        ).queries
        == 5
    )
    assert os.fspath(Here(tmp_path)) == str(tmp_path)


class Counting:
    """A Progress of a user's own."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def stage(self, name: str, total: int, unit: str) -> Any:
        self.names.append(name.partition(",")[0])
        return teravec.Bars(quiet=True).stage(name, total, unit)


def test_progress(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def build(out: str, progress: Any) -> None:
        teravec.build(root / "x.npy", tmp_path / out, nlist=2, codec="pq2x4", progress=progress)

    stages = ["sample", "k-means", "codec", "shard", "merge", "groundtruth", "calibrate"]
    build("1", True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0].partition(",")[0] for line in lines] == stages
    assert lines[1].startswith("k-means, 10 iterations: ")
    mine, bars = Counting(), teravec.Bars(quiet=True)
    build("2", mine)
    build("3", bars)
    assert mine.names == [stage.name for stage in bars.stages] == stages
    assert next(s for s in bars.stages if s.name == "codec").amount == 2
    build("4", False)
    assert capsys.readouterr().err == ""


def test_overwriting(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "i"

    def build(**options: Any) -> Any:
        return teravec.build(root / "x.npy", out, calibrate=False, **options)

    build(nlist=2)
    with pytest.raises(teravec.OutputExists, match=r"nlist 2, not 3: give --nlist 2 .*--overwrite"):
        build(nlist=3)
    with pytest.raises(InvalidArgument):  # what cannot be built replaces nothing
        build(nlist=10**6, overwrite=True)
    with teravec.open(out) as before:
        assert before.nlist == 2
        assert build(nlist=3, overwrite=True).nlist == 3
        assert before.search(X[:1], 1, 2)[1] == [[0]]  # who has the old one open keeps it
    assert build(nlist=3, overwrite=True).nlist == 3
    assert [path.name for path in tmp_path.iterdir()] == ["i"]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(teravec.OutputExists, match=r"holds notes\.txt beside an index"):
        build(nlist=2, overwrite=True)
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "notes.txt").write_text("mine")
    with pytest.raises(teravec.OutputExists, match="is not a teravec build"):
        teravec.build(root / "x.npy", tmp_path / "f", overwrite=True)
    assert (tmp_path / "f" / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "i"]
