"""serve --maintain: a server keeps its index quick to read, and searches go on."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

import teravec
from teravec.index.manifest import read_manifest
from teravec.serving.deploy.maintenance import Maintenance, MaintenanceOptions
from teravec.storage.layout import IndexPaths
from teravec.storage.output_lock import hold_file
from tests.conftest import clustered
from tests.serving.conftest import NLIST, QUERIES, D, Launch, built, url
from tests.serving.test_faults import until

OPTIONS = MaintenanceOptions(60.0, 256 << 20, rest_s=0.1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = built(tmp_path, "l2", "flat", calibrate=False)
    for seed in range(6):
        teravec.add(path, clustered(20, D, seed=seed))
    return path


def layers(path: Path) -> int:
    return len(read_manifest(IndexPaths(path)).layers)


def test_a_server_maintains_its_index(path: Path, serve: Launch) -> None:
    assert layers(path) == 7
    with teravec.open(path) as local:
        true = local.search(QUERIES, 10, NLIST)[1]
    server = serve(path, maintenance=OPTIONS)
    with teravec.connect(url(server)) as remote:
        while layers(path) > 2:
            np.testing.assert_array_equal(remote.search(QUERIES, 10, NLIST)[1], true)
        version = teravec.versions(path)[-1].number
        found = remote.search(QUERIES, 10, NLIST, min_version=version)[1]
        np.testing.assert_array_equal(found, true)
    assert server.maintenance is not None
    until(lambda: 'teravec_maintenances_total{outcome="ok"} 0.0' not in text_of(server))
    server.close()
    assert layers(path) == 2


def text_of(server: object) -> str:
    return server.service.metrics.text().decode()  # type: ignore[attr-defined,no-any-return]


def test_one_maintains_at_a_time_and_closing_ends_it(path: Path) -> None:
    paths = IndexPaths(path)
    (path / "adding").mkdir(exist_ok=True)
    with hold_file(path / "adding" / "maintenance"):
        waiting = Maintenance(path, OPTIONS, lambda: read_manifest(paths))
        time.sleep(0.5)
        assert layers(path) == 7
        assert waiting.outcomes == {"ok": 0, "failed": 0}
        waiting.close()
    started = Maintenance(path, OPTIONS, lambda: read_manifest(paths))
    time.sleep(0.3)  # it is starting, or at work
    begun = time.monotonic()
    started.close()
    assert time.monotonic() - begun < 100
    assert started.outcomes["failed"] == 0
    teravec.verify(path)


def test_an_error_is_logged_and_counted(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    paths = IndexPaths(path)
    manifest = read_manifest(paths)
    shutil.rmtree(path / "segments")
    maintenance = Maintenance(path, OPTIONS, lambda: manifest)
    until(lambda: maintenance.outcomes["failed"] > 0)
    maintenance.close()
    assert any("segments" in record.getMessage() for record in caplog.records)
