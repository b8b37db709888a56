"""The stores that there are, each against the suite; and what only the local one does."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from teravec.errors import AlreadyThere, MissingFile, OutputExists, StorageError
from teravec.storage.local_store import LocalStore, stored
from teravec.storage.store import Store
from tests.storage.latency_store import LatencyStore
from tests.storage.memory_store import MemoryStore
from tests.storage.store_suite import StoreSuite, get, put


class TestLocalStore(StoreSuite):
    @pytest.fixture(params=["ring", "direct threads", "threads"])
    def store(self, request: pytest.FixtureRequest, tmp_path: Path) -> Store:
        return LocalStore(tmp_path, direct=request.param != "threads", ring=request.param == "ring")

    def cut(self, store: Store, name: str, size: int) -> None:
        os.truncate(store.locate(name), size)


class TestMemoryStore(StoreSuite):
    shared = False

    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()

    def cut(self, store: Store, name: str, size: int) -> None:
        assert isinstance(store, MemoryStore)
        store.files[name] = store.files[name][:size]


class TestLatencyStore(StoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return LatencyStore(LocalStore(tmp_path), latency_s=1e-4)

    def cut(self, store: Store, name: str, size: int) -> None:
        os.truncate(store.locate(name), size)


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_a_store_is_a_value(tmp_path: Path) -> None:
    assert LocalStore(tmp_path) == LocalStore(tmp_path) != LocalStore(tmp_path / "a")
    assert len({stored(tmp_path / "f"), LocalStore(tmp_path), stored(tmp_path / "f")}) == 2


def test_directories_come_and_go_with_their_files(local: LocalStore, tmp_path: Path) -> None:
    put(local, "a/b/f", b"x")
    put(local, "a/g", b"x")
    local.remove("a/b/f")
    assert tree(tmp_path) == ["a", "a/g"]
    (tmp_path / "a" / ".hidden").touch()
    local.remove("a/g")
    assert local.names() == []
    assert tree(tmp_path) == ["a", "a/.hidden"]  # not ours, so it stays
    local.remove_all("a")
    assert tree(tmp_path) == []
    assert tmp_path.is_dir()


def test_a_store_without_its_directory(tmp_path: Path) -> None:
    gone = LocalStore(tmp_path / "gone")
    assert gone.names() == []
    assert not gone.exists("f")
    for name in ("f", "d/f"):
        with pytest.raises(MissingFile, match="cannot write"):
            put(gone, name, b"x")
        with pytest.raises(MissingFile, match="cannot write"):
            gone.create(name, b"x")
    assert tree(tmp_path) == []


def test_only_unfinished_files_that_nobody_writes_are_removed(
    local: LocalStore, tmp_path: Path
) -> None:
    put(local, "d/f", b"x")
    (tmp_path / "d" / "killed.tmp").write_bytes(b"half")
    (tmp_path / "other.tmp").write_bytes(b"half")
    with local.publish("d/g") as file:
        file.write(b"y", 0)
        local.remove_unfinished("d")
        assert tree(tmp_path) == ["d", "d/f", "d/g.tmp", "other.tmp"]
    assert local.names() == ["d/f", "d/g"]


def test_two_writers_of_a_file(local: LocalStore) -> None:
    with local.publish("f") as file:
        file.write(b"first", 0)
        with pytest.raises(OutputExists, match="another process"), local.publish("f"):
            raise AssertionError
    assert get(local, "f") == b"first"


def test_cleaning_up_leaves_a_file_that_is_being_created(
    local: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def clean_up_first(source: str, target: str, **options: bool) -> None:
        local.remove_unfinished("")
        link(source, target, **options)

    monkeypatch.setattr(os, "link", clean_up_first)
    local.create("versions/1", b"first")
    assert get(local, "versions/1") == b"first"
    assert tree(tmp_path) == ["versions", "versions/1"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_creating_where_there_are_no_links(
    local: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    local.create("versions/1", b"first")
    with pytest.raises(AlreadyThere, match="versions/1"):
        local.create("versions/1", b"second")
    assert get(local, "versions/1") == b"first"
    assert tree(tmp_path) == ["versions", "versions/1"]
    # The name is taken between the first look and the rename.
    monkeypatch.setattr(Path, "exists", lambda path, real=Path.exists: False)
    monkeypatch.setattr(LocalStore, "exists", lambda store, name: False)
    with monkeypatch.context() as patch:
        patch.undo()
        with local.publish("versions/2"), pytest.raises(AlreadyThere, match="versions/2"):
            local.create("versions/2", b"second")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failing_disk_is_an_error(
    local: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(StorageError, match="versions/1: cannot write"):
        local.create("versions/1", b"first")
    assert local.names() == []
    monkeypatch.undo()
    local.create("versions/1", b"first")
    assert tree(tmp_path) == ["versions", "versions/1"]


@pytest.mark.parametrize("call", ["os.fsync", "os.link"])
def test_killed_while_creating(local: LocalStore, tmp_path: Path, call: str) -> None:
    """Before the link nothing has the name; whoever comes next creates it."""
    script = (
        "import os, signal, sys, pathlib\n"
        "from teravec.storage.local_store import LocalStore\n"
        f"{call} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        "LocalStore(pathlib.Path(sys.argv[1])).create('versions/1', b'x' * 1000)"
    )
    killed = subprocess.run([sys.executable, "-c", script, tmp_path], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert local.names() == []
    assert not local.exists("versions/1")
    local.create("versions/1", b"first")
    assert get(local, "versions/1") == b"first"
    assert local.names() == ["versions/1"]
    local.remove_unfinished("versions")
    assert tree(tmp_path) == ["versions", "versions/1"]


def test_a_directory_in_a_files_place_is_no_missing_file(local: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "d" / "f.json").mkdir(parents=True)
    assert local.exists("d/f.json")
    assert local.names("d/") == ["d/f.json"]
    with local.open("d/f.json") as file, pytest.raises(StorageError, match=r"d/f\.json: cannot"):
        file.read(1, 0)
    (tmp_path / "r.partial").mkdir()  # left by a kill, before the first file was in it
    assert local.names() == ["d/f.json"]
    assert not local.exists("d")
    assert not local.exists("r.partial")
