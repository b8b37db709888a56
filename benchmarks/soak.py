"""Servers under faults and floods: no wrong answer, none lost, memory within the printed bound.

``python -m benchmarks.soak`` runs two parts, each ``--minutes`` long, and writes their records to
benchmarks/results. It fails where something was not as it must be.

``faults``: clients compare every answer with the local index while processes of a cluster are
killed, hung, restarted, damaged and reloaded at random; see ``benchmarks.soak_faults``.
``floods``: strangers and callers send whatever takes memory, time or connections, while probes and
small searches go on; see ``benchmarks.soak_floods``.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

import teravec
from benchmarks import data, measure, soak_faults, soak_floods
from benchmarks.data import Floats
from benchmarks.soak_faults import NPROBE, K, Seen, Version

QUERIES = 2000
MOST_TIMES_CALM = 3.0  # p99 under faults, over p99 without
CODECS = ("sq6", "sq8")


def versions_in(folder: Path, shared: Path, queries: Floats) -> list[Version]:
    """Two versions of an index of the real SIFT set, and their answers; built if not there."""
    versions = []
    for codec in CODECS:
        root = folder / f"soak-{codec}"
        base = data.sift_photos(shared).base
        teravec.build(base, root, nlist=2048, codec=codec, slices=6, calibrate=False)
        with teravec.open(root) as local:
            versions.append(Version(root, *local.search(queries, K, NPROBE)))
    return versions


def report_faults(seen: Seen, peaks: dict[str, float], minutes: float) -> tuple[str, list[str]]:
    """The section of the run with faults, and what was not as it must be."""
    errors = list(seen.errors)
    calm, rough = (1e3 * np.quantile(t, [0.5, 0.99, 1.0]) for t in (seen.calm, seen.rough))
    if rough[1] > MOST_TIMES_CALM * calm[1]:
        errors.append(f"p99 {rough[1]:.0f} ms under faults, {calm[1]:.0f} ms without")
    for name, share in peaks.items():
        if share > 1:
            errors.append(f"{name}: {100 * share:.0f} % of its memory bound")
    wrong = sum("wrong:" in error for error in seen.errors)
    failed = sum("failed:" in error for error in seen.errors)
    faults = ", ".join(f"{n} {name}" for name, n in sorted(Counter(seen.done).items()))
    logged = ", ".join(f"{n} {state}" for state, n in sorted(seen.logged.items()))
    table = measure.table(
        ["", "requests of one query", "p50, ms", "p99, ms", "longest, ms"],
        [
            [name, f"{len(times):,}", *(f"{value:.1f}" for value in figures)]
            for name, times, figures in (
                ("calm", seen.calm, calm),
                ("with faults", seen.rough, rough),
            )
        ],
    )
    section = (
        f"### serving: soak with faults\n\n{minutes:g} min, {soak_faults.CLIENTS} clients, "
        f"3 ranges x 2 servers and 2 coordinators on this machine; faults: {faults}. "
        f"{seen.answers:,} answers compared with the local index: {wrong} wrong, {failed} failed. "
        f"The coordinators logged servers as: {logged}. "
        f"p99 {rough[1] / calm[1]:.1f} times that without faults. "
        f"Memory at most {100 * max(peaks.values()):.0f} % of what each process printed.\n\n"
        f"{table}"
    )
    return section, errors


def main() -> None:
    """Run the soak; exit 1 if anything was not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="of each part")
    parser.add_argument("--part", choices=["faults", "floods", "both"], default="both")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--folder", type=Path, help="where the indexes are kept")
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--no-record", action="store_true", help="print only")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", file=sys.stderr)
    queries = data.sift_photos(arguments.shared).queries()[:QUERIES]
    errors: list[str] = []
    with tempfile.TemporaryDirectory(prefix="teravec-soak-") as made:
        versions = versions_in(arguments.folder or Path(made), arguments.shared, queries)
        seconds = 60 * arguments.minutes
        sections = {}
        if arguments.part != "floods":
            seen, peaks = soak_faults.soak(Path(made), versions, queries, seconds, arguments.seed)
            sections["serving soak"], found = report_faults(seen, peaks, arguments.minutes)
            errors += found
        if arguments.part != "faults":
            flooded = soak_floods.soak(Path(made), versions[0], queries, seconds)
            sections["serving soak floods"], found = soak_floods.report(*flooded, arguments.minutes)
            errors += found
    for name, section in sections.items():
        print(section)
        if not arguments.no_record:
            measure.write_section(name, section)
    for error in errors[:40]:
        print(error, file=sys.stderr)
    sys.exit(bool(errors))


if __name__ == "__main__":
    main()
