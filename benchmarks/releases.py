"""Another checkout of teravec beside this one: no change may slow what was fast.

    python -m benchmarks.releases OTHER/src FOLDER [--rounds 3] [--shared ../shared/data]

OTHER is a checkout of the code to compare with, its extensions built in place. It builds the
indexes of both kinds of codes in FOLDER, unless they are there; both search the same files. Each
figure is taken in a process of its own, and the two sides take turns.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import teravec
from benchmarks import data, measure
from benchmarks.records import ROOT

CODECS = ("sq8", "rabitq2+sq8")
NLIST, NPROBE, K = 1024, 16, 10
QUERIES, COLD = 300, 200
ROUNDS_EACH = 6

MAKE = "make"


# ---------------------------------------------------------------- one figure, in its own process


def lone(index: Path, queries: data.Floats, _: Path) -> float:
    """Median microseconds of one query at a time, in memory, on one thread."""
    with teravec.open(index, memory="2GiB", threads=1) as opened:
        medians = []
        for _round in range(ROUNDS_EACH):
            seconds = [_time(opened, query[None]) for query in queries[:QUERIES]]
            medians.append(statistics.median(seconds))
    return 1e6 * min(medians)


def batch(index: Path, queries: data.Floats, _: Path) -> float:
    """Median milliseconds of all queries together, in memory."""
    with teravec.open(index, memory="2GiB") as opened:
        opened.search(queries, K, nprobe=NPROBE)
        return 1e3 * statistics.median(_time(opened, queries) for _round in range(ROUNDS_EACH))


def cold(index: Path, queries: data.Floats, _: Path) -> float:
    """Median microseconds of one query whose lists are in no cache."""
    files, seconds = [path for path in index.rglob("*.*") if path.is_file()], []
    with teravec.open(index, memory="512MiB", keep_lists=False) as opened:
        opened.search(queries[:1], K, nprobe=NPROBE)
        for query in queries[:COLD]:
            measure.drop_page_cache(files, measure.DropMethod.FADVISE)
            seconds.append(_time(opened, query[None]))
    return 1e6 * statistics.median(seconds)


def build(index: Path, _: data.Floats, source: Path) -> float:
    """Processor seconds of a build without calibration."""
    out = Path(tempfile.mkdtemp(dir=index.parent)) / "index"
    before = resource.getrusage(resource.RUSAGE_SELF)
    teravec.build(source, out, nlist=NLIST, codec=index.name, calibrate=False)
    after = resource.getrusage(resource.RUSAGE_SELF)
    shutil.rmtree(out.parent)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


FIGURES: dict[str, Callable[[Path, data.Floats, Path], float]] = {
    "lone warm query, us": lone,
    "warm batch, ms": batch,
    "cold query, us": cold,
    "build, CPU s": build,
}


def _time(index: teravec.Index, queries: data.Floats) -> float:
    started = time.perf_counter()
    index.search(queries, K, nprobe=NPROBE)
    return time.perf_counter() - started


# ---------------------------------------------------------------- both sides, in turn


def _run(side: Path, *arguments: object) -> float:
    """Take one figure with one side's teravec, and this checkout's benchmarks."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.releases", "--child", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(side), str(ROOT)])},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def compare(sides: dict[str, Path], folder: Path, shared: Path, rounds: int) -> str:
    """Measure all figures; return the table."""
    rows = []
    for codec in CODECS:
        if not (folder / codec).exists():
            _run(sides["other"], MAKE, folder / codec, shared)
        for name in FIGURES:
            found: dict[str, list[float]] = {side: [] for side in sides}
            for number in range(rounds):
                for side in list(sides)[:: 1 if number % 2 == 0 else -1]:
                    found[side].append(_run(sides[side], name, folder / codec, shared))
            other, this = (statistics.median(found[side]) for side in ("other", "this"))
            rows.append([codec, name, f"{other:,.2f}", f"{this:,.2f}", f"{this / other:.2f}"])
    return measure.table(["codec", "what", "other", "this", "this over other"], rows)


def child(name: str, index: Path, shared: Path) -> float:
    """Build an index, or take one figure of it, with the teravec that this process imports."""
    vectors = data.sift_photos(shared)
    if name == MAKE:
        teravec.build(vectors.base, index, nlist=NLIST, codec=index.name)
        return 0.0
    return FIGURES[name](index, vectors.queries(), vectors.base)


def main() -> None:
    """Compare two checkouts, and write the section."""
    if sys.argv[1:2] == ["--child"]:
        name, index, shared = sys.argv[2:]
        print(child(name, Path(index), Path(shared)))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="src of the other checkout")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    sides = {"other": given.other.resolve(), "this": ROOT / "src"}
    commit = subprocess.run(
        ["git", "-C", str(given.other), "rev-parse", "--short", "HEAD"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.strip()
    table = compare(sides, given.folder.resolve(), given.shared.resolve(), given.rounds)
    section = (
        f"### Beside an earlier commit: {commit}\n\nsift-photos, 301,217 x 128, nlist {NLIST:,}, k "
        f"{K}, nprobe {NPROBE}; the same index files, built by that commit. Every figure in "
        f"a process of its own, the two in turn, medians of {given.rounds} rounds. A lone query is "
        "on one thread; a cold one finds its lists in no cache; a build is without calibration.\n\n"
        + table
    )
    print(section)
    measure.write_section("releases", section)


if __name__ == "__main__":
    main()
