"""What tests share: small clustered data, and the real sets where they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, settings

from teravec.storage.user_cache import CACHE_VARIABLE
from tests.storage.object_stand_in import s3_server

Float32 = npt.NDArray[np.float32]

LONG = os.environ.get("TERAVEC_TEST_LONG") == "1"
"""Whether ``make test-long`` asked for every instant and every byte, where a share is usual."""

# Hypothesis fails an example of more than 0.2 s, which a loaded machine may need for any.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

REAL_SETS = Path(__file__).parents[2] / "shared" / "data"

TOGETHER = ("tests/cluster/", "tests/sources/databases/", "tests/slurm/")
"""Rooms whose files share what is slow to start, so that one process runs all of a room."""

FIRST = ("tests/cluster/", "tests/faults/", "tests/serving/", "tests/sources/databases/")
"""Rooms that take long: begun first, so that no process is left alone with one at the end."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share out whole files, so that what a file builds once is built in one process only."""
    from xdist.scheduler import LoadFileScheduling

    class FilesOrRooms(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return next((room for room in TOGETHER if nodeid.startswith(room)), None) or (
                super()._split_scope(nodeid)
            )

    config.option.loadscopereorder = False
    return FilesOrRooms(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Among several processes, begin with what takes long."""
    if hasattr(config, "workerinput"):
        places = {room: number for number, room in enumerate(FIRST)}
        items.sort(
            key=lambda item: next(
                (place for room, place in places.items() if item.nodeid.startswith(room)),
                len(FIRST),
            )
        )


@pytest.fixture(scope="session", autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache directory of the tests, here and in every process that they start."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, CACHE_VARIABLE, str(folder))
        yield folder


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A stand-in for S3, such as ``http://127.0.0.1:40000``."""
    with s3_server() as endpoint:
        yield endpoint


@dataclass(frozen=True)
class RealSet:
    """A real data set: paths of base, queries and ground truth."""

    base: Path
    query: Path
    truth: Path


def clustered(n: int, d: int, seed: int = 0) -> Float32:
    """Vectors in a few clusters of uneven size, float32 of shape (n, d)."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((20, d)) * 2
    weights = rng.dirichlet(np.ones(len(centers)))
    chosen = rng.choice(len(centers), n, p=weights)
    return (centers[chosen] + rng.standard_normal((n, d))).astype(np.float32)


def write_fbin(path: Path, vectors: npt.NDArray[np.generic]) -> Path:
    """Write vectors with the .fbin/.u8bin header."""
    with path.open("wb") as file:
        np.array(vectors.shape, np.uint32).tofile(file)
        vectors.tofile(file)
    return path


def _real_set(base: str, query: str, truth: str) -> RealSet:
    paths = [REAL_SETS / name for name in (base, query, truth)]
    if missing := [path for path in paths if not path.exists()]:
        pytest.skip(f"{missing[0]} is not on this machine")
    return RealSet(*paths)


@pytest.fixture(scope="session")
def sift() -> RealSet:
    """301,217 SIFT descriptors of 128 dimensions, uint8."""
    return _real_set("sift-photos.base.u8bin", "sift-photos.query.u8bin", "sift-photos.gt100.bin")


@pytest.fixture(scope="session")
def minilm() -> RealSet:
    """112,000 sentence embeddings of 384 dimensions, float16."""
    return _real_set(
        "minilm-sentences.base.f16.npy", "minilm-sentences.query.fbin", "minilm-sentences.gt100.bin"
    )
