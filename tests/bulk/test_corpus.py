"""Searching for a whole source: the same answers as in one call, whatever the batches were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import teravec
from teravec.bulk.corpus import CorpusSummary, answers, search_corpus
from teravec.bulk.formats.found import FoundArrays
from teravec.bulk.questions import Question, TopK, Within
from teravec.bulk.results import read_neighbors, write_found, write_neighbors
from teravec.errors import (
    CorruptFile,
    InvalidArgument,
    MemoryLimitTooSmall,
    OutputExists,
    StorageError,
)
from teravec.progress import NoProgress
from teravec.search.effort import Effort
from teravec.search.index import Index
from teravec.search.steps import SearchSteps
from teravec.serving.deploy.launch import ServeOptions, launch
from teravec.serving.wire.client import RemoteIndex
from teravec.serving.wire.limits import Limits
from teravec.sources import Source, open_source
from tests.conftest import clustered, write_fbin
from tests.faults.conftest import tree
from tests.stopping import Stopped, StopsAfter

N, D, NLIST = 3000, 12, 20
EFFORT = Effort(7)
RADIUS = 8.0


@dataclass(frozen=True)
class Corpus:
    """An index, its vectors, and queries in two files."""

    root: Path
    base: Path
    queries: Path
    vectors: np.ndarray
    served: bool = False

    @property
    def source(self) -> Source:
        return open_source(self.queries)


@contextmanager
def opened(root: Path, served: bool) -> Iterator[Index | RemoteIndex]:
    """An index opened here, or served on loopback by requests of at most 37 queries."""
    if not served:
        with teravec.open(root) as index:
            yield index
        return
    server = launch(ServeOptions(root, limits=Limits(queries=37), http=None))
    try:
        with teravec.connect(str(server.address)) as remote:
            yield remote
    finally:
        server.close()


@pytest.fixture(params=[False, True], ids=["local", "served"])
def served(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def corpus(local: Corpus, served: bool) -> Corpus:
    return replace(local, served=served)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    root = tmp_path_factory.mktemp("corpus")
    vectors = clustered(N + 500, D)
    base, vectors = write_fbin(root / "x.fbin", vectors[:N]), vectors[N:]
    (root / "queries").mkdir()
    np.save(root / "queries" / "a.npy", vectors[:123])
    write_fbin(root / "queries" / "b.fbin", vectors[123:])
    teravec.build(base, root / "i", nlist=NLIST, codec="flat", niter=3)
    return Corpus(root / "i", base, root / "queries", vectors)


def run(
    corpus: Corpus,
    question: Question,
    out: Path,
    *,
    batch_bytes: int | None = None,
    stop_after: int | None = None,
    source: Source | None = None,
    root: Path | None = None,
) -> CorpusSummary:
    """Search for the corpus's queries, in batches of about so many bytes."""
    progress = NoProgress() if stop_after is None else StopsAfter(units=stop_after)
    with opened(root or corpus.root, corpus.served) as index:
        index.batch_bytes = batch_bytes or index.batch_bytes
        return search_corpus(index, source or corpus.source, question, out, progress)


def whole(corpus: Corpus, question: Question, out: Path) -> bytes:
    """What the results are when one call of the index finds them, written from memory."""
    with teravec.open(corpus.root) as index:
        if isinstance(question, TopK):
            write_neighbors(out, *index.search(corpus.vectors, question.k, EFFORT.nprobe))
        else:
            assert isinstance(question, Within)
            found = index.range_search(corpus.vectors, RADIUS, EFFORT.nprobe)
            write_found(out, FoundArrays(*found))
    data = out.read_bytes()
    out.unlink()
    return data


CASES = [
    *(
        (TopK(5, EFFORT), extension)
        for extension in (".ibin", ".bin", ".ivecs", ".npy", ".npz", ".parquet")
    ),
    *((Within(RADIUS, EFFORT), extension) for extension in (".npz", ".parquet")),
]


@pytest.mark.parametrize(("question", "extension"), CASES)
def test_bytes_do_not_depend_on_batches_or_interruptions(
    question: Question, extension: str, corpus: Corpus, tmp_path: Path
) -> None:
    out = tmp_path / f"r{extension}"
    expected = whole(corpus, question, out)
    assert run(corpus, question, out).batches == 1
    assert tree(tmp_path) == {out.name: expected}
    out.unlink()
    with pytest.raises(Stopped):
        run(corpus, question, out, batch_bytes=60_000, stop_after=250)
    assert not out.exists()
    assert (tmp_path / f"{out.name}.partial").is_dir()
    # The rest, in batches of another size.
    summary = run(corpus, question, out, batch_bytes=30_000)
    assert 250 <= summary.resumed < 500
    assert summary.batches > (1 if corpus.served else 3)
    assert tree(tmp_path) == {out.name: expected}


@pytest.mark.parametrize("batch_bytes", [2_000, 40_000, 400_000])
def test_range_results_are_bounded(batch_bytes: int, local: Corpus, tmp_path: Path) -> None:
    with teravec.open(local.root) as index:
        lims, distances, ids = index.range_search(local.vectors, RADIUS, EFFORT.nprobe)
        assert len(ids) > 2000
        index.batch_bytes = batch_bytes
        most = batch_bytes // 4 // 64
        question = Within(RADIUS, EFFORT)
        if np.diff(lims).max() > most:
            with pytest.raises(MemoryLimitTooSmall, match=r"query \d+ has"):
                list(answers(index, local.source, question, 0, 500))
            return
        stats = index.stats.queries
        found = list(answers(index, local.source, question, 0, 500))
        assert index.stats.queries - stats == 500
    assert all(part.total <= most for _, part in found)
    assert (len(found) > 1) == (len(ids) > most)
    assert [start for start, _ in found] == np.cumsum([0, *(p.n for _, p in found[:-1])]).tolist()
    np.testing.assert_array_equal(np.concatenate([p.ids for _, p in found]), ids)
    np.testing.assert_array_equal(np.concatenate([p.distances for _, p in found]), distances)
    counts = np.concatenate([p.counts(0, p.n) for _, p in found])
    np.testing.assert_array_equal(counts, np.diff(lims))


def test_scans_between_seals_are_bounded(local: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    potential = []
    original = SearchSteps.range_search_lists

    def counting(
        steps: SearchSteps, prepared: np.ndarray, list_nos: np.ndarray, *rest: object
    ) -> object:
        sizes = steps.opened.runs.list_sizes
        wanted = np.where(list_nos >= 0, sizes[list_nos], 0)
        potential.append((int(wanted.sum()), len(prepared), int(sizes.max())))
        return original(steps, prepared, list_nos, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(SearchSteps, "range_search_lists", counting)
    with teravec.open(local.root) as index:
        index.batch_bytes = 200_000
        most = 200_000 // 4 // 64
        list(answers(index, local.source, Within(RADIUS, EFFORT), 0, 500))
    assert len(potential) > 10
    assert all(codes <= most or rows == 1 for codes, rows, _ in potential)


@pytest.mark.parametrize("extension", [".ibin", ".parquet"])
def test_neighbours_within_one_set(extension: str, corpus: Corpus, tmp_path: Path) -> None:
    out, base = tmp_path / f"r{extension}", open_source(corpus.base)
    question = TopK(4, Effort(NLIST), exclude_self=True)
    run(corpus, question, out, source=base, batch_bytes=1_000_000)
    vectors = base.read(0, N).astype(np.float64)
    squares = ((vectors[:, None, :] - vectors[None]) ** 2).sum(2)
    np.fill_diagonal(squares, np.inf)
    expected = np.sort(squares, axis=1)[:, :4]
    found = read_neighbors(out)
    mine = np.take_along_axis(squares, found.ids, axis=1)
    np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-4)


def test_self_is_left_out_though_others_are_as_near(tmp_path: Path, served: bool) -> None:
    vectors = np.repeat(clustered(10, 4), 30, axis=0)  # the query may not even be among its k + 1
    np.save(tmp_path / "x.npy", vectors)
    teravec.build(tmp_path / "x.npy", tmp_path / "i", nlist=2, codec="flat", niter=1)
    source = open_source(tmp_path / "x.npy")
    with opened(tmp_path / "i", served) as index:
        search_corpus(
            index, source, TopK(5, Effort(2), exclude_self=True), tmp_path / "r.ibin", NoProgress()
        )
        search_corpus(
            index,
            source,
            Within(1e-3, Effort(2), exclude_self=True),
            tmp_path / "r.parquet",
            NoProgress(),
        )
        for _, found in answers(index, source, TopK(300, Effort(2), exclude_self=True), 0, 300):
            everybody = found.ids.reshape(-1, 300)  # else, and nobody in their own place
            assert (everybody[:, 299] == -1).all()
            assert (everybody[:, :299] >= 0).all()
    ids = read_neighbors(tmp_path / "r.ibin").ids
    assert ids.shape == (300, 5)
    assert not (ids == np.arange(300)[:, None]).any()
    assert (ids // 30 == np.arange(300)[:, None] // 30).all()
    table = pq.read_table(tmp_path / "r.parquet").to_pydict()
    assert len(table["id"]) == 300 * 29
    assert not (np.array(table["id"]) == np.array(table["query"])).any()


def interrupted(corpus: Corpus, out: Path) -> Path:
    """A search that has some of its parts; their directory."""
    with pytest.raises(Stopped):
        run(corpus, TopK(5, EFFORT), out, batch_bytes=60_000, stop_after=250)
    return out.with_name(out.name + ".partial")


def test_parts_of_another_search_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "r.npz"
    interrupted(corpus, out)
    before = tree(tmp_path)
    np.save(tmp_path / "q.npy", corpus.vectors[:499])
    teravec.build(corpus.base, tmp_path / "j", nlist=NLIST, codec="flat", niter=2)
    refused: list[tuple[str, Callable[[], object]]] = [
        ("question", lambda: run(corpus, TopK(6, EFFORT), out)),
        ("question", lambda: run(corpus, TopK(5, Effort(8)), out)),
        ("question", lambda: run(corpus, TopK(6, EFFORT), out)),
        ("question", lambda: run(corpus, Within(RADIUS, EFFORT), out)),
        (
            "queries",
            lambda: run(corpus, TopK(5, EFFORT), out, source=open_source(tmp_path / "q.npy")),
        ),
        ("index", lambda: run(corpus, TopK(5, EFFORT), out, root=tmp_path / "j")),
    ]
    for what, search in refused:
        with pytest.raises(OutputExists, match=rf"r\.npz\.partial: .*: {what} differ"):
            search()
    assert {name: data for name, data in tree(tmp_path).items() if name in before} == before


def test_something_else_in_its_place_is_left_alone(local: Corpus, tmp_path: Path) -> None:
    out, partial = tmp_path / "r.npz", tmp_path / "r.npz.partial"
    for is_file in (True, False):
        if is_file:
            partial.write_bytes(b"mine")
        else:
            partial.unlink()
            partial.mkdir()
            (partial / "mine").write_bytes(b"mine")
        before = tree(tmp_path)
        with pytest.raises(OutputExists, match="something else found"):
            run(local, TopK(5, EFFORT), out)
        assert tree(tmp_path) == before


def test_an_old_result_is_replaced_only_by_a_whole_one(local: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "r.npz"
    out.write_bytes(b"old")
    interrupted(local, out)
    assert out.read_bytes() == b"old"
    run(local, TopK(5, EFFORT), out)
    assert read_neighbors(out).ids.shape == (500, 5)


@pytest.mark.parametrize("kind", [".json", ".ids.npy", ".distances.npy", "search.json"])
def test_damaged_parts_are_named(kind: str, local: Corpus, tmp_path: Path) -> None:
    partial = interrupted(local, tmp_path / "r.npz")
    path = next(path for path in sorted(partial.iterdir()) if path.name.endswith(kind))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptFile, match=path.name):
        run(local, TopK(5, EFFORT), tmp_path / "r.npz")


def test_overlapping_parts_of_two_processes(local: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "r.npz"
    expected = whole(local, TopK(5, EFFORT), out)
    partial = interrupted(local, out)
    # The same search with batches of another size begins anew elsewhere, and its parts come here.
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(Stopped):
        run(local, TopK(5, EFFORT), other / "r.npz", batch_bytes=90_000, stop_after=400)
    for path in (other / "r.npz.partial").iterdir():
        path.rename(partial / path.name)
    run(local, TopK(5, EFFORT), out)
    assert out.read_bytes() == expected
    assert not partial.exists()


def test_wide_ids_are_found_at_the_first_batch(tmp_path: Path, served: bool) -> None:
    import pyarrow as pa

    vectors = clustered(400, 4)
    ids = pa.array(np.arange(400) + (1 << 40), pa.int64())
    rows = pa.array(list(vectors), pa.list_(pa.float32(), 4))
    pq.write_table(pa.table({"id": ids, "v": rows}), tmp_path / "x.parquet")
    teravec.build(
        tmp_path / "x.parquet", tmp_path / "i", nlist=2, codec="flat", niter=1, id_column="id"
    )
    with opened(tmp_path / "i", served) as index:
        index.batch_bytes = 20_000
        source = open_source(tmp_path / "x.parquet", id_column="id")
        with pytest.raises(InvalidArgument, match="64 bits"):
            search_corpus(index, source, TopK(2, Effort(2)), tmp_path / "r.ibin", NoProgress())
        search_corpus(
            index, source, TopK(2, Effort(2), exclude_self=True), tmp_path / "r.npz", NoProgress()
        )
    found = read_neighbors(tmp_path / "r.npz").ids
    assert found.min() >= 1 << 40
    assert not (found == (np.arange(400) + (1 << 40))[:, None]).any()
    assert not (tmp_path / "r.ibin.partial").exists()


def test_what_does_not_fit_is_said(corpus: Corpus, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", clustered(3, D + 1))
    with pytest.raises(InvalidArgument, match=rf"\(3, {D + 1}\) found, \(nq, {D}\) expected"):
        run(corpus, TopK(5, EFFORT), tmp_path / "r.npz", source=open_source(tmp_path / "q.npy"))
    with pytest.raises(InvalidArgument, match="radius is nan"):
        run(corpus, Within(np.nan, EFFORT), tmp_path / "r.npz")
    with pytest.raises(InvalidArgument, match="range search results"):
        run(corpus, Within(1.0, EFFORT), tmp_path / "r.npy")
    with pytest.raises(StorageError, match="no directory"):
        run(corpus, TopK(5, EFFORT), tmp_path / "none" / "r.npz")
    assert sorted(tree(tmp_path)) == ["q.npy"]
