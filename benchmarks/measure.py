"""Measuring: interleaved timings, cold caches, bytes from the device, peak memory, a results file.

A machine's speed drifts, most of all a shared one, so two programs are compared by running them
in turn, several times, and by their medians.
"""

import ctypes
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_info  # type: ignore[import-untyped, unused-ignore]

from benchmarks import records, render
from benchmarks.records import ROOT

DROP_CACHES = Path("/proc/sys/vm/drop_caches")
COPY_BLOCK = 8 << 20

T = TypeVar("T")


@dataclass(frozen=True)
class Timings:
    """Seconds of each name's runs, in the order that they ran."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Return the median seconds of one name."""
        return statistics.median(self.seconds[name])

    def ratio(self, slow: str, fast: str) -> float:
        """Return how many times longer ``slow`` took than ``fast``, by medians."""
        return self.median(slow) / self.median(fast)

    def spread(self, name: str) -> float:
        """Return (longest - shortest) / median of one name's runs."""
        runs = self.seconds[name]
        return (max(runs) - min(runs)) / self.median(name)


def interleave(
    tasks: Mapping[str, Callable[[], float | None]],
    runs: int = 3,
    before: Callable[[], object] | None = None,
) -> Timings:
    """Run every task once per round, for ``runs`` rounds, and time each.

    Every second round goes backwards, so that a steady drift falls on all alike.

    Parameters
    ----------
    tasks : mapping of name to callable
        One that returns a float has timed itself (a child process does, to leave out its start)
        and that number of seconds is kept; the wall time of others is.
    before : callable, optional
        Called before each task, untimed: to drop caches or remove an output.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for round_no in range(runs):
        names = list(tasks) if round_no % 2 == 0 else list(tasks)[::-1]
        for name in names:
            if before is not None:
                before()
            seconds[name].append(_timed(tasks[name]))
    return Timings(seconds)


def _timed(task: Callable[[], float | None]) -> float:
    start = time.perf_counter()
    own = task()
    wall = time.perf_counter() - start
    return wall if own is None else own


class DropMethod(StrEnum):
    """How the page cache is dropped."""

    AUTO = "auto"  # drop_caches where the kernel allows it, else fadvise
    DROP_CACHES = "drop_caches"  # the whole machine's cache
    FADVISE = "fadvise"  # only the named files'


@dataclass(frozen=True)
class CacheDrop:
    """What was done to the page cache, and what stayed in it of the named files."""

    method: DropMethod
    resident_bytes: int


def drop_page_cache(paths: Iterable[Path], method: DropMethod = DropMethod.AUTO) -> CacheDrop:
    """Write the files back, then drop them from the page cache, and look whether they left it.

    Neither method drops pages that some process has mapped: unmap them first.
    """
    files = list(paths)
    for path in files:
        _advise_dontneed(path)
    used = DropMethod.FADVISE
    if method is not DropMethod.FADVISE and os.access(DROP_CACHES, os.W_OK):
        try:
            os.sync()
            DROP_CACHES.write_text("3")
            used = DropMethod.DROP_CACHES
        except OSError:  # listed as writable, yet refused: a container
            pass
    if method is DropMethod.DROP_CACHES and used is not method:
        raise PermissionError(f"{DROP_CACHES}: not writable here; use fadvise")
    return CacheDrop(used, resident_bytes(files))


def _advise_dontneed(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # dirty pages would stay
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def resident_bytes(paths: Iterable[Path]) -> int:
    """Return how many bytes of these files the page cache holds (``mincore``)."""
    libc = ctypes.CDLL(None, use_errno=True)
    pages = 0
    for path in paths:
        size = path.stat().st_size
        if size == 0:
            continue
        mapped = np.memmap(path, dtype=np.uint8, mode="r")
        seen = np.zeros(-(-size // os.sysconf("SC_PAGESIZE")), dtype=np.uint8)
        address, length = ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(size)
        if libc.mincore(address, length, ctypes.c_void_p(seen.ctypes.data)) != 0:
            raise OSError(ctypes.get_errno(), "mincore failed", str(path))
        pages += int((seen & 1).sum())
    return pages * os.sysconf("SC_PAGESIZE")


def device_read_bytes() -> int:
    """Return the bytes that all threads of this process made the block device read so far.

    Page faults, their read-ahead and direct reads count; reads from the page cache do not.
    """
    found = re.search(r"^read_bytes: (\d+)$", Path("/proc/self/io").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError("/proc/self/io: no read_bytes line")
    return int(found[1])


def machine_read_bytes() -> int:
    """Return the bytes that the whole machine paged in so far: a check on the former."""
    found = re.search(r"^pgpgin (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError("/proc/vmstat: no pgpgin line")
    return int(found[1]) * 1024


def read_ahead_bytes(path: Path) -> int | None:
    """Return the read-ahead of the device under a path, or None where Linux does not say.

    What a page fault on a mapped file pulls in depends on it, so a cold result needs it stated.
    """
    device = path.stat().st_dev
    setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    return int(setting.read_text()) * 1024 if setting.exists() else None


@dataclass(frozen=True)
class ColdRun:
    """Queries that each met an empty page cache.

    ``seconds`` and ``bytes_read`` (from the device, by this process) hold one value a query;
    ``still_resident_bytes`` is the most of the files that was cached when a query began.
    """

    seconds: list[float]
    bytes_read: list[int]
    method: DropMethod
    still_resident_bytes: int

    @property
    def median_s(self) -> float:
        """Median latency in seconds."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class KeptOpen:
    """An open index for `cold_queries` that is not reopened: it maps no file, and has no cache."""

    index: Any

    def search(self, *arguments: Any) -> Any:
        """Search it."""
        return self.index.search(*arguments)


def cold_queries(
    open_index: Callable[[], T],
    search: Callable[[T, NDArray[np.float32]], object],
    files: Sequence[Path],
    queries: NDArray[np.float32],
    method: DropMethod = DropMethod.AUTO,
) -> ColdRun:
    """Time single queries, the index closed, its files dropped and the index reopened before each.

    Opening is not timed, and what it reads is not counted. An index with a ``close`` method is
    closed by it, any other by its last reference.

    Parameters
    ----------
    files : sequence of Path
        What holds the lists: dropped, and looked at again just before each query.
    queries : ndarray of shape (nq, d)
        Handed to ``search`` as (1, d) each.
    """
    _close_after(open_index(), lambda index: search(index, queries[:1]))  # code, threads
    seconds: list[float] = []
    read: list[int] = []
    resident = 0
    used = method

    def ask(index: T, query: NDArray[np.float32]) -> None:
        nonlocal resident
        resident = max(resident, resident_bytes(files))
        bytes_before, start = device_read_bytes(), time.perf_counter()
        search(index, query)
        seconds.append(time.perf_counter() - start)
        read.append(device_read_bytes() - bytes_before)

    for row in range(len(queries)):
        used = drop_page_cache(files, method).method
        _close_after(open_index(), partial(ask, query=queries[row : row + 1]))
    return ColdRun(seconds, read, used, resident)


def _close_after(index: T, act: Callable[[T], object]) -> None:
    try:
        act(index)
    finally:
        close = getattr(index, "close", None)
        if close is not None:
            close()


@dataclass(frozen=True)
class ChildRun:
    """A finished command: wall seconds, highest resident memory, what it printed."""

    seconds: float
    peak_rss_bytes: int
    stdout: str
    stderr: str


# Linux counts the memory of the process that forked into a child's ru_maxrss, until exec. So the
# command is started by this small interpreter, and never by a benchmark that holds gigabytes.
_LAUNCHER = """
import json, os, sys, time
start = time.perf_counter()
pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
with open(sys.argv[1], "w") as file:
    code = os.waitstatus_to_exitcode(status)
    json.dump([code, time.perf_counter() - start, usage.ru_maxrss], file)
"""


def run_child(command: Sequence[str], env: Mapping[str, str | None] | None = None) -> ChildRun:
    """Run a command from the repository root to its end, and measure it.

    Parameters
    ----------
    env : mapping, optional
        Variables to set for it alone, or with None to unset.

    Raises
    ------
    RuntimeError
        The command ended with another status than 0; its last messages are in the text.
    """
    variables = {**os.environ, **(env or {})}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "usage.json"
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(report), *command],
            env={name: value for name, value in variables.items() if value is not None},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]}: could not be started: {done.stderr[-2000:]}")
        code, seconds, peak_kib = json.loads(report.read_text())
    if code != 0:
        raise RuntimeError(f"{' '.join(command)}: status {code}: {done.stderr[-2000:]}")
    return ChildRun(seconds, peak_kib * 1024, done.stdout, done.stderr)


def copy_files(paths: Iterable[Path], out: Path) -> float:
    """Copy the files' bytes into one, synced, in 8 MiB blocks; return seconds.

    What a merge's rate is held against: the same bytes, on the same disk.
    """
    start = time.perf_counter()
    buffer = memoryview(bytearray(COPY_BLOCK))
    with out.open("wb", buffering=0) as target:
        for path in paths:
            with path.open("rb", buffering=0) as source:
                while count := source.readinto(buffer):
                    target.write(buffer[:count])
        os.fsync(target.fileno())
    return time.perf_counter() - start


@dataclass(frozen=True)
class Machine:
    """What the numbers were taken on."""

    cpu: str
    cores: int
    memory_bytes: int
    system: str
    versions: dict[str, str]
    blas: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        memory = f"{self.memory_bytes / 2**30:.1f} GiB"
        return ", ".join(
            [f"{self.cpu}, {self.cores} cores, {memory}, {self.system}", versions, *self.blas]
        )


def machine() -> Machine:
    """Describe this machine, its libraries, and the BLAS kernels that each chose."""
    return Machine(
        cpu=_cpu_field("model name") or platform.processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        system=f"{platform.system()} {platform.release()}",
        versions={
            "python": platform.python_version(),
            "numpy": np.__version__,
            "faiss": f"{faiss.__version__} ({faiss.get_compile_options().strip()})",
        },
        blas=blas_kernels(),
    )


def blas_kernels() -> list[str]:
    """Return one line per BLAS loaded in this process: whose, version, kernels, threads."""
    return [
        f"BLAS of {Path(pool['filepath']).parent.name}: {pool['internal_api']} "
        f"{pool['version']}, {pool.get('architecture', 'unknown')} kernels, "
        f"{pool['num_threads']} threads"
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    ]


def right_coretype() -> str:
    """Return the ``OPENBLAS_CORETYPE`` that cures the OpenBLAS 0.3.15 of the Faiss wheel here."""
    flags = set(_cpu_field("flags").split())
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        return "SkylakeX"
    if "avx2" not in flags:
        return "Nehalem"
    return "Zen" if _cpu_field("vendor_id") == "AuthenticAMD" else "Haswell"


def _cpu_field(name: str) -> str:
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(rf"^{re.escape(name)}\s*: (.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write_section(name: str, body: str) -> None:
    """Keep a section that was just measured as a record, and render the pages anew.

    Parameters
    ----------
    name : str
        Unique among all sections; an older record of this name is replaced.
    body : str
        Markdown: a heading, paragraphs, tables.
    """
    records.measured_now(name, body, str(machine())).save()
    render.main()
