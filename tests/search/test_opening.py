"""The life of an open index: paths that stay, what goes with the object, and pickles of it."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import teravec
from teravec.errors import InvalidArgument, StorageError
from teravec.search.index import Index
from teravec.sources import open_source, reopen
from tests.conftest import clustered

X = clustered(3000, 16)


@pytest.fixture(scope="module", params=["flat", "rabitq1+sq8"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("opening")
    np.save(folder / "x.npy", X)
    teravec.build(folder / "x.npy", folder / "words", nlist=16, codec=request.param, slices=2)
    return folder


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def readers() -> int:
    return sum(thread.name.startswith("teravec-read") for thread in threading.enumerate())


# ------------------------------------------------------------------ paths


def test_a_relative_path_stays_when_the_process_moves(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(built)
    with teravec.open(Path("words")) as there, teravec.open("../" + built.name + "/words") as index:
        monkeypatch.chdir(tmp_path)
        assert there.calibration is not None
        assert index.effort(recall=0.8) == there.effort(recall=0.8)
        assert index.root.is_absolute()
        with copy.copy(index) as again:
            assert again.effort() == index.effort()


def test_a_source_by_relative_path_or_pattern(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(built)
    sources = [open_source("x.npy"), open_source("*.npy"), open_source([Path("x.npy")])]
    monkeypatch.chdir(tmp_path)
    for source in sources:
        assert np.array_equal(source.read(5, 9), X[5:9])
        assert np.array_equal(reopen(source.opened_by).read(5, 9), X[5:9])


def test_a_working_directory_that_was_removed(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(StorageError, match="words: the working directory cannot be found"):
        teravec.open("words")
    with teravec.open(built / "words") as index:
        assert index.ntotal == len(X)
    monkeypatch.chdir(tmp_path)


# ------------------------------------------------------------------ what is dropped


def drop(built: Path, *, in_a_cycle: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Search an index, and lose it."""
    index = teravec.open(built / "words")
    found = index.search(X[:5], 3, nprobe=16)
    if in_a_cycle:
        holder: list[object] = [index]
        holder.append(holder)
        del holder
    del index
    gc.collect()
    return found


def test_a_dropped_index_leaves_nothing(built: Path) -> None:
    teravec.open(built / "words").close()
    before, threads = descriptors(), readers()
    for _ in range(5):
        with pytest.warns(ResourceWarning, match="words was dropped without close"):
            drop(built)
    assert descriptors() <= before
    for thread in threading.enumerate():
        if thread.name.startswith("teravec-read"):
            thread.join(60)
    assert readers() <= threads


def test_a_closed_index_is_dropped_in_silence(built: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with teravec.open(built / "words"):
            pass
        teravec.open(built / "words").close()
        gc.collect()
    assert not caught


def test_part_of_a_cycle_is_collected(built: Path) -> None:
    before = descriptors()
    with pytest.warns(ResourceWarning):
        drop(built, in_a_cycle=True)
    assert descriptors() <= before


def test_a_result_outlives_its_index(built: Path) -> None:
    with pytest.warns(ResourceWarning):
        distances, ids = drop(built)
    assert (distances[:, 0] < 1).all()
    assert (ids >= 0).all()


def test_an_exit_with_open_indexes_is_clean(built: Path) -> None:
    code = (
        "import sys, numpy as np, teravec\n"
        "kept = [teravec.open(sys.argv[1]) for _ in range(3)]\n"
        "kept[0].search(np.zeros((1, 16), 'f4'), 1, nprobe=4); kept.append(kept)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, str(built / "words")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_dropped_sources_close_their_files(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.feather
    import pyarrow.parquet

    table = pa.table({"v": list(X[:200])})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet", row_group_size=50)
    pyarrow.feather.write_feather(table, tmp_path / "x.arrow")
    np.save(tmp_path / "x.npy", X[:200])
    before = descriptors()
    for name in ("x.parquet", "x.arrow", "x.npy"):
        source = open_source(tmp_path / name)
        source.read(3, 60)
        blocks = source.blocks(0, 200, 10)
        next(blocks)
        del source, blocks
    gc.collect()
    assert descriptors() <= before


# ------------------------------------------------------------------ pickles


def same(one: Index, other: Index) -> bool:
    results = [index.search(X[:20], 5, nprobe=6) for index in (one, other)]
    return all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(
    "again",
    [
        copy.copy,
        copy.deepcopy,
        *(lambda index, p=p: pickle.loads(pickle.dumps(index, p)) for p in (0, 2, 5)),  # noqa: S301
    ],
)
def test_a_pickled_index_is_opened_anew(built: Path, again: Callable[[Index], Index]) -> None:
    with (
        teravec.open(built / "words", memory="64MiB", threads=1, keep_lists=False) as index,
        again(index) as other,
    ):
        assert same(index, other)
        assert other.batch_bytes == index.batch_bytes
        index.close()
        other.search(X[:2], 1, nprobe=2)


def test_options_travel_and_no_data_does(built: Path) -> None:
    with teravec.open(built / "words", lists=(0, 5), direct=False) as index:
        data = pickle.dumps(index)
        with pickle.loads(data) as other:  # noqa: S301
            assert np.array_equal(other.list_sizes, index.list_sizes)
    assert len(data) < 1000


def test_a_closed_index_is_not_pickled(built: Path) -> None:
    index = teravec.open(built / "words")
    index.close()
    with pytest.raises(InvalidArgument, match="was closed; open it again"):
        pickle.dumps(index)


def ask(index: Index, row: int) -> int:
    with index:
        return int(index.search(X[row : row + 1], 1, nprobe=16)[1][0, 0])


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_of_multiprocessing(built: Path, method: str) -> None:
    context = multiprocessing.get_context(method)
    with (
        teravec.open(built / "words", threads=1) as index,
        ProcessPoolExecutor(2, mp_context=context) as pool,
    ):
        expected = [int(index.search(X[i : i + 1], 1, nprobe=16)[1][0, 0]) for i in range(3)]
        assert list(pool.map(ask, [index] * 3, range(3))) == expected


def test_forked_processes(built: Path) -> None:
    """In a process of its own, as tests have threads, and Python warns of forks beside them."""
    code = (
        "import sys, multiprocessing, numpy as np, teravec\n"
        "def ask(index, i):\n"
        "    with index: return int(index.search(x[i:i + 1], 1, nprobe=16)[1][0, 0])\n"
        "x = np.load(sys.argv[2])\n"
        "with teravec.open(sys.argv[1], threads=1) as index:\n"
        "    index.search(x[:1], 1, nprobe=16)\n"
        "    with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "        print(pool.starmap(ask, [(index, i) for i in range(3)]))\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore::DeprecationWarning",
            "-c",
            code,
            str(built / "words"),
            str(built / "x.npy"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.stdout, done.stderr) == ("[0, 1, 2]\n", "")
