"""Imported indexes answer as Faiss does, and are whole indexes: changed, served and exported."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

import teravec
from teravec.engines.block_sizes import BlockSizes
from teravec.engines.resources import Resources
from teravec.interchange.importing import import_faiss
from teravec.storage.layout import IndexPaths
from tests.interchange.faiss_indexes import NLIST, D, N, assert_same, ivf_of, make, search, vectors

METRICS = {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}
CODES = ("Flat", "SQ8", "SQ6", "SQ4", "SQfp16", "PQ6x4", "RaBitQ", "RaBitQ4")
CHAINS = (
    "RR24,IVF12,SQ6",
    "OPQ6_12,IVF12,PQ6x4",
    "PCA12,IVF12,SQ8",
    "PCAR12,L2norm,IVF12,SQ8",
    "L2norm,IVF12,Flat",
    "L2norm,PCA12,IVF12,SQ8",
    "Pad28,IVF12,Flat",
    "IVF12_HNSW,SQ8",
)


def imported(index: Any, tmp_path: Path, **options: Any) -> Path:
    faiss.write_index(index, str(tmp_path / "x.faissindex"))
    teravec.import_faiss(tmp_path / "x.faissindex", tmp_path / "i", **options)
    return tmp_path / "i"


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("codes", CODES)
def test_codes_answer_as_in_faiss(codes: str, metric: str, tmp_path: Path) -> None:
    index = make(f"IVF{NLIST},{codes}", METRICS[metric])
    path = imported(index, tmp_path, slices=3)
    manifest = teravec.versions(path)[0]
    assert (manifest.ntotal, manifest.metric, len(manifest.segments)) == (N, metric, 3)
    queries = vectors(20, seed=2)
    if codes == "RaBitQ4":  # Faiss skips codes by a bound that holds with high probability only
        with teravec.open(path) as ours:
            _, ids = ours.search(queries, k=10, nprobe=5)
        assert (ids == search(index, queries, 10, 5)[1]).mean() > 0.95
    else:
        assert_same(index, path, queries)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("factory", CHAINS)
def test_transforms_and_quantizers(factory: str, metric: str, tmp_path: Path) -> None:
    index = make(factory, METRICS[metric])
    path = imported(index, tmp_path)
    with teravec.open(path) as ours:
        found = ours.metric
    assert found == ("cosine" if factory.startswith("L2norm") and metric == "ip" else metric)
    assert_same(index, path, vectors(20, seed=2) * 3)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("codes", ["SQ8", "SQ6", "SQ4", "SQfp16", "PQ6x4"])
def test_codes_of_vectors_and_of_residuals(codes: str, metric: str, tmp_path: Path) -> None:
    index = faiss.index_factory(D, f"IVF{NLIST},{codes}", METRICS[metric])
    index.by_residual = False
    index.train(vectors())
    index.add(vectors())
    path = imported(index, tmp_path)
    assert_same(index, path, vectors(20, seed=2))
    teravec.add(path, vectors(5, seed=9) + 8)
    index.add(vectors(5, seed=9) + 8)
    assert_same(index, path, vectors(20, seed=9) + 8)


@pytest.mark.parametrize(
    "kind", ["8bit_uniform", "4bit_uniform", "8bit_direct", "8bit_direct_signed"]
)
def test_other_scalar_quantizers(kind: str, tmp_path: Path) -> None:
    base = np.rint(vectors() * 20 + (0 if kind.endswith("signed") else 100))
    quantizer = faiss.IndexFlatL2(D)
    chosen = getattr(faiss.ScalarQuantizer, f"QT_{kind}")
    index = faiss.IndexIVFScalarQuantizer(quantizer, D, NLIST, chosen, faiss.METRIC_L2, False)
    index.train(base)
    index.add(base)
    path = imported(index, tmp_path)
    assert_same(index, path, base[:20])
    teravec.add(path, base[:5] + 1)
    index.add(base[:5] + 1)
    assert_same(index, path, base[:20])


def test_ids_and_maps_of_ids(tmp_path: Path) -> None:
    ids = np.random.default_rng(3).permutation(10 * N)[:N]
    queries = vectors(20, seed=2)
    for name, factory in (("own", "IVF12,SQ8"), ("map", "IDMap2,IVF12,SQ8")):
        (tmp_path / name).mkdir()
        index = make(factory, faiss.METRIC_L2, ids)
        path = imported(index, tmp_path / name)
        assert_same(index, path, queries)
        with pytest.raises(teravec.InvalidArgument, match="ids"):
            teravec.add(path, queries)
    index = make("IDMap,RR24,IVF12,SQ8", faiss.METRIC_L2, ids)
    assert_same(index, imported(index, tmp_path), queries)


def test_lists_on_disk_beside_the_index(tmp_path: Path) -> None:
    index = make("IVF12,SQ8", faiss.METRIC_L2)
    data = tmp_path / "a.ivfdata"
    lists = faiss.OnDiskInvertedLists(NLIST, index.code_size, str(data))
    half = vectors()[: N // 2]
    index.reset()
    index.replace_invlists(lists, False)
    index.add(half)  # so that lists grow, and lie in any order with room behind them
    index.add(vectors()[N // 2 :])
    faiss.write_index(index, str(tmp_path / "x.faissindex"))
    there = tmp_path / "moved"
    there.mkdir()
    shutil.copy(tmp_path / "x.faissindex", there)
    data.rename(there / "a.ivfdata")
    teravec.import_faiss(there / "x.faissindex", tmp_path / "i")
    shutil.copy(there / "a.ivfdata", data)
    assert_same(index, tmp_path / "i", vectors(20, seed=2))
    (there / "a.ivfdata").write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(teravec.InvalidSource, match=r"a.ivfdata.*bytes found"):
        teravec.import_faiss(there / "x.faissindex", tmp_path / "j")
    (there / "a.ivfdata").unlink()
    data.unlink()
    with pytest.raises(teravec.InvalidSource, match="a file of their own"):
        teravec.import_faiss(there / "x.faissindex", tmp_path / "j")
    assert not (tmp_path / "j").exists()


def distributed(tmp_path: Path) -> tuple[Any, list[Path], list[Path], Path]:
    """Make what Faiss's ``benchs/distributed_ondisk`` leaves: shards, slices, a trained index."""
    base, rotation = vectors(), faiss.RandomRotationMatrix(D, D)
    rotation.init(5)
    quantizer = faiss.IndexHNSWFlat(D, 8)
    quantizer.hnsw.efSearch = 200
    quantizer.add(rotation.apply_py(base[:NLIST]))
    ivf = faiss.IndexIVFScalarQuantizer(quantizer, D, NLIST, faiss.ScalarQuantizer.QT_6bit)
    whole = faiss.IndexPreTransform(rotation, ivf)
    whole.train(base)
    trained = tmp_path / "trained.faissindex"
    faiss.write_index(whole, str(trained))
    shards, slices = [], []
    for number, (start, stop) in enumerate(((0, 400), (400, 401), (401, N))):
        shard = faiss.read_index(str(trained))
        shard.add_with_ids(base[start:stop], np.arange(start, stop))
        faiss.extract_index_ivf(shard).quantizer.reset()
        shards.append(tmp_path / f"vslice{number}.faissindex")
        faiss.write_index(shard, str(shards[-1]))
    bounds = (0, 3, 4, NLIST)
    for number in range(3):
        parts, kept = faiss.InvertedListsPtrVector(), []
        for path in shards:
            part = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
            lists = faiss.downcast_InvertedLists(faiss.extract_index_ivf(part).invlists)
            lists.crop_invlists(bounds[number], bounds[number + 1])
            parts.push_back(lists)
            kept.append((part, lists))
        first, size = kept[0][0], bounds[number + 1] - bounds[number]
        slices.append(tmp_path / f"slice{number + 9}.faissindex")  # 9, 10, 11
        merged = faiss.OnDiskInvertedLists(size, kept[0][1].code_size, f"{slices[-1]}_invlists")
        total = merged.merge_from_multiple(parts.data(), parts.size())
        own = faiss.extract_index_ivf(first)
        own.replace_invlists(None, False)
        own.nlist, own.ntotal, first.ntotal = size, total, total
        own.invlists = merged
        faiss.write_index(first, str(slices[-1]))
        own.invlists = None
    whole.add(base)
    return whole, shards, slices, trained


def test_shards_and_slices_of_distributed_builds(tmp_path: Path) -> None:
    whole, shards, slices, trained = distributed(tmp_path)
    queries = vectors(20, seed=2)
    teravec.import_faiss([trained, *shards], tmp_path / "rows")
    assert_same(whole, tmp_path / "rows", queries)
    teravec.import_faiss([*reversed(slices), trained], tmp_path / "lists")
    assert_same(whole, tmp_path / "lists", queries)
    teravec.verify(tmp_path / "lists")
    names = sorted(path.name for path in (tmp_path / "rows" / "slices").iterdir())
    for name in names:  # the same lists in the same order, so the same bytes
        ours = (tmp_path / "rows" / "slices" / name).read_bytes()
        assert ours == (tmp_path / "lists" / "slices" / name).read_bytes()
    with pytest.raises(teravec.InvalidSource, match="give every slice"):
        teravec.import_faiss([trained, *slices[:2]], tmp_path / "some")
    with pytest.raises(teravec.InvalidSource, match="give the trained index"):
        teravec.import_faiss(shards, tmp_path / "some")
    faiss.write_index(make("RR24,IVF12,SQ6", faiss.METRIC_L2), str(tmp_path / "other.faissindex"))
    with pytest.raises(teravec.InvalidSource, match="not made from the trained index"):
        teravec.import_faiss([trained, shards[0], tmp_path / "other.faissindex"], tmp_path / "some")
    assert not (tmp_path / "some").exists()


def test_an_import_is_a_whole_index(tmp_path: Path) -> None:
    index = make("OPQ6_12,IVF12,PQ6x4", faiss.METRIC_L2)
    path = imported(index, tmp_path)
    queries, more = vectors(20, seed=2), vectors(30, seed=4)
    teravec.add(path, more)
    index.add(more)
    teravec.delete(path, [0, 1, N + 2])
    index.remove_ids(np.array([0, 1, N + 2]))
    assert_same(index, path, queries)
    teravec.compact(path, full=True)
    assert_same(index, path, queries)
    teravec.verify(path)
    assert teravec.info(path)["codec"] == "pq6x4"
    teravec.export_faiss(path, tmp_path / "back.faissindex")
    assert_same(faiss.read_index(str(tmp_path / "back.faissindex")), path, queries)
    truth = search(index, queries, 20, NLIST)
    teravec.calibrate(path, queries, truth=truth)
    teravec.search(path, queries, k=5, recall=0.5)
    with pytest.raises(teravec.InvalidArgument, match="was imported"):
        teravec.calibrate(path, queries, data=vectors())


@pytest.mark.parametrize("factory", ["L2norm,PCA12,L2norm,IVF12,SQfp16", "IVF12,SQ4"])
def test_what_was_imported_is_exported_again(factory: str, tmp_path: Path) -> None:
    index = make(factory, faiss.METRIC_L2)
    path = imported(index, tmp_path)
    teravec.export_faiss(path, tmp_path / "back.faissindex")
    again = faiss.read_index(str(tmp_path / "back.faissindex"))
    teravec.import_faiss(tmp_path / "back.faissindex", tmp_path / "again")
    assert_same(again, path, vectors(20, seed=2))
    assert_same(index, tmp_path / "again", vectors(20, seed=2))


def test_a_trained_index_without_rows_is_filled_here(tmp_path: Path) -> None:
    index = make("IVF12,SQ8", faiss.METRIC_L2)
    index.reset()
    path = imported(index, tmp_path)
    with teravec.open(path) as ours:
        assert (ours.search(vectors(2), k=3, nprobe=12)[1] == -1).all()
    teravec.add(path, vectors())
    index.add(vectors())
    assert_same(index, path, vectors(20, seed=2))


def test_a_graph_over_many_centroids_is_kept(tmp_path: Path) -> None:
    index = make("IVF12_HNSW8,SQ8", faiss.METRIC_INNER_PRODUCT)
    faiss.write_index(index, str(tmp_path / "x.faissindex"))
    paths = IndexPaths(tmp_path / "i")
    import_faiss([tmp_path / "x.faissindex"], paths, None, Resources(), exact_most=8)
    assert teravec.info(tmp_path / "i")["quantizer"] == "hnsw"
    assert_same(index, tmp_path / "i", vectors(20, seed=2))


def test_small_windows_and_tables_give_the_same_bytes(tmp_path: Path) -> None:
    base = np.concatenate([vectors(), np.repeat(vectors(1), 500, axis=0)])  # one large list
    index = make("IVF12,SQ8", faiss.METRIC_L2, base=base)
    path = imported(index, tmp_path, slices=2)
    sizes = BlockSizes(merge_window_bytes=900, merge_read_bytes=1, merge_span_lists=2, id_block=77)
    resources = Resources(threads=2, sizes=sizes)
    import_faiss([tmp_path / "x.faissindex"], IndexPaths(tmp_path / "j"), 2, resources)
    for name in ("slices/00000.lists", "slices/00001.lists", "manifest.json"):
        assert (path / name).read_bytes() == (tmp_path / "j" / name).read_bytes()
    assert ivf_of(index).invlists.imbalance_factor() > 1


def test_a_killed_import_goes_on(tmp_path: Path) -> None:
    path = imported(make("IVF12,SQ8", faiss.METRIC_L2), tmp_path, slices=4)
    kept = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    times = {p: p.stat().st_mtime_ns for p in kept}
    lost = [path / "manifest.json", path / "slices" / "00002.lists"]
    for name in lost:
        name.unlink()
    (path / "slices" / "00003.lists.tmp").write_bytes(b"half")
    with pytest.raises(teravec.MissingFile, match="the import is not finished"):
        teravec.open(path)
    teravec.import_faiss(tmp_path / "x.faissindex", path, slices=4)
    assert all(p.read_bytes() == content for p, content in kept.items())
    assert all(p.stat().st_mtime_ns == times[p] for p in kept if p not in lost)
