"""Any sequence of changes leaves what a dictionary would hold."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import teravec
from tests.conftest import clustered

D, NLIST = 4, 5
VECTORS = clustered(400, D, seed=1)
QUERIES = clustered(6, D, seed=2)

ids = st.lists(st.integers(0, 60), min_size=1, max_size=12, unique=True)
changes = st.lists(
    st.one_of(
        st.tuples(st.just("add"), ids, st.integers(0, 300)),
        st.tuples(st.just("delete"), ids),
        st.tuples(st.just("rollback"), st.integers(0, 3)),
        st.tuples(st.just("vacuum")),
    ),
    max_size=6,
)

Held = dict[int, np.ndarray]


def check(path: Path, held: Held) -> None:
    """Every row that is held is found, nearest first; no other is."""
    with teravec.open(path) as index:
        distances, found = index.search(QUERIES, 70, nprobe=NLIST)
    names = np.array(sorted(held), np.int64)
    vectors = np.array([held[name] for name in names.tolist()], np.float64).reshape(-1, D)
    squares = ((QUERIES[:, None] - vectors[None]) ** 2).sum(-1)
    for row in range(len(QUERIES)):
        count = int((found[row] >= 0).sum())
        assert sorted(found[row][:count].tolist()) == names.tolist()
        np.testing.assert_allclose(distances[row][:count], np.sort(squares[row]), rtol=1e-4)


@given(changes)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_as_a_dictionary(sequence: list[tuple]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        first = np.arange(0, 60, 2)
        teravec.build(
            VECTORS[: len(first)], path, ids=first, nlist=NLIST, codec="flat", calibrate=False
        )
        states: dict[int, Held] = {0: dict(zip(first.tolist(), VECTORS, strict=False))}
        newest, removed = 0, set[int]()
        for change, *arguments in sequence:
            held = dict(states[newest])
            if change == "add":
                names, start = arguments
                rows = VECTORS[start : start + len(names)]
                manifest = teravec.add(path, rows, ids=names)
                held |= dict(zip(names, rows, strict=True))
            elif change == "delete":
                manifest = teravec.delete(path, arguments[0])
                for name in arguments[0]:
                    held.pop(name, None)
            elif change == "rollback":
                number = newest - arguments[0]
                if number < 0 or number == newest or number in removed:
                    continue
                manifest = teravec.rollback(path, number)
                held = dict(states[number])
            else:
                removed |= set(teravec.vacuum(path, older_than=timedelta(0)).versions)
                continue
            newest += 1
            assert manifest.number == newest
            states[newest] = held
        check(path, states[newest])
        teravec.verify(path)
