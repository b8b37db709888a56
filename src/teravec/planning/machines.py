"""Named machines whose speeds are shipped, so that a prediction needs no measuring.

Each constant names its source, and what was not measured says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from teravec.errors import InvalidArgument, StorageError, shown
from teravec.planning.constants import Constants, default_path, read_constants
from teravec.processors import default_threads

__all__ = ["DEFAULT_MACHINE", "MACHINES", "THIS", "Machine", "find_machine", "machine_of"]

THIS = "this"
DEFAULT_MACHINE = "epyc"

_GIB = 1 << 30
_CPU = (
    "processor seconds, measured as plan --calibrate does on a virtual machine of 2 AMD EPYC "
    "(Zen 4) processors with AVX-512, 2026-11-27"
)
_OLDER = "docs/scale.md at commit 9138373: plan --calibrate on 2 Intel Xeon processors with AVX-512"
_DISK = (
    "benchmarks/results/vs_disk.md: 1.5 to 2.0 GB/s, the best rate of the device of that machine"
)


@dataclass(frozen=True)
class Machine:
    """One kind of machine.

    Parameters
    ----------
    name : str
    about : str
        One line.
    constants : Constants
    threads, memory_bytes : int
        Used if the user says nothing else.
    sources : dict of str to str
        Where each constant comes from; ``""`` is that of all others.
    """

    name: str
    about: str
    constants: Constants
    threads: int
    memory_bytes: int
    sources: dict[str, str]

    def source_of(self, constant: str) -> str:
        """Return where a constant comes from."""
        return self.sources.get(constant, self.sources[""])


_EPYC = Constants(
    flops=9.8e10,
    grouped_scale=12.7,
    grouped_exponent=0.6,
    iteration_share=0.71,
    sum_dims=2.8e9,
    encode_scalar=4.5e8,
    encode_pq=4.5e9,
    encode_rabitq=8.0e6,
    scan_dims=9.7e9,
    scan_wide=7.2e9,
    scan_narrow=9.1e9,
    scan_tables=9.2e8,
    scan_rabitq=1.8e8,
    scan_sketch=1.16e10,
    encode_sketch=6.4e7,
    truth_flops=3.9e10,
    graph_dims=1.36e7,
    move_bytes=6.8e8,
    read_bytes=1.8e9,
    write_bytes=4.1e8,
    read_latency_s=1e-4,
    network_bytes=2.4e9,
    sync_s=1e-2,
)
_GROWTH = (
    "benchmarks/results/assignment.md: comparisons counted with 4,096 to 262,144 lists of "
    "synthetic vectors"
)
_EPYC_SOURCES = {
    "": _CPU,
    "grouped_scale": _GROWTH,
    "grouped_exponent": _GROWTH,
    "read_bytes": _DISK,
    "write_bytes": _OLDER,
    "read_latency_s": _OLDER,
    "network_bytes": f"{_OLDER}; loopback, an upper bound",
    "sync_s": _OLDER,
}
_SHARED = "stated, not measured: a disk over a network of 10 Gbit/s, half of it used"

MACHINES = {
    machine.name: machine
    for machine in (
        Machine(
            "epyc",
            "2 threads of AMD EPYC with AVX-512, 24 GiB, a local disk that reads 1.8 GB/s",
            _EPYC,
            2,
            24 * _GIB,
            _EPYC_SOURCES,
        ),
        Machine(
            "epyc-16",
            "16 such threads and 64 GiB, with the same disk",
            _EPYC,
            16,
            64 * _GIB,
            {**_EPYC_SOURCES, "": f"{_CPU}; 16 threads are taken to be 8 times as fast as 2"},
        ),
        Machine(
            "epyc-16-network",
            "16 such threads and 64 GiB, with a disk over a network",
            replace(
                _EPYC, read_bytes=6.2e8, write_bytes=3.1e8, read_latency_s=1e-3, network_bytes=6.2e8
            ),
            16,
            64 * _GIB,
            {
                **_EPYC_SOURCES,
                **dict.fromkeys(
                    ("read_bytes", "write_bytes", "read_latency_s", "network_bytes"), _SHARED
                ),
            },
        ),
    )
}


def find_machine(name: str | None = None) -> Machine:
    """Return a machine by its name; without one this machine if it was measured, else the default.

    Raises
    ------
    InvalidArgument
        No machine has this name, or this one was not measured.
    CorruptFile, ForeignFile
        The file of this machine's measurements.
    """
    if name is None:
        try:
            return _this() if default_path().exists() else MACHINES[DEFAULT_MACHINE]
        except (InvalidArgument, StorageError):  # a user without a home has no measurements
            return MACHINES[DEFAULT_MACHINE]
    if name == THIS:
        if not default_path().exists():
            raise InvalidArgument("this machine was not measured: run teravec plan --calibrate")
        return _this()
    if name not in MACHINES:
        raise InvalidArgument(
            f"machine is {shown(name)}; one of {', '.join((THIS, *MACHINES))} expected"
        )
    return MACHINES[name]


def machine_of(constants: Constants, where: Any) -> Machine:
    """Return the machine that a file of constants describes, as large as this one."""
    return Machine(
        THIS, f"measured, {where}", constants, default_threads(), 4 * _GIB, {"": str(where)}
    )


def _this() -> Machine:
    path = default_path()
    return machine_of(read_constants(path), path)
