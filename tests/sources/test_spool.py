"""Spools: a stream in a sealed file, in the memory of a batch, whole or not there."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from teravec.errors import CorruptFile, InvalidArgument, InvalidSource, OutputExists
from teravec.memory import MIB
from teravec.sources import open_data, open_source, reopen
from tests.stopping import Stopped, StopsAfter

from .writers import random_matrix

N, D = 1000, 6
X = random_matrix(N, D, "f4")
IDS = np.arange(N)[::-1] * 3


def batches(x: np.ndarray = X, rows: int = 64, ids: np.ndarray | None = None) -> Iterator[Any]:
    for start in range(0, len(x), rows):
        part = x[start : start + rows]
        yield part if ids is None else (ids[start : start + rows], part)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "f8", "f2", "i1", "u1", "<i2", ">u2", "i8", "?"])
@pytest.mark.parametrize("ids", [None, IDS])
def test_rows_come_back_as_they_were(dtype: str, ids: np.ndarray | None, tmp_path: Path) -> None:
    x = (X * 9).astype(dtype)
    source = open_data(batches(x, ids=ids), spool_path=tmp_path / "x.spool")
    again = open_source(tmp_path / "x.spool")
    for found in (source, again, reopen(source.opened_by)):
        assert np.array_equal(found.read(0, N), x.astype("f4"))
        assert np.array_equal(found.read(63, 66), x[63:66].astype("f4"))
        assert np.array_equal(found.take(np.array([1, 64, 999])), x[[1, 64, 999]].astype("f4"))
        assert np.array_equal(
            found.read_ids(5, 700), np.arange(5, 700) if ids is None else ids[5:700]
        )
        assert found.has_ids == (ids is not None)
        assert found.describe() == source.describe()
        assert found.is_described_by(open_data(x, ids=ids).describe())


def test_batches_do_not_decide_the_bytes(tmp_path: Path) -> None:
    for name, rows in (("a", 1), ("b", 64), ("c", N)):
        open_data(batches(rows=rows, ids=IDS), spool_path=tmp_path / f"{name}.spool")
    a, b, c = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert a == b == c


def test_ids_given_beside_a_stream(tmp_path: Path) -> None:
    source = open_data(batches(), ids=IDS, spool_path=tmp_path / "x.spool")
    assert np.array_equal(source.read_ids(0, N), IDS)
    for number, count in enumerate((N - 1, N + 1)):
        with pytest.raises(InvalidArgument, match=rf"ids: {count:,} found, 1,000"):
            open_data(batches(), ids=np.arange(count), spool_path=tmp_path / f"{number}.spool")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_whole_spool_is_found_again(tmp_path: Path, caplog: Any) -> None:
    place = tmp_path / "x.spool"
    open_data(batches(ids=IDS), spool_path=place)
    written = place.stat().st_mtime_ns
    taken = []

    def counted() -> Iterator[Any]:
        for batch in batches(ids=IDS):
            taken.append(len(batch[1]))
            yield batch

    with caplog.at_level(logging.WARNING):
        source = open_data(counted(), spool_path=place)
    assert np.array_equal(source.read(0, N), X)
    assert (place.stat().st_mtime_ns, taken) == (written, [64])
    assert "going on with the 1,000 vectors" in caplog.text


@pytest.mark.parametrize(
    "other",
    [
        lambda: batches(X + 1, ids=IDS),
        lambda: batches(X, ids=IDS + 1),
        lambda: batches(X),
        lambda: batches(X[:, :5], ids=IDS),
        lambda: batches(X.astype("f8"), ids=IDS),
        lambda: batches(np.tile(X, (2, 1)), 2 * N, np.arange(2 * N)),
        lambda: iter(()),
    ],
)
def test_a_spool_of_other_vectors_is_refused(other: Any, tmp_path: Path) -> None:
    place = tmp_path / "x.spool"
    open_data(batches(ids=IDS), spool_path=place)
    before = place.read_bytes()
    with pytest.raises(OutputExists, match=r"1,000 x 6 vectors of an earlier run.*; remove it"):
        open_data(other(), spool_path=place)
    assert place.read_bytes() == before


def test_data_in_memory_are_spooled_for_others(tmp_path: Path) -> None:
    place = tmp_path / "x.spool"
    for _ in range(2):
        source = open_data([X[:300], X[300:]], ids=IDS, spool_path=place, shared=True)
        assert not source.is_held
        again = reopen(source.opened_by)
        assert np.array_equal(again.read(0, N), X)
        assert np.array_equal(again.read_ids(0, N), IDS)
    with pytest.raises(OutputExists, match="1,000 x 6 vectors of an earlier run"):
        open_data([X[:300], X[300:] + 1], ids=IDS, spool_path=place, shared=True)
    with pytest.raises(InvalidArgument, match="the engine's workers cannot see"):
        open_data(X, shared=True)


def test_damage_is_found_when_a_spool_is_taken_up_again(tmp_path: Path) -> None:
    place = tmp_path / "x.spool"
    open_data(batches(), spool_path=place)
    whole = place.read_bytes()
    for at, match in ((20, "header has checksum"), (len(whole) // 2, "rows have checksum")):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        place.write_bytes(damaged)
        with pytest.raises(CorruptFile, match=match):
            open_data(batches(), spool_path=place)
    place.write_bytes(whole[:-1])
    with pytest.raises(InvalidSource, match="bytes found, expected"):
        open_data(batches(), spool_path=place)
    place.write_bytes(whole[:10])
    with pytest.raises(InvalidSource, match="too few for a spool"):
        open_source(place)


BAD: dict[str, tuple[Any, str]] = {
    "nothing": (lambda: iter(()), "the stream gave no vectors"),
    "empty batches": (lambda: iter([X[:0]]), "the stream gave no vectors"),
    "nan": (lambda: iter([X, X[:3] * np.float32(np.nan)]), r"batch 1 .*row 0 \(row 1000 of the so"),
    "dimension": (lambda: iter([X, X[:, :5]]), "batch 1 of the stream: dimension 5 found, expec"),
    "type": (lambda: iter([X, X.astype("f8")]), "batch 1 .*float64 found, expected float32 as in"),
    "ids at last": (lambda: iter([X, (IDS, X)]), "batch 1 .*: ids found, none expected"),
    "ids at first": (lambda: iter([(IDS, X), X]), "batch 1 .*: no ids found, ids expected"),
    "negative id": (lambda: iter([(IDS, X), (IDS - 9, X)]), r"batch 1 .*: row 997 has id -\d"),
    "text": (lambda: iter([X, "word"]), "batch 1 of the stream: a path found among arrays"),
    "number": (lambda: iter([X, 5]), "batch 1 of the stream: int found"),
    "names": (lambda: iter([{"a": 1, "b": X}]), "batch 0 .*columns a, b found; name one"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_streams_leave_nothing(kind: str, tmp_path: Path) -> None:
    make, match = BAD[kind]
    with pytest.raises(InvalidArgument, match=match) as caught:
        open_data(make(), spool_path=tmp_path / "x.spool")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_stream_that_fails(tmp_path: Path) -> None:
    def failing(error: Exception) -> Iterator[Any]:
        yield from batches()
        raise error

    place = tmp_path / "x.spool"
    with pytest.raises(InvalidSource, match="failed at batch 16: ConnectionError: gone") as caught:
        open_data(failing(ConnectionError("gone")), spool_path=place)
    assert isinstance(caught.value.__cause__, ConnectionError)
    with pytest.raises(KeyError):  # the caller's own
        open_data(failing(KeyError("mine")), spool_path=place)
    with pytest.raises(InvalidSource, match=r"failed at batch 1: ArrowInvalid: .*bad"):
        open_data(_failing_reader(), spool_path=place)
    with pytest.raises(Stopped):
        open_data(batches(), spool_path=place, progress=StopsAfter(units=500, stage="spool"))
    assert list(tmp_path.iterdir()) == []


def _failing_reader() -> Any:
    table = pa.table({"v": pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), D)})

    def parts() -> Iterator[Any]:
        yield table.to_batches()[0]
        raise pa.ArrowInvalid("bad")

    return pa.RecordBatchReader.from_batches(table.schema, parts())


_SPOOLING = """
import sys, time
import numpy as np
from pathlib import Path
from teravec.sources import open_data
def stream():
    for part in range(100):
        yield np.full((20_000, 16), part, np.float32)
        time.sleep(0.02)
open_data(stream(), spool_path=Path(sys.argv[1]))
"""


def test_killed_while_spooling(tmp_path: Path) -> None:
    place, half = tmp_path / "x.spool", tmp_path / "x.spool.tmp"
    child = subprocess.Popen([sys.executable, "-c", _SPOOLING, place])
    deadline = time.monotonic() + 60
    while not (half.exists() and half.stat().st_size > 4 * MIB) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not place.exists()
    assert half.exists()
    source = open_data(batches(), spool_path=place)
    assert np.array_equal(source.read(0, N), X)
    assert [path.name for path in tmp_path.iterdir()] == ["x.spool"]


_BUILDING = """
import re, sys
import numpy as np
from pathlib import Path
import teravec
N, D, ROWS = 160, 512, 1000
def stream():
    some = np.random.default_rng(0).standard_normal((ROWS, D), np.float32)
    for part in range(N):
        yield some + part / N
teravec.build(stream(), sys.argv[1], nlist=4, niter=2, sample=2000, codec="sq4", memory="120MiB",
              calibrate=False, threads=2)
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def test_a_stream_larger_than_the_limit(tmp_path: Path) -> None:
    """328 MB of vectors are built in 120 MiB, beside the interpreter and its libraries."""
    found = subprocess.run(
        [sys.executable, "-c", _BUILDING, tmp_path / "i"], stdout=subprocess.PIPE, check=True
    )
    assert int(found.stdout) * 1024 < (300 + 120) * MIB
    assert [path.name for path in tmp_path.iterdir()] == ["i"]
