"""The functions of the package on data in memory and on streams: what they do on files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import teravec
from teravec import InvalidArgument, InvalidSource, Manifest, OutputExists
from tests.conftest import clustered
from tests.stopping import Stopped, StopsAfter

N, D = 2000, 12
X = clustered(N, D)
Q = clustered(40, D, seed=1)
IDS = np.random.default_rng(2).permutation(N) + 10
TABLE = pa.table(
    {"v": pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), D), "id": IDS, "t": ["a"] * N}
)


def batches(x: np.ndarray = X) -> Iterator[np.ndarray]:
    return (x[start : start + 300] for start in range(0, len(x), 300))


class Tensor:
    """A PyTorch tensor on a device, as far as it is used here."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.ndim, self.dtype = array, array.shape, array.ndim, "float32"

    def __getitem__(self, key: Any) -> Tensor:
        return Tensor(self.array[key])

    def detach(self) -> Tensor:
        return self

    cpu = detach

    def numpy(self) -> np.ndarray:
        return self.array


class Saved:
    """An os.PathLike of a library's own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The vectors in a file, and an index built from it; once more with ids."""
    root = tmp_path_factory.mktemp("in-memory")
    np.save(root / "x.npy", X)
    np.save(root / "q.npy", Q)
    pq.write_table(TABLE, root / "x.parquet")
    teravec.build(root / "x.npy", root / "plain", nlist=16)
    teravec.build(root / "x.parquet", root / "named", nlist=16, id_column="id")
    return root


def seals(index: Path | Manifest) -> list[str]:
    manifest = index
    if not isinstance(index, Manifest):
        with teravec.open(index) as opened:
            manifest = opened.manifest
    assert isinstance(manifest, Manifest)
    return [entry.checksum for entry in manifest.slices]


def calibration(index: Path) -> bytes:
    return (index / "calibration.json").read_bytes()


def equal(found: Any, expected: Any) -> bool:
    """Whether two results are the same arrays."""
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


KINDS: dict[str, Callable[[Path], Any]] = {
    "array": lambda root: X,
    "Fortran order": lambda root: np.asfortranarray(X),
    "float64, big-endian": lambda root: X.astype(">f8"),
    "memory map": lambda root: np.load(root / "x.npy", mmap_mode="r"),
    "lists": lambda root: X.tolist(),
    "arrays": lambda root: [X[:700], X[700:]],
    "tensor": lambda root: Tensor(X),
    "generator": lambda root: batches(),
    "Arrow": lambda root: TABLE,
    "Arrow stream": lambda root: TABLE.to_reader(400),
    "pandas": lambda root: pd.DataFrame({"v": list(X), "t": ["a"] * N}),
    "polars": lambda root: pl.DataFrame(TABLE),
    "DuckDB": lambda root: duckdb.connect().from_arrow(TABLE),
    "os.PathLike": lambda root: Saved(root / "x.npy"),
    "generator of paths": lambda root: root.glob("x.npy"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_is_that_of_a_file_of_the_same_vectors(
    kind: str, root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "i"
    manifest = teravec.build(KINDS[kind](root), Saved(out), nlist=16)
    assert seals(manifest) == seals(root / "plain")
    assert manifest.model == _manifest(root / "plain").model
    assert (out / "calibration.json").read_bytes() == (
        root / "plain" / "calibration.json"
    ).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["i"]  # no spool is left
    teravec.build(KINDS[kind](root), out, nlist=16)  # nothing is missing
    assert [path.name for path in tmp_path.iterdir()] == ["i"]


def _manifest(index: Path) -> Manifest:
    with teravec.open(index) as opened:
        return opened.manifest


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda: X, {"ids": IDS}),
        (lambda: batches(), {"ids": IDS.tolist()}),
        (lambda: ((IDS[i : i + 300], X[i : i + 300]) for i in range(0, N, 300)), {}),
        (lambda: TABLE, {"id_column": "id", "vector_column": "v"}),
        (lambda: TABLE.to_reader(400), {"id_column": "id"}),
        (lambda: pd.DataFrame({"v": list(X), "id": IDS}), {"id_column": "id"}),
        (lambda: pl.DataFrame(TABLE), {"id_column": "id"}),
        (lambda: duckdb.connect().from_arrow(TABLE), {"id_column": "id"}),
    ],
)
def test_ids_are_those_of_a_file(
    make: Callable[[], Any], options: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    assert seals(
        teravec.build(make(), tmp_path / "i", nlist=16, calibrate=False, **options)
    ) == seals(root / "named")


def test_stage_by_stage_from_a_stream(root: Path, tmp_path: Path) -> None:
    out, spool = tmp_path / "i", tmp_path / "i.spool"
    teravec.train(batches(), out, nlist=16, memory="1GiB", threads=1)
    assert spool.exists()
    assert len(teravec.shard(batches(), out, rows=(0, 900), threads=1)) == 1
    teravec.shard(spool, out)
    assert seals(teravec.merge(out, memory="1GiB")) == seals(root / "plain")
    assert spool.exists()
    teravec.calibrate(out, data=batches())
    assert not spool.exists()
    assert (out / "calibration.json").read_bytes() == (
        root / "plain" / "calibration.json"
    ).read_bytes()


def test_where_a_stream_is_spooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teravec.build(batches(), tmp_path / "new" / "folder" / "i", nlist=4, calibrate=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(Stopped):
        teravec.build(batches(), ".", nlist=4, progress=StopsAfter(blocks=0, stage="shard"))
    assert (tmp_path / "here.spool").exists()
    teravec.build(batches(), ".", nlist=4, calibrate=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "new"]


def test_a_file_that_is_no_spool_stays(root: Path, tmp_path: Path) -> None:
    (tmp_path / "i.spool").write_bytes(b"of somebody else, and longer than a header of a spool is")
    teravec.build(X, tmp_path / "i", nlist=16)
    assert (tmp_path / "i.spool").exists()
    with pytest.raises(teravec.CorruptFile, match=r"i\.spool: begins with b'of someb'"):
        teravec.build(batches(), tmp_path / "i", nlist=16)


@pytest.mark.parametrize("stage", ["spool", "sample", "k-means", "shard", "merge", "groundtruth"])
def test_a_build_that_was_stopped_goes_on(stage: str, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "i"
    with pytest.raises(Stopped):
        teravec.build(batches(), out, nlist=16, progress=StopsAfter(blocks=0, stage=stage))
    assert (tmp_path / "i.spool").exists() == (stage != "spool")
    assert seals(teravec.build(batches(), out, nlist=16)) == seals(root / "plain")
    assert [path.name for path in tmp_path.iterdir()] == ["i"]


def test_a_build_that_was_stopped_goes_on_by_command(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "i"
    with pytest.raises(Stopped):
        teravec.build(batches(), out, nlist=16, progress=StopsAfter(blocks=0, stage="shard"))
    command = [sys.executable, "-m", "teravec", "build", f"{out}.spool", "--out", str(out)]
    subprocess.run([*command, "--nlist", "16", "-q"], check=True)
    assert seals(out) == seals(root / "plain")
    assert [path.name for path in tmp_path.iterdir()] == ["i"]


_KILLED = """
import sys, time
import numpy as np
import teravec
x = np.load(sys.argv[1])
class Slow:
    def stage(self, name, total, unit):
        if name.startswith("k-means"):
            print("training", flush=True)
            time.sleep(60)
        from teravec.progress import NoProgress
        return NoProgress().stage(name, total, unit)
teravec.build((x[i:i + 300] for i in range(0, len(x), 300)), sys.argv[2], nlist=16, progress=Slow())
"""


def test_killed(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "i"
    child = subprocess.Popen(
        [sys.executable, "-c", _KILLED, root / "x.npy", out], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"training\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert (tmp_path / "i.spool").exists()
    taken = []

    def once() -> Iterator[np.ndarray]:
        for batch in batches():
            taken.append(len(batch))
            yield batch

    assert seals(teravec.build(once(), out, nlist=16)) == seals(root / "plain")
    assert taken == [300]
    assert not (tmp_path / "i.spool").exists()


def test_other_vectors_do_not_go_on(root: Path, tmp_path: Path) -> None:
    out, changed = tmp_path / "i", X.copy()
    changed[N // 2, 3] += 1
    with pytest.raises(Stopped):
        teravec.build(X, out, nlist=16, progress=StopsAfter(blocks=0, stage="shard"))
    for other in (changed, X[:-1], batches(changed)):
        with pytest.raises(OutputExists, match="was begun with other vectors"):
            teravec.build(other, out, nlist=16)
    (tmp_path / "i.spool").unlink()
    teravec.build(batches(), out, nlist=16)  # the same, from a stream
    for table in (changed, {"v": changed}):
        with pytest.raises(InvalidArgument, match="was not built from"):
            teravec.calibrate(out, data=table)
    with pytest.raises(OutputExists, match="was begun with other vectors"):
        teravec.build(X, out, nlist=16, ids=IDS)


def test_calibrating_on_what_it_was_built_from(root: Path, tmp_path: Path) -> None:
    teravec.build(X, tmp_path / "i", nlist=16, calibrate=False)
    expected = teravec.calibrate(root / "plain", data=root / "x.npy")
    for data in (np.asfortranarray(X), batches(), root / "x.npy"):
        assert teravec.calibrate(tmp_path / "i", data=data).points == expected.points
    own = teravec.calibrate(tmp_path / "i", Q, data=X, ks=[10])
    D_, I_ = teravec.groundtruth(X, Q, 10)
    by_truth = teravec.calibrate(tmp_path / "i", batches(Q), truth=(D_, I_), ks=[10])
    assert [p.recall for p in by_truth.points] == [p.recall for p in own.points]
    assert [p.name for p in tmp_path.iterdir()] == ["i"]


def test_bad_vectors_leave_nothing(tmp_path: Path) -> None:
    long = X.copy()
    long[1500] = 1e30  # finite, but with squared distances beyond float32
    for data in (long, batches(long), X * np.float32(np.nan)):
        with pytest.raises(InvalidSource):
            teravec.build(data, tmp_path / "i", nlist=16)
        assert list(tmp_path.iterdir()) == []


def test_weights_in_memory_are_those_of_a_file(tmp_path: Path) -> None:
    weights = np.linspace(0, 2, N)
    np.save(tmp_path / "w.npy", weights)
    a = teravec.build(X, tmp_path / "a", nlist=16, weights=weights, calibrate=False)
    b = teravec.build(X, tmp_path / "b", nlist=16, weights=tmp_path / "w.npy", calibrate=False)
    assert seals(a) == seals(b)
    with pytest.raises(OutputExists, match="was begun with weights"):
        teravec.build(X, tmp_path / "a", nlist=16, weights=weights + 1)


def test_groundtruth(root: Path, tmp_path: Path) -> None:
    expected = teravec.groundtruth(root / "x.npy", root / "q.npy", 10)
    squares = ((Q[:, None].astype("f8") - X) ** 2).sum(2)
    assert np.array_equal(expected[1], np.argsort(squares, axis=1)[:, :10])
    out = tmp_path / "t.npz"
    for data, queries in ((X, Q), (batches(), batches(Q)), (pl.DataFrame(TABLE), Q.tolist())):
        found = teravec.groundtruth(data, queries, 10, out=out)
        assert equal(found, expected)
        assert np.array_equal(np.load(out)["ids"], expected[1])
        assert [path.name for path in tmp_path.iterdir()] == ["t.npz"]
    named = teravec.groundtruth(X, Q, 10, ids=IDS)
    assert np.array_equal(named[1], IDS[expected[1]])
    with pytest.raises(InvalidArgument, match="written as"):
        teravec.groundtruth(X, Q, 10, out=tmp_path / "t.xlsx")
    with pytest.raises(InvalidSource, match="queries in memory: array of shape"):
        teravec.groundtruth(X, Q[0], 10)


def test_searching_in_one_call(root: Path, tmp_path: Path) -> None:
    with teravec.open(root / "plain") as index:
        expected = index.search(Q, nprobe=4)
        assert expected[1].shape == (len(Q), 10)
        ranged = index.range_search(Q, 9.0, 4)
        assert equal(teravec.search(index, Q, nprobe=4), expected)
    for queries in (Q, batches(Q), root / "q.npy", pd.DataFrame({"v": list(Q)})):
        found = teravec.search(root / "plain", queries, nprobe=4)
        assert equal(found, expected)
    within = teravec.range_search(root / "plain", batches(Q), 9.0, nprobe=4)
    assert equal(within, ranged)
    summary = teravec.search(root / "plain", batches(Q), nprobe=4, out=tmp_path / "r.npz")
    assert isinstance(summary, teravec.CorpusSummary)
    assert summary.queries == len(Q)
    assert np.array_equal(np.load(tmp_path / "r.npz")["ids"], expected[1])
    assert [path.name for path in tmp_path.iterdir()] == ["r.npz"]


def test_neighbours_within_one_set(root: Path, tmp_path: Path) -> None:
    found = teravec.search(root / "plain", root / "x.npy", 3, 16, exclude_self=True)
    named = teravec.search(root / "named", X[:50], 3, 16, exclude_self=True, ids=IDS[:50])
    assert isinstance(found, tuple)
    assert isinstance(named, tuple)
    assert not (found[1] == np.arange(N)[:, None]).any()
    assert np.array_equal(IDS[found[1][:50]], named[1])
    out = tmp_path / "graph.npz"
    teravec.search(root / "named", TABLE, 3, 16, exclude_self=True, id_column="id", out=out)
    assert np.array_equal(np.load(out)["ids"], IDS[found[1]])


def test_evaluating_and_describing(root: Path) -> None:
    truth = teravec.groundtruth(X, Q, 10)
    for given in (truth, truth[1]):
        results = teravec.evaluate(root / "plain", batches(Q), given, nprobe=(1, 16))
        assert [r.nprobe for r in results] == [1, 16]
        assert results[0].recall < results[1].recall
        assert results[1].recall > 0.95
    assert [r.asked for r in teravec.evaluate(root / "plain", Q, truth, recall=0.8)] == [0.8]
    assert len(teravec.evaluate(root / "plain", Q, truth)) == 4
    with pytest.raises(InvalidArgument, match="truth: ids of type float32"):
        teravec.evaluate(root / "plain", Q, truth[0])
    with pytest.raises(InvalidArgument, match=r"truth: distances .* shape \(40, 9\)"):
        teravec.evaluate(root / "plain", Q, (truth[0][:, 1:], truth[1]))
    about = teravec.info(root / "plain")
    assert (about["ntotal"], about["d"], about["nlist"]) == (N, D, 16)


def test_nlist_auto(tmp_path: Path) -> None:
    a = teravec.build(X, tmp_path / "a", nlist="auto", calibrate=False)
    b = teravec.build(X, tmp_path / "b", calibrate=False)
    assert seals(a) == seals(b)
    with pytest.raises(InvalidArgument, match="nlist is 'many'; a whole number or 'auto'"):
        teravec.build(X, tmp_path / "c", nlist="many")


@pytest.mark.parametrize(
    "data", [None, b"x.npy", 7, {"a": X, "b": X}, X[0], [X, "x.npy"], object()]
)
def test_what_is_no_data_is_refused_everywhere(data: Any, root: Path, tmp_path: Path) -> None:
    for call in (
        lambda: teravec.build(data, tmp_path / "i"),
        lambda: teravec.train(data, tmp_path / "i"),
        lambda: teravec.shard(data, root / "plain"),
        lambda: teravec.groundtruth(data, Q),
        lambda: teravec.groundtruth(X, data),
        lambda: teravec.search(root / "plain", data),
        lambda: teravec.evaluate(root / "plain", data, IDS[None]),
        # Without data, the queries of the build are measured again.
        lambda: teravec.calibrate(root / "plain", data=b"" if data is None else data),
    ):
        with pytest.raises(InvalidArgument) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_stream_is_not_read_twice_at_once(tmp_path: Path) -> None:
    """Another build that spools to the same place is refused, and takes nothing from it."""
    out, begun = tmp_path / "i", []

    def slow() -> Iterator[np.ndarray]:
        yield X
        with pytest.raises(OutputExists, match="another process is writing this file now"):
            teravec.build(batches(), out)
        begun.append(time.monotonic())

    teravec.build(slow(), out, nlist=16, calibrate=False)
    assert len(begun) == 1
