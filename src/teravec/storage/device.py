"""What a disk can do: rates at several sizes and depths, and how to read lists from it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from teravec.arguments import real_number
from teravec.errors import CorruptFile, InvalidArgument, MissingFile, StorageError, storage_errors
from teravec.progress import Progress
from teravec.storage.device_reads import Method, TimedReads, cached, time_reads
from teravec.storage.files import sync_file
from teravec.storage.jsonfile import read_json, write_json
from teravec.storage.local_store import AnyPath

__all__ = ["BLOCKS", "DEPTHS", "DeviceProfile", "Rate", "measure_device", "measured_gap_bytes"]

BLOCKS = (4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20)
DEPTHS = (1, 2, 4, 8, 16, 32)

_FORMAT, _VERSION = "teravec-device", 1
_SMALLEST = 16 << 20  # the file needs a few blocks of every size for every reader
_SEQUENTIAL = {Method.PREAD: 1, Method.DIRECT: 8, Method.URING: 8}  # reads of 1 MiB in flight
_ROUNDS = 3  # a shared disk's rate drifts: each cell is measured this often, far apart
_ENOUGH = 0.9  # of the best rate
_WITNESSES = 3  # cells that must reach a rate: the best of ninety cells may be luck


@dataclass(frozen=True)
class Rate:
    """Reads of one kind.

    Parameters
    ----------
    method : Method
    sequential : bool
        In the file's order; otherwise at random, no block twice.
    block_bytes : int
    depth : int
        Reads in flight.
    reads_per_s : float
    """

    method: Method
    sequential: bool
    block_bytes: int
    depth: int
    reads_per_s: float

    @property
    def bytes_per_s(self) -> float:
        """Bytes a second."""
        return self.block_bytes * self.reads_per_s

    @property
    def latency_s(self) -> float:
        """Mean seconds from a read's start to its end, by Little's law."""
        return self.depth / self.reads_per_s


@dataclass(frozen=True)
class DeviceProfile:
    """The measured rates, and the choices that follow from them.

    Parameters
    ----------
    rates : tuple of Rate
    unavailable : dict of str to str
        Methods that the kernel or the file system lacks, and why.
    cold : bool or None
        Whether the file could be dropped from the page cache; None if unknown. If False, the
        rates are those of memory.
    """

    rates: tuple[Rate, ...]
    unavailable: dict[str, str]
    cold: bool | None

    @property
    def best(self) -> Rate:
        """The highest rate of random reads that three kinds of reads reach."""
        ordered = sorted(self._random(), key=lambda rate: rate.bytes_per_s)
        return ordered[-_WITNESSES]

    @property
    def recommended(self) -> Rate:
        """The simplest method that reaches 90 % of the best rate, with the fewest bytes in flight.

        Bytes in flight cost memory, and delay the scan of the first list.
        """
        enough = [r for r in self._random() if r.bytes_per_s >= _ENOUGH * self.best.bytes_per_s]
        order = list(Method)
        return min(
            enough, key=lambda r: (order.index(r.method), r.block_bytes * r.depth, r.block_bytes)
        )

    def cost_model(self, depth: int | None = None) -> tuple[float, float]:
        """Fit the seconds that a read costs, and those that each of its bytes adds.

        At one depth of the recommended method, `n` reads of `b` bytes take
        `n * (read_s + byte_s * b)`. The fit minimises squared relative errors; neither value is
        negative.

        Parameters
        ----------
        depth : int, optional
            Not given: the recommended one. At depth 1 the first value is the wait of a lone read.
        """
        chosen = self.recommended
        depth = depth or chosen.depth
        mine = [r for r in self._random() if (r.method, r.depth) == (chosen.method, depth)]
        seconds = np.array([1 / r.reads_per_s for r in mine])
        design = np.array([[1.0, r.block_bytes] for r in mine]) / seconds[:, None]
        read_s, byte_s = np.linalg.lstsq(design, np.ones(len(mine)), rcond=None)[0].tolist()
        if read_s < 0 or byte_s < 0:  # then the other one alone is fitted
            column = design[:, int(read_s < 0)]
            alone = float(column.sum() / (column @ column))
            return (0.0, alone) if read_s < 0 else (alone, 0.0)
        return read_s, byte_s

    @property
    def worthwhile_gap_bytes(self) -> int:
        """Largest gap between two ranges for which one read of both and the gap is cheaper."""
        read_s, byte_s = self.cost_model()
        return int(read_s / byte_s) if byte_s else max(BLOCKS)

    def to_dict(self) -> dict[str, Any]:
        """Return names and values, ready for JSON."""
        chosen, (read_s, byte_s) = self.recommended, self.cost_model()
        return {
            "cold": self.cold,
            "unavailable": self.unavailable,
            "recommended": {
                "method": str(chosen.method),
                "block_bytes": chosen.block_bytes,
                "depth": chosen.depth,
                "bytes_per_s": chosen.bytes_per_s,
            },
            "cost": {"read_s": read_s, "byte_s": byte_s, "gap_bytes": self.worthwhile_gap_bytes},
            "rates": [asdict(rate) for rate in self.rates],
        }

    def write(self, path: Path, file_system: dict[str, Any] | None = None) -> None:
        """Keep the profile as sealed JSON, with what is known about the disk's file system."""
        known = {} if file_system is None else {"file_system": file_system}
        write_json(path, {"format": _FORMAT, "version": _VERSION, **known, **self.to_dict()})

    def _random(self) -> list[Rate]:
        return [rate for rate in self.rates if not rate.sequential]


def measured_gap_bytes(path: AnyPath) -> int | None:
    """Read the measured gap between two ranges up to which one read of both is the cheaper.

    Parameters
    ----------
    path : StorePath or Path
        File of a profile.

    Returns
    -------
    int or None
        4 KiB to 1 MiB; None if the file does not exist, or only memory was measured.

    Raises
    ------
    CorruptFile, IncompatibleVersion
        The file holds no profile, or a damaged one.
    """
    try:
        content = read_json(path, _FORMAT, _VERSION)
        if content["cold"] is False:
            return None
        return int(min(max(content["cost"]["gap_bytes"], BLOCKS[0]), BLOCKS[-1]))
    except MissingFile:
        return None
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFile(f"{path}: not a sound measurement of a disk: {error!r}") from error


@dataclass(frozen=True)
class _Cell:
    method: Method
    sequential: bool
    block_bytes: int
    depth: int


def measure_device(
    path: Path, *, seconds: float, scratch_bytes: int, progress: Progress
) -> DeviceProfile:
    """Measure reads of the disk under a path.

    Parameters
    ----------
    path : Path
        A file to read, of 16 MiB or more; or a directory, where a nameless scratch file is
        made, which is gone when the process is.
    seconds : float
        Total time of reading; writing the scratch file is extra.
    scratch_bytes : int
        Size of the scratch file. New bytes may still be in a cache below the kernel's, so a large
        old file gives better numbers.
    progress : Progress

    Raises
    ------
    InvalidArgument
        The file is too small, or ``seconds`` or the size is not positive.
    StorageError
    """
    seconds = real_number(seconds, "seconds", most=1e6, expected="a number up to 1,000,000")
    if seconds <= 0 or scratch_bytes < _SMALLEST:
        raise InvalidArgument(
            f"{seconds} seconds and {scratch_bytes:,} bytes found, "
            f"more than 0 and at least {_SMALLEST:,} expected"
        )
    with storage_errors(path, "measure"), _something_to_read(path, scratch_bytes) as file:
        size = file.stat().st_size
        if size < _SMALLEST:
            raise InvalidArgument(f"{path}: {size:,} bytes found, at least {_SMALLEST:,} expected")
        return _measure(file, size, seconds, progress)


def _measure(file: Path, size: int, seconds: float, progress: Progress) -> DeviceProfile:
    unavailable = _unavailable(file)
    # Methods alternate within each cell, so that a drift affects all of them alike.
    cells = [
        _Cell(method, False, block, depth)
        for block in BLOCKS
        for depth in DEPTHS
        for method in Method
        if method not in unavailable
    ]
    cells += [_Cell(m, True, BLOCKS[-1], d) for m, d in _SEQUENTIAL.items() if m not in unavailable]
    each_s = seconds / (_ROUNDS * len(cells))
    rng, done = np.random.default_rng(), dict[_Cell, list[TimedReads]]()
    with progress.stage("bench-disk", _ROUNDS * len(cells), "tests") as bar:
        for _ in range(_ROUNDS):
            for cell in cells:
                done.setdefault(cell, []).append(_time(file, size, cell, each_s, rng))
                bar.advance(1)
    rates = tuple(
        Rate(
            c.method,
            c.sequential,
            c.block_bytes,
            c.depth,
            sum(t.reads for t in timed) / sum(t.seconds for t in timed),
        )
        for c, timed in done.items()
    )
    left = cached(file)
    return DeviceProfile(rates, unavailable, None if left is None else not left)


def _unavailable(file: Path) -> dict[str, str]:
    found = {}
    for method in (Method.DIRECT, Method.URING):
        try:
            time_reads(file, method, [0], BLOCKS[0], 1, 1.0)
        except StorageError as error:
            found[str(method)] = str(error)
    return found


def _time(
    file: Path, size: int, cell: _Cell, seconds: float, rng: np.random.Generator
) -> TimedReads:
    count = size // cell.block_bytes
    # Reads in order start at a random block, so that caches below the kernel's do not serve them.
    blocks = rng.permutation(count) if not cell.sequential else np.arange(count)
    if cell.sequential:
        blocks = np.roll(blocks, int(rng.integers(count)))
    return time_reads(
        file,
        cell.method,
        (blocks * cell.block_bytes).tolist(),
        cell.block_bytes,
        min(cell.depth, count),
        seconds,
        read_ahead=cell.sequential,
    )


@contextmanager
def _something_to_read(path: Path, scratch_bytes: int) -> Iterator[Path]:
    """Yield the file itself, or a new nameless file in a directory."""
    if not path.is_dir():
        yield path
        return
    free = shutil.disk_usage(path).free
    if scratch_bytes > free:
        raise InvalidArgument(
            f"a scratch file of {scratch_bytes:,} bytes asked for; {free:,} are free in {path}"
        )
    with tempfile.TemporaryFile(dir=path) as scratch:
        rng = np.random.default_rng()
        for start in range(0, scratch_bytes, BLOCKS[-1]):
            scratch.write(rng.bytes(min(BLOCKS[-1], scratch_bytes - start)))
        scratch.flush()
        sync_file(scratch.fileno())
        yield Path(f"/proc/self/fd/{scratch.fileno()}")
