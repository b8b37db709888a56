"""What a container, a limit of the shell, or a sandbox allow: memory and processors."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from teravec.cgroups import memory_limits, processor_quotas
from teravec.errors import InvalidArgument
from teravec.memory import BESIDE_BYTES, MIB, default_memory, granted_memory
from teravec.processors import check_threads, check_workers, default_threads

V2 = "31 24 0:26 {root} {place} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "34 25 0:29 {root} {place} rw shared:7 - cgroup cgroup rw,{controller}\n"


class Machine:
    """A tree of files as the kernel shows them to a process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("/proc/meminfo", "MemTotal: 64000000 kB\nMemAvailable: 60000000 kB\n")

    def write(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def groups(self, membership: str, mounts: str) -> None:
        self.write("/proc/self/cgroup", membership)
        self.write("/proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts)

    @property
    def limits(self) -> list[int]:
        return [limit for limit, _ in memory_limits(self.root)]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def version2(machine: Machine, path: str) -> None:
    machine.groups(f"0::{path}\n", V2.format(root="/", place="/sys/fs/cgroup"))


def test_container_of_version_2(machine: Machine) -> None:
    """A container sees its own group as the root of all."""
    version2(machine, "/")
    machine.write("/sys/fs/cgroup/memory.max", "1073741824\n")
    machine.write("/sys/fs/cgroup/memory.high", "max\n")
    machine.write("/sys/fs/cgroup/cpu.max", "150000 100000\n")
    assert machine.limits == [1 << 30]
    assert default_memory(machine.root) == 512 * MIB
    assert list(processor_quotas(machine.root)) == [1.5]
    assert default_threads(machine.root) == min(2, len(os.sched_getaffinity(0)))


def test_groups_above_limit_as_well(machine: Machine) -> None:
    version2(machine, "/system.slice/job.scope/step")
    machine.write("/sys/fs/cgroup/system.slice/job.scope/step/memory.max", "max\n")
    machine.write("/sys/fs/cgroup/system.slice/job.scope/memory.max", f"{8 << 30}\n")
    machine.write("/sys/fs/cgroup/system.slice/memory.high", f"{2 << 30}\n")
    machine.write("/sys/fs/cgroup/system.slice/job.scope/cpu.max", "50000 100000\n")
    assert sorted(machine.limits) == [2 << 30, 8 << 30]
    assert default_memory(machine.root) == 1 << 30
    assert default_threads(machine.root) == 1


def test_version_1_in_a_container(machine: Machine) -> None:
    """Docker without a namespace of groups: what is mounted is the very group, by its full name."""
    name = "/docker/0123abcd"
    machine.groups(
        f"9:memory:{name}\n3:cpu,cpuacct:{name}\n0::/\n",
        V1.format(root=name, place="/sys/fs/cgroup/memory", controller="memory")
        + V1.format(root=name, place="/sys/fs/cgroup/cpu,cpuacct", controller="cpu,cpuacct"),
    )
    machine.write("/sys/fs/cgroup/memory/memory.limit_in_bytes", f"{700 * MIB}\n")
    machine.write(
        "/sys/fs/cgroup/memory/memory.stat", f"cache 5\nhierarchical_memory_limit {600 * MIB}\n"
    )
    machine.write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "230000\n")
    machine.write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert sorted(machine.limits) == [600 * MIB, 700 * MIB]
    assert default_memory(machine.root) == 300 * MIB
    assert list(processor_quotas(machine.root)) == [2.3]


def test_version_1_without_limits(machine: Machine) -> None:
    machine.groups(
        "9:memory:/a b\n3:cpu:/\n",
        V1.format(root="/", place="/sys/fs/cgroup/my\\040memory", controller="memory")
        + V1.format(root="/", place="/sys/fs/cgroup/cpu", controller="cpu"),
    )
    machine.write("/sys/fs/cgroup/my memory/a b/memory.limit_in_bytes", "9223372036854771712\n")
    machine.write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    machine.write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert machine.limits == []
    assert list(processor_quotas(machine.root)) == []
    machine.write("/sys/fs/cgroup/my memory/memory.limit_in_bytes", f"{1 << 30}\n")
    assert machine.limits == [1 << 30], "a limit that came later is heeded"


def test_both_versions_at_once(machine: Machine) -> None:
    """As systemd's hybrid layout: version 2 is there, and has no controllers."""
    machine.groups(
        "4:memory:/user/me\n0::/user/me\n",
        V2.format(root="/", place="/sys/fs/cgroup/unified")
        + V1.format(root="/", place="/sys/fs/cgroup/memory", controller="memory"),
    )
    machine.write("/sys/fs/cgroup/memory/user/me/memory.limit_in_bytes", f"{3 << 30}\n")
    machine.write("/sys/fs/cgroup/unified/user/me/cgroup.procs", "1\n")
    assert machine.limits == [3 << 30]


@pytest.mark.parametrize("text", ["", "max", "-1", "12 34 56 x", "²", "1e9", "\x00\xff", "0x10"])
def test_garbage_is_no_limit(machine: Machine, text: str) -> None:
    version2(machine, "/x/../y")
    for name in ("memory.max", "memory.high", "cpu.max", "memory.stat"):
        machine.write(f"/sys/fs/cgroup/{name}", text)
    machine.write("/proc/meminfo", text)
    assert machine.limits == []
    assert list(processor_quotas(machine.root)) == []
    assert default_memory(machine.root) > 0
    machine.write("/proc/self/cgroup", text)
    machine.write("/proc/self/mountinfo", text)
    assert machine.limits == []


def test_a_machine_without_proc(tmp_path: Path) -> None:
    assert default_memory(tmp_path) > 0
    assert default_threads(tmp_path) == len(os.sched_getaffinity(0))


def test_what_others_leave_counts(machine: Machine) -> None:
    machine.write("/proc/meminfo", "MemTotal: 64000000 kB\nMemAvailable: 2097152 kB\n")
    assert default_memory(machine.root) == 1 << 30


@pytest.mark.parametrize(("limit", "expected"), [(500 * MIB, 200), (310 * MIB, 16), (0, 16)])
def test_small_containers_keep_room_for_the_interpreter(
    machine: Machine, limit: int, expected: int
) -> None:
    version2(machine, "/")
    machine.write("/sys/fs/cgroup/memory.max", f"{limit}\n")
    assert default_memory(machine.root) == expected * MIB


def test_more_than_the_container_has(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    version2(machine, "/")
    machine.write("/sys/fs/cgroup/memory.max", f"{1 << 30}\n")
    assert granted_memory("600MiB", machine.root) == 600 * MIB
    assert not caplog.records
    assert granted_memory("1001MiB", machine.root) == 1001 * MIB
    assert "memory 1001MiB and 300 MiB for the interpreter are more than the 1,024" in caplog.text
    assert "memory.max" in caplog.text
    granted_memory("1001MiB", machine.root)
    assert len(caplog.records) == 1, "said once"


@pytest.mark.parametrize(
    ("kind", "taken"), [(resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")]
)
def test_limits_of_the_shell(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, kind: int, taken: str
) -> None:
    """What is taken already counts: libraries take gigabytes of addresses."""
    real = resource.getrlimit
    monkeypatch.setattr(resource, "getrlimit", lambda k: (4 << 30, -1) if k == kind else real(k))
    machine.write("/proc/self/status", f"Name:\tpython\n{taken}:\t {3 << 20} kB\n")
    assert default_memory(machine.root) == ((1 << 30) + BESIDE_BYTES) // 2


def test_a_sandbox_that_forbids_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> set[int]:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_getaffinity", refuse)
    assert default_threads(tmp_path) == (os.cpu_count() or 1)


@pytest.mark.parametrize("threads", [0, -1, 4097, 99999999999, 2.5, "2"])
def test_numbers_that_no_machine_has(threads: int) -> None:
    with pytest.raises(InvalidArgument, match="threads is"):
        check_threads(threads)
    check_threads(None)
    check_threads(np.int64(4096))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="workers is 65537; 1 to 65,536 expected"):
        check_workers(65537)


@pytest.fixture
def real_group() -> Iterator[tuple[Path, str, str]]:
    """A group of this machine for a process of 600 MiB; removed afterwards."""
    version1, version2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    base, limit = version2, "memory.max"
    if (version1 / "memory.limit_in_bytes").exists():
        base, limit = version1, "memory.limit_in_bytes"
    group = base / f"teravec-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control groups to make here: {error}")
    try:
        try:
            (group / limit).write_text(str(600 * MIB))
        except OSError as error:
            pytest.skip(f"no limits on memory to set here: {error}")
        yield group, limit, "cgroup.procs"
    finally:
        group.rmdir()


def test_a_real_group(real_group: tuple[Path, str, str]) -> None:
    group, _, members = real_group
    code = (
        f"import os; open({str(group / members)!r}, 'w').write(str(os.getpid()));"
        "from teravec.memory import default_memory; print(default_memory())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(shown.stdout) == 300 * MIB
