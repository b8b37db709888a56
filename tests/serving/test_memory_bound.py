"""The largest requests stay within what ``serve`` prints, and their memory goes back."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import teravec
from teravec.errors import Busy, DeadlineExceeded, LimitExceeded
from teravec.memory import MIB
from teravec.serving.deploy.memory_bound import memory_bound
from teravec.serving.server.pieces import AnswerPieces, row_pieces
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.protocol import Answer
from tests.conftest import clustered
from tests.serving.conftest import NLIST, D, N, Process

MEMORY = ("--memory", "64MiB")
MANY = clustered(900, D, seed=6)  # with all of 6,000 results each, 62 MiB
LIMITS = Limits()


def status(process: Process, field: str) -> int:
    """A size of the process's memory, such as VmHWM, the most that it had."""
    assert process.process is not None
    text = Path(f"/proc/{process.process.pid}/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", text)
    assert found
    return int(found[1]) << 10


def ask_nearest(remote: teravec.RemoteIndex) -> None:
    assert remote.search(MANY, N, NLIST)[1].shape == (len(MANY), N)


def ask_within(remote: teravec.RemoteIndex) -> None:
    assert len(remote.range_search(MANY[:300], 1e9, NLIST)[1]) == 300 * N


@pytest.mark.parametrize("ask", [ask_nearest, ask_within])
@pytest.mark.parametrize("through", ["a server", "a coordinator"])
def test_floods_of_the_largest_requests(
    ask: Callable[[teravec.RemoteIndex], None],
    through: str,
    index: Path,
    spawn: Callable[..., Process],
) -> None:
    server = spawn(str(index), *MEMORY)
    asked = server
    if through == "a coordinator":
        halves = [spawn(str(index), *MEMORY, "--lists", each) for each in ("0:30", "30:60")]
        addresses = ",".join(each.address for each in halves)
        asked = spawn(str(index), *MEMORY, "--servers", addresses)
    before, outcomes = status(asked, "VmRSS"), []

    def client() -> None:
        with teravec.connect(f"grpc://{asked.address}", timeout_s=300) as remote:
            try:
                ask(remote)
                outcomes.append("answered")
            except (Busy, DeadlineExceeded):  # one waits for the other
                outcomes.append("late")

    threads = [threading.Thread(target=client) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "answered" in outcomes
    assert len(outcomes) == len(threads)
    # Of the printed parts, those that these requests may take beside what the server has at rest.
    batches = 4 if through == "a coordinator" else 1
    parts = memory_bound(LIMITS, 64 * MIB, batches=batches, http=False)
    names = ["--memory", "requests and answers (--max-waiting)"]
    if ask is ask_within:
        names.append("an answer within a radius (--max-answer)")
    names.append("pieces of answers being made")
    assert status(asked, "VmHWM") - before < sum(parts[name] for name in names)
    until_s = time.monotonic() + 60
    while status(asked, "VmRSS") - before > 110 * MIB and time.monotonic() < until_s:
        time.sleep(0.1)
    assert status(asked, "VmRSS") - before <= 110 * MIB  # --memory, and some


def answer_of(distances: list[float], ids: list[int], counts: list[int]) -> Answer:
    return Answer(
        "v", np.array(counts, np.uint32), np.array(distances, np.float32), np.array(ids, np.int64)
    )


def test_pieces_are_put_together_in_order() -> None:
    from teravec.kernels.metric import Metric

    with AnswerPieces("v", 100, LIMITS, Deadline.after(5)) as pieces:
        pieces.add(answer_of([1, 2], [7, 8], [2, 0]))
        parts = [answer_of([5, 6], [1, 2], [2]), answer_of([5, 1], [0, 9], [2])]
        pieces.add_of_one(iter(parts), Metric.L2)
        pieces.add(answer_of([3], [4], [1]))
        whole = pieces.answer(0.25)
    assert whole.counts.tolist() == [2, 0, 4, 1]
    assert whole.ids.tolist() == [7, 8, 9, 0, 1, 2, 4]
    assert whole.distances.tolist() == [1, 2, 1, 5, 5, 6, 3]
    assert whole.missing == 0.25


def test_pieces_stop_at_the_bound_of_an_answer() -> None:
    limits = Limits(answer_bytes=36)
    one = answer_of([1], [1], [1])
    with AnswerPieces("v", limits.results, limits, Deadline.after(5)) as pieces:
        for _ in range(3):
            pieces.add(one)
        with pytest.raises(LimitExceeded, match="answer bytes: 48"):
            pieces.add(one)


def test_rows_are_cut_by_weight() -> None:
    weights = np.array([3, 3, 9, 0, 1, 5, 5])
    cut = [(piece.start, piece.stop) for piece in row_pieces(weights, 6)]
    assert cut == [(0, 2), (2, 3), (3, 6), (6, 7)]
    assert list(row_pieces(weights[:0], 6)) == []
