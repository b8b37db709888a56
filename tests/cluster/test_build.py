"""Builds on a cluster of three nodes: the bytes of one process, whatever is lost on the way."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from typer.testing import CliRunner

from teravec import building
from teravec.cli.main import app
from teravec.engines.block_sizes import BlockSizes
from teravec.engines.options import EngineOptions
from teravec.engines.ray_engine import RayEngine
from teravec.engines.resources import Resources
from teravec.errors import MissingFile, TeravecError
from teravec.evaluation.groundtruth import groundtruth
from teravec.kernels.metric import Metric
from teravec.model.description import ModelDescription
from teravec.native import extensions as compiled
from teravec.progress import Bar, NoProgress, Progress
from teravec.sources import open_source
from teravec.storage.layout import IndexPaths
from teravec.training.options import TrainOptions
from teravec.training.record import LayoutOptions
from tests.cluster.conftest import MEMORY, Harmful, SimulatedCluster, all_workers
from tests.conftest import clustered, write_fbin
from tests.faults.conftest import tree
from tests.faults.test_bad_input import SOURCES, fails

pytestmark = pytest.mark.skipif(
    compiled.native is None, reason="without the compiled kernels, last bits may differ"
)


# So that small data have several parts, blocks and pieces, for several workers.
SMALL = BlockSizes(
    sample_part_bytes=4 * 32 * 3000,
    training_block_bytes=4 * 32 * 1000,
    moment_blocks=2,
    counted_task_rows=1700,
    sum_bytes=16 << 10,
    least_sum_bytes=4 << 10,
    truth_range_rows=1000,
)


def in_process(threads: int = 2) -> Resources:
    """This process alone."""
    return Resources(MEMORY, threads, sizes=SMALL)


@dataclass(frozen=True)
class Case:
    """A source, and what one process makes of it."""

    source: Path
    files: dict[str, bytes | None]


def build(source: Path, out: Path, resources: Resources, metric: str = "l2") -> None:
    building.build_index(
        source,
        out,
        options=TrainOptions(300, metric, codec="sq8", sample=20_000, niter=4),
        layout=LayoutOptions(6, 5),
        keep_shards=True,
        calibrate=False,
        resources=resources,
    )


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """40,000 vectors of 32 dimensions, half of them the same, so that lists are repaired."""
    root = tmp_path_factory.mktemp("cluster")
    vectors = clustered(40_000, 32)
    vectors[::2] = vectors[0]
    source = write_fbin(root / "x.fbin", vectors)
    build(source, root / "local", in_process())
    return Case(source, tree(root / "local"))


def on(engine: RayEngine, progress: Progress | None = None) -> Resources:
    return Resources(MEMORY, 1, progress or NoProgress(), engine, sizes=SMALL)


def test_build_equals_the_build_in_process(case: Case, engine: RayEngine, tmp_path: Path) -> None:
    build(case.source, tmp_path / "i", on(engine))
    assert tree(tmp_path / "i") == case.files


@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers(
    case: Case, cluster: SimulatedCluster, workers: int, tmp_path: Path
) -> None:
    options = EngineOptions("ray", workers, cluster.address)
    with RayEngine(options, 1, MEMORY) as own:
        building.train_model(
            open_source(case.source),
            _paths(tmp_path / "i"),
            TrainOptions(300, codec="sq8", sample=20_000, niter=4),
            LayoutOptions(6, 5),
            on(own),
        )
    found = tree(tmp_path / "i")
    assert found["model/model.json"] == case.files["model/model.json"]
    assert found["model/centroids.npy"] == case.files["model/centroids.npy"]


def _paths(root: Path) -> IndexPaths:
    return IndexPaths(root)


def test_cosine(case: Case, engine: RayEngine, tmp_path: Path) -> None:
    build(case.source, tmp_path / "local", in_process(), "cosine")
    build(case.source, tmp_path / "ray", on(engine), "cosine")
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")


@pytest.mark.parametrize("stage", ["sample", "k-means", "shard", "merge"])
def test_killed_worker(case: Case, engine: RayEngine, stage: str, tmp_path: Path) -> None:
    harm = Harmful(stage, all_workers(engine)[0])
    build(case.source, tmp_path / "i", on(engine, harm))
    assert harm.harmed
    assert harm.done == harm.total  # what was done twice is counted once
    found = {name: data for name, data in tree(tmp_path / "i").items() if name[-4:] != ".tmp"}
    assert found == case.files


@pytest.mark.slow
def test_workers_killed_again_and_again(case: Case, engine: RayEngine, tmp_path: Path) -> None:
    """At random instants, whatever they are at; one less than end a task."""
    rng, ended, killed = np.random.default_rng(1), threading.Event(), list[int]()

    def kill() -> None:
        while len(killed) < 3 and not ended.wait(rng.uniform(0.3, 1.2)):
            workers = [p.pid for p in psutil.process_iter() if is_worker(p)]
            if workers:
                killed.append(int(rng.choice(workers)))
                with suppress(ProcessLookupError):
                    os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        build(case.source, tmp_path / "i", on(engine))
    finally:
        ended.set()
        killer.join()
    assert killed
    found = {name: data for name, data in tree(tmp_path / "i").items() if name[-4:] != ".tmp"}
    assert found == case.files


def is_worker(process: psutil.Process) -> bool:
    """Whether a process is one of this Ray's that runs our tasks, or that starts to."""
    try:
        command = process.cmdline()
        ours = os.getpid() in (parent.pid for parent in process.parents())
    except psutil.Error:
        return False
    named = any(word.endswith(("::Worker", "default_worker.py")) for word in command)
    return ours and (named or any(word.startswith("ray::Worker.") for word in command))


@pytest.mark.parametrize("stage", ["k-means", "shard"])
def test_removed_node(
    case: Case, engine: RayEngine, cluster: SimulatedCluster, stage: str, tmp_path: Path
) -> None:
    pid, node = next(
        (pid, node) for pid in all_workers(engine) if (node := cluster.node_of(pid)) is not None
    )

    def remove() -> None:
        cluster.remove_node(node)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # a stopped process does not see that its node is gone

    harm = Harmful(stage, pid, remove)
    build(case.source, tmp_path / "i", on(engine, harm))
    cluster.add_node()
    assert harm.harmed
    found = {name: data for name, data in tree(tmp_path / "i").items() if name[-4:] != ".tmp"}
    assert found == case.files


def test_interrupted_build_goes_on_anywhere(case: Case, engine: RayEngine, tmp_path: Path) -> None:
    """Ctrl-C on the cluster, in each stage; one process or the cluster takes over."""

    class Interrupting(Harmful):
        def __init__(self, stage: str) -> None:
            super().__init__(stage, all_workers(engine)[0], self._interrupt)

        def _interrupt(self) -> None:
            os.kill(self.pid, signal.SIGKILL)
            raise KeyboardInterrupt

    out = tmp_path / "i"
    for stage in ("sample", "k-means", "shard", "merge"):
        with pytest.raises(KeyboardInterrupt):
            build(case.source, out, on(engine, Interrupting(stage)))
        # Workers that live end their task meanwhile: a temporary name may go during the copy.
        shutil.copytree(out, tmp_path / stage, ignore=shutil.ignore_patterns("*.tmp"))
    build(case.source, out, on(engine))
    assert tree(out) == case.files
    build(case.source, tmp_path / "shard", in_process())
    assert tree(tmp_path / "shard") == case.files


def build_split(source: Path, out: Path, resources: Resources) -> None:
    """Build with a PCA and lists that have to be split, and calibrate."""
    building.build_index(
        source,
        out,
        layout=LayoutOptions(2, 2),
        keep_shards=False,
        options=TrainOptions(300, transform="pca31", sample=15_000, niter=2, max_list_bytes=4000),
        resources=resources,
    )


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """20,000 vectors, half of them in a small place."""
    root = tmp_path_factory.mktemp("split")
    vectors = clustered(20_000, 32)
    vectors[::2] = 0.3 * clustered(10_000, 32, seed=5) + 20
    source = write_fbin(root / "x.fbin", vectors)
    build_split(source, root / "local", in_process())
    return Case(source, tree(root / "local"))


@pytest.mark.parametrize("stage", ["pca", "count lists", "split lists"])
def test_large_lists_are_split_alike(
    engine: RayEngine, split: Case, stage: str, tmp_path: Path
) -> None:
    """And a worker that is lost meanwhile changes nothing; nor does calibrating on workers."""
    harm = Harmful(stage, all_workers(engine)[0])
    build_split(split.source, tmp_path / "ray", on(engine, harm))
    assert harm.harmed
    assert tree(tmp_path / "ray") == split.files
    assert ModelDescription.read(tmp_path / "ray/model").nlist > 310


def test_groundtruth(case: Case, engine: RayEngine) -> None:
    source, queries = open_source(case.source), clustered(50, 32, seed=1)
    for metric in (Metric.L2, Metric.COSINE):
        here, there = (
            groundtruth(
                source,
                queries,
                20,
                metric=metric,
                resources=Resources(MEMORY, 1, engine=where, sizes=SMALL),
            )
            for where in (None, engine)
        )
        assert here[0].tobytes() == there[0].tobytes()
        assert here[1].tobytes() == there[1].tobytes()


WORKERS_FIND = ("NaN outside the sample",)
DRIVER_FINDS = ("no file", "beyond the header", "NaN", "ragged parquet", "fvecs of two d")


@pytest.mark.parametrize("bad", [*WORKERS_FIND, *DRIVER_FINDS])
def test_bad_input_gives_the_same_line(bad: str, cluster: SimulatedCluster, tmp_path: Path) -> None:
    name, write, _ = SOURCES[bad]
    write(tmp_path / name)
    arguments = ["build", tmp_path / name, "--out", tmp_path / "i", "--nlist", "4", "-q"]
    on_ray = [
        "--engine",
        "ray",
        "--address",
        cluster.address,
        "--workers",
        "2",
        "--threads",
        "1",
        "--memory",
        "600MiB",
    ]
    assert fails(*arguments, *on_ray) == fails(*arguments)
    assert not (tmp_path / "i").exists()


def test_damaged_shard_gives_the_same_line(case: Case, engine: RayEngine, tmp_path: Path) -> None:
    out = tmp_path / "i"
    build(case.source, out, in_process())
    (out / "manifest.json").unlink()
    shutil.rmtree(out / "slices")
    shard = sorted((out / "shards").iterdir())[3]
    data = bytearray(shard.read_bytes())
    data[5000] ^= 1
    shard.write_bytes(data)
    errors = []
    for resources in (in_process(), on(engine)):
        with pytest.raises(TeravecError) as caught:
            building.merge_shards(_paths(out), keep_shards=True, resources=resources)
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]
    assert str(shard) in errors[0][1]


def test_file_that_a_machine_does_not_see(engine: RayEngine, tmp_path: Path) -> None:
    """The command has seen it: the line names the file, and the machine without it."""
    source = write_fbin(tmp_path / "x.fbin", clustered(5000, 8))

    class Hiding(NoProgress):
        def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Bar]:
            source.rename(tmp_path / "elsewhere.fbin")
            return super().stage(name, total, unit)

    with pytest.raises(MissingFile, match=r"x\.fbin.* on .*; all machines must share it"):
        build(source, tmp_path / "i", on(engine, Hiding()))
    assert (tmp_path / "i/build.json").exists()  # not thrown away: the file is good elsewhere


def test_rerun_of_a_finished_build_needs_no_cluster(case: Case, tmp_path: Path) -> None:
    build(case.source, tmp_path / "i", in_process())
    arguments = ["merge", "--out", str(tmp_path / "i"), "--keep-shards", "-q"]
    result = CliRunner().invoke(app, [*arguments, "--engine", "ray", "--address", "127.0.0.1:1"])
    assert result.exit_code == 0, result.output


def test_local_engine_takes_no_address(tmp_path: Path) -> None:
    source = write_fbin(tmp_path / "x.fbin", np.zeros((5, 2), np.float32))
    message = fails("build", source, "--out", tmp_path / "i", "--address", "127.0.0.1:1")
    assert "engine ray" in message


def test_vectors_in_memory_are_spooled_for_workers(
    engine: RayEngine, case: Case, tmp_path: Path
) -> None:
    vectors = open_source(case.source).read(0, 10_000)
    ids = np.arange(len(vectors)) * 2
    resources = Resources(MEMORY, 1, engine=engine, sizes=SMALL)
    manifests = [
        building.build_index(
            vectors,
            tmp_path / name,
            options=TrainOptions(64, niter=2),
            layout=LayoutOptions(),
            keep_shards=False,
            resources=each,
            ids=ids,
        )
        for name, each in (("alone", in_process(1)), ("cluster", resources))
    ]
    alone, cluster = ([entry.checksum for entry in m.slices] for m in manifests)
    assert alone == cluster
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "cluster"]
