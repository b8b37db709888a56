"""The life of a connection, and of paths that a server reads again."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import teravec
from teravec.errors import AccessDenied, InvalidArgument, OutputExists
from teravec.serving.wire.security import ServerSecurity
from teravec.storage.output_lock import hold_file
from tests.serving.conftest import QUERIES, Launch, built, url

TOKEN = "a-token-of-some-length"


def lose(address: str) -> None:
    index = teravec.connect(address)
    index.search(QUERIES[:2], 3, nprobe=4)
    holder: list[object] = [index]
    holder.append(holder)
    del index, holder
    gc.collect()


def test_a_dropped_connection_is_closed(index: Path, serve: Launch) -> None:
    server = serve(index)
    for _ in range(3):
        with pytest.warns(ResourceWarning, match=r"connection to 127\.0\.0\.1:\d+ was dropped"):
            lose(url(server))


def test_an_exit_with_an_open_connection_is_clean(index: Path, serve: Launch) -> None:
    code = (
        "import sys, numpy as np, teravec\n"
        "kept = [teravec.connect(sys.argv[1])]; kept.append(kept)\n"
        "kept[0].search(np.zeros((1, 24), 'f4'), 1, nprobe=4)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, url(serve(index))],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_pickled_connection_connects_anew(index: Path, serve: Launch) -> None:
    server = serve(index)
    with teravec.connect(url(server), timeout_s=7.0) as remote:
        for other in (pickle.loads(pickle.dumps(remote)), copy.deepcopy(remote)):  # noqa: S301
            with other:
                distances, ids = other.search(QUERIES, 5, nprobe=8)
                assert np.array_equal(distances, remote.search(QUERIES, 5, nprobe=8)[0])
                assert np.array_equal(ids, remote.search(QUERIES, 5, nprobe=8)[1])


def test_no_secret_is_pickled(
    index: Path, serve: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.chdir(tmp_path)
    server = serve(index, security=ServerSecurity(token_file=Path("token")))
    with (
        teravec.connect(url(server), token=TOKEN) as remote,
        pytest.raises(InvalidArgument, match="connect with token_file"),
    ):
        pickle.dumps(remote)
    with teravec.connect(url(server), token_file="token") as remote:
        data = pickle.dumps(remote)
    assert TOKEN.encode() not in data
    assert os.fsencode(tmp_path / "token") in data
    monkeypatch.chdir("/")
    with pickle.loads(data) as other:  # noqa: S301
        assert other.ntotal == remote.ntotal
    (tmp_path / "token").write_text("another-token-of-length")
    server.reload()
    with pytest.raises(AccessDenied):
        teravec.connect(url(server), token=TOKEN)
    teravec.connect(url(server), token="another-token-of-length").close()


def test_a_server_that_moves_reloads_its_index(
    index: Path, serve: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path is a link that is moved to the next index, as deployments do."""
    monkeypatch.chdir(tmp_path)
    Path("current").symlink_to(index)
    server = serve(Path("current"))
    before = server.service.backend.versions.current.version
    other = built(tmp_path, seed=3, calibrate=False)
    monkeypatch.chdir("/")
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to(other)
    server.reload()
    assert server.service.backend.versions.current.version != before
    shutil.rmtree(tmp_path / "current", ignore_errors=True)


def test_results_of_a_server_are_held_as_well(index: Path, serve: Launch, tmp_path: Path) -> None:
    out = tmp_path / "r.npz"
    with (
        teravec.connect(url(serve(index))) as remote,
        hold_file(out),
        pytest.raises(OutputExists, match="another process"),
    ):
        teravec.search(remote, QUERIES, 3, 4, out=out)
    assert not out.exists()
