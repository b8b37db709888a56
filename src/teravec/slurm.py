"""Writing an sbatch script that starts Ray on a Slurm allocation, runs a command, and cleans up.

The script starts each Ray process as a job step of its own, and at the end stops these steps
only. ``ray stop`` would end every Ray on the host, also another job's.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from teravec.errors import InvalidArgument, StorageError, storage_errors
from teravec.processors import check_workers

__all__ = ["SlurmOptions", "script", "submit"]

COMMANDS = ("build", "train", "shard", "merge", "groundtruth", "selftest", "serve")
_SET_BY_SCRIPT = ("--engine", "--address")

_TEMPLATE = """\
#!/bin/bash
{directives}
# Written by teravec slurm. Submit it again to continue a build that was cut off: sealed files stay.
set -euo pipefail

PYTHON={python}
NODES={nodes}
WAIT_S={wait_s}

# Only processes of this job know the token. srun passes the environment on.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \\n')
export RAY_AUTH_TOKEN
export RAY_USAGE_STATS_ENABLED=0

STEPS=()
COMMAND=
clean_up() {{
    local status=$?
    trap - EXIT TERM INT
    if [ -n "$COMMAND" ] && kill -INT "$COMMAND" 2> /dev/null; then
        wait "$COMMAND" 2> /dev/null || true
    fi
    for step in "${{STEPS[@]}}"; do
        kill -TERM "$step" 2> /dev/null || true
    done
    wait
    exit "$status"
}}
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

# The first node is the head. The port depends on the job number: two jobs may share a node.
mapfile -t HOSTS < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
PORT=$((20000 + SLURM_JOB_ID % 10000))
on_node() {{ srun --overlap --nodes=1 --ntasks=1 --nodelist="$1" --kill-on-bad-exit "${{@:2}}"; }}
HEAD_IP=$(on_node "${{HOSTS[0]}}" hostname -I | tr ' ' '\\n' | head -n 1)
ADDRESS="$HEAD_IP:$PORT"

# Runs in the background, and starts Ray again if it ends: on a busy machine Ray may miss its own
# time limit of half a minute. Each node has a folder of its own; otherwise nodes that start at
# the same time on one host would take each other's sockets.
ray_start() {{
    local host=$1 number=$2 step= attempt
    shift 2
    trap 'kill -TERM $step 2> /dev/null || true; wait; exit 143' TERM
    for attempt in 1 2 3; do
        on_node "$host" "$PYTHON" -m ray.scripts.scripts start --block --disable-usage-stats \\
            --temp-dir="/tmp/ray/$SLURM_JOB_ID-$number" \\
            --num-cpus="$((${{SLURM_CPUS_ON_NODE:-1}}))"{ray_arguments} "$@" > /dev/null &
        step=$!
        if wait "$step"; then
            return
        fi
        echo "teravec: Ray on $host ended, attempt $attempt of 3" >&2
    done
    return 1
}}
ray_start "${{HOSTS[0]}}" 0 --head --node-ip-address="$HEAD_IP" --port="$PORT" \\
    --include-dashboard=false &
STEPS+=($!)

# The head must answer before the other nodes start, and all nodes before the build begins.
wait_for() {{
    "$PYTHON" - "$ADDRESS" "$1" "$WAIT_S" << 'END'
import logging, sys, time

import ray

address, expected, deadline = sys.argv[1], int(sys.argv[2]), time.monotonic() + float(sys.argv[3])
found = 0
while time.monotonic() < deadline:
    try:
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, logging_level=logging.FATAL)
        found = sum(node["Alive"] for node in ray.nodes())
        if found >= expected:
            sys.exit()
    except (ConnectionError, RuntimeError, ValueError, TimeoutError):
        pass
    time.sleep(1)
sys.exit(f"teravec: {{found}} of {{expected}} Ray nodes came within {{sys.argv[3]}} s")
END
}}
wait_for 1
for number in $(seq 1 $((NODES - 1))); do
    ray_start "${{HOSTS[$number]}}" "$number" --address="$ADDRESS" &
    STEPS+=($!)
done
wait_for "$NODES"

# Run in the background: bash then handles a signal at once. Run under job control (set -m):
# otherwise bash makes the command ignore SIGINT, by which a build stops in good order.
set -m
"$PYTHON" -m teravec {command} --engine ray --address "$ADDRESS" &
COMMAND=$!
set +m
STATUS=0
wait "$COMMAND" || STATUS=$?
COMMAND=
exit "$STATUS"
"""


@dataclass(frozen=True)
class SlurmOptions:
    """Options of the allocation.

    Parameters
    ----------
    nodes : int
    time : str
        Time limit in sbatch's notation: minutes, HH:MM:SS, D-HH and so on.
    cpus : int, optional
        Processors of each node. Not given: Slurm's choice.
    memory : str, optional
        Memory of each node, in sbatch's notation.
    partition : str, optional
    store : int, optional
        Bytes of Ray's object store on each node. Not given: Ray's choice.
    more : sequence of str
        Further arguments of sbatch, such as ``--account=x``.
    wait_s : int
        Seconds to wait until Ray answers on all nodes.
    """

    nodes: int
    time: str
    cpus: int | None = None
    memory: str | None = None
    partition: str | None = None
    store: int | None = None
    more: Sequence[str] = ()
    wait_s: int = 300

    def __post_init__(self) -> None:
        check_workers(self.nodes, "nodes")
        check_workers(self.cpus, "cpus")
        if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", self.time):
            raise InvalidArgument(f"time is {self.time!r}; as 90, 12:00:00 or 2-12 expected")
        texts = (self.memory or "", self.partition or "", *self.more)
        if any(not text.isprintable() for text in texts) or not all(
            text.startswith("-") for text in self.more
        ):
            raise InvalidArgument(f"{list(self.more)}: arguments of sbatch as --account=x expected")

    def directives(self) -> str:
        """Return the script's ``#SBATCH`` lines."""
        values = {
            "job-name": "teravec",
            "nodes": self.nodes,
            "ntasks-per-node": 1,
            "time": self.time,
            "cpus-per-task": self.cpus,
            "mem": self.memory,
            "partition": self.partition,
            "output": "teravec-%j.log",
            "open-mode": "append",
            # One minute before the end, signal the script only: it stops the build in good order.
            "signal": "B:TERM@60",
        }
        lines = [f"--{name}={value}" for name, value in values.items() if value is not None]
        return "\n".join(f"#SBATCH {line}" for line in (*lines, *self.more))


def script(options: SlurmOptions, command: Sequence[str]) -> str:
    """Write the text of an sbatch script that runs a teravec command on Ray.

    Parameters
    ----------
    options : SlurmOptions
    command : sequence of str
        The command, such as ``build DATA --out INDEX``. Every node must see its paths and this
        installation of Python.

    Raises
    ------
    InvalidArgument
        The command does not run on an engine, or names an engine itself.
    """
    if not command or command[0] not in COMMANDS:
        raise InvalidArgument(
            f"{' '.join(command) or 'nothing'} to run; one of {', '.join(COMMANDS)} expected "
            "behind --"
        )
    for word in command:
        if word.split("=")[0] in _SET_BY_SCRIPT:
            raise InvalidArgument(f"{word}: the script sets engine and address itself")
    arguments = "" if options.store is None else f" --object-store-memory={options.store}"
    return _TEMPLATE.format(
        directives=options.directives(),
        python=shlex.quote(sys.executable),
        nodes=options.nodes,
        wait_s=options.wait_s,
        ray_arguments=arguments,
        command=shlex.join(command),
    )


def submit(path: Path) -> str:
    """Hand a script to sbatch; return the job's number.

    Raises
    ------
    StorageError
        sbatch is missing, or refuses the script.
    """
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        raise StorageError("sbatch is not on the PATH: submit the script where Slurm is")
    with storage_errors(path, "submit"):
        done = subprocess.run(
            [sbatch, "--parsable", str(path)], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise StorageError(f"sbatch refused {path}: {done.stderr.strip()}")
    return done.stdout.strip().split(";")[0]
