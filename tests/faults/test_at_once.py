"""Two commands at one moment on one output: one wins, the other says so and touches nothing."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import teravec
from teravec.cli.main import app
from teravec.errors import InvalidSource, OutputExists
from teravec.storage import output_lock
from teravec.storage.output_lock import hold_directory, hold_file
from teravec.training.options import TrainOptions
from tests.conftest import clustered
from tests.faults.conftest import tree

N, D = 400, 8


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and directories as each stage finds them."""
    root = tmp_path_factory.mktemp("at-once")
    x = clustered(N, D)
    np.save(root / "x.npy", x)
    np.save(root / "q.npy", x[:9])
    for name in ("trained", "sharded"):
        teravec.train(root / "x.npy", root / name, options=TrainOptions(nlist=4, codec="flat"))
    teravec.shard(root / "x.npy", root / "sharded")
    teravec.build(root / "x.npy", root / "whole", nlist=4, codec="flat")
    teravec.calibrate(root / "whole", data=root / "x.npy", nqueries=20, ks=[1])
    assert (
        CliRunner()
        .invoke(
            app,
            [
                "groundtruth",
                f"{root}/x.npy",
                f"{root}/q.npy",
                "-k",
                "1",
                "--out",
                f"{root}/gt.ibin",
                "-q",
            ],
        )
        .exit_code
        == 0
    )
    return root


def fails(arguments: list[str]) -> str:
    """Run a command that is to be refused, and return its one line."""
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


INTO_DIRECTORY = {
    "build": ("new", "build {x} --out {out} -q"),
    "build again": ("trained", "build {x} --out {out} --nlist 4 --codec flat -q"),
    "train": ("new", "train {x} --out {out} -q"),
    "shard": ("trained", "shard {x} --out {out} -q"),
    "shard rows": ("trained", "shard {x} --out {out} --rows 10:20 -q"),
    "merge": ("sharded", "merge --out {out} -q"),
    "calibrate": ("whole", "calibrate {out} --data {x} -q"),
    "bench-disk": ("whole", "bench-disk {out} --seconds 0.1 --size 16MiB -q"),
}

INTO_FILE = {
    "search": "search {whole} {q} -k 3 --nprobe 2 --out {root}/r.npz -q",
    "range-search": "range-search {whole} {q} --radius 2 --nprobe 2 --out {root}/r.parquet -q",
    "groundtruth": "groundtruth {x} {q} -k 3 --out {root}/g.ibin -q",
    "eval": "eval {whole} {q} {root}/gt.ibin -k 1 --nprobe 1 --plot {root}/p.svg",
    "export-faiss": "export-faiss {whole} {root}/faiss.index -q",
    "plan": "plan --calibrate --constants {root}/c.json",
    "slurm": "slurm --nodes 2 --time 10 --script {root}/s.sbatch -- build x --out y",
}


def output_of(command: str) -> str:
    marks = ("--script ", "--plot ", "--constants ", "--out ")
    after = next((command.split(m)[1] for m in marks if m in command), "{root}/faiss.index")
    return after.split()[0]


@pytest.mark.parametrize("name", INTO_DIRECTORY)
def test_a_directory_that_another_process_writes(made: Path, tmp_path: Path, name: str) -> None:
    state, command = INTO_DIRECTORY[name]
    out = tmp_path / "out"
    if state != "new":
        subprocess.run(["cp", "-r", made / state, out], check=True)
    arguments = command.format(x=made / "x.npy", out=out).split()
    with hold_directory(out, create=True):
        before = tree(tmp_path)
        assert f"{out}: another process is writing there now" in fails(arguments)
        assert tree(tmp_path) == before
        if name == "shard rows":
            with pytest.raises(OutputExists):
                teravec.shard(made / "x.npy", out, rows=(10, 20))
    if name != "shard rows":
        with hold_directory(out, (5, 11), create=True):
            assert "another process" in fails(arguments), "its rows are being encoded"
    assert out.exists() == (state != "new"), "what the loser made for itself is gone"


@pytest.mark.parametrize("name", INTO_FILE)
def test_a_file_that_another_process_writes(made: Path, tmp_path: Path, name: str) -> None:
    places = {"x": made / "x.npy", "q": made / "q.npy", "whole": made / "whole"}
    command = INTO_FILE[name].replace("{root}/gt", f"{made}/gt")
    arguments = command.format(**places, root=tmp_path).split()
    out = Path(output_of(command).format(root=tmp_path))
    with hold_file(out):
        before = tree(tmp_path)
        assert f"{out}: another process is writing there now" in fails(arguments)
        assert tree(tmp_path) == before


def test_rows_apart_and_the_same_rows(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    subprocess.run(["cp", "-r", made / "trained", out], check=True)
    with hold_directory(out, (0, 100)):
        assert len(teravec.shard(made / "x.npy", out, rows=(100, 200))) == 1
        with pytest.raises(OutputExists):
            teravec.shard(made / "x.npy", out, rows=(99, 101))
        with pytest.raises(OutputExists):
            teravec.merge(out)
    teravec.shard(made / "x.npy", out)
    assert teravec.merge(out).ntotal == N


@pytest.mark.parametrize("name", [*INTO_DIRECTORY, *INTO_FILE])
def test_every_command_holds_its_output_to_the_end(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It is refused to others after the last byte was written, and is free afterwards."""
    monkeypatch.setattr("teravec.cli.plan_command.measure", _speeds)
    out = tmp_path / "out"
    hold: Callable[[], AbstractContextManager[None]]
    if name in INTO_DIRECTORY:
        state, command = INTO_DIRECTORY[name]
        if state != "new":
            subprocess.run(["cp", "-r", made / state, out], check=True)
        arguments = command.format(x=made / "x.npy", out=out).split()

        def hold() -> AbstractContextManager[None]:
            return hold_directory(out, (0, 400))
    else:
        places = {"x": made / "x.npy", "q": made / "q.npy", "whole": made / "whole"}
        command = INTO_FILE[name].replace("{root}/gt", f"{made}/gt")
        arguments = command.format(**places, root=tmp_path).split()
        out = Path(output_of(command).format(root=tmp_path))

        def hold() -> AbstractContextManager[None]:
            return hold_file(out)

    unlink, held = Path.unlink, []

    def unlink_after_a_try(path: Path, missing_ok: bool = False) -> None:
        # The first step of letting go; a calibration within holds a lock of its own, in ``adding``.
        if path.name.endswith(output_lock.LOCK_NAME) and path.parent.name != "adding":
            held.append(dict.fromkeys(tree(tmp_path)))
            with pytest.raises(OutputExists), hold():
                pass
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink_after_a_try)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    monkeypatch.undo()
    assert len(held) == 1
    locks = {path for path in held[0] if path.endswith(".lock")}
    assert set(held[0]) - locks == set(tree(tmp_path)), "all was there before it was released"
    with hold():
        pass


def _speeds(*_: object) -> object:
    from tests.planning.test_model import SPEEDS

    return SPEEDS


RUN = "import sys; sys.argv[0] = 'teravec'; from teravec.cli.main import run; run()"


def begin(out: Path, data: Path, hold: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            hold + RUN,
            "build",
            data,
            "--out",
            out,
            "--nlist",
            "512",
            "--no-calibrate",
            "-q",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def ends(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def test_builds_held_between_looking_and_beginning(tmp_path: Path) -> None:
    """The second has looked before the first begins, and goes on in the midst of its work."""
    np.save(tmp_path / "x.npy", clustered(40_000, 32))
    out = tmp_path / "new" / "i"
    hold = (
        "import os, time\n"
        "import teravec.building as b\n"
        "real = b.begin_build\n"
        "def late(*a, **k):\n"
        f"    while not os.path.exists({str(out / 'training')!r}): time.sleep(0.001)\n"
        "    return real(*a, **k)\n"
        "b.begin_build = late\n"
    )
    second = begin(out, tmp_path / "x.npy", hold)
    first = begin(out, tmp_path / "x.npy")
    assert ends(first) == (0, "")
    code, errors = ends(second)
    # Late enough, it finds the whole index, which is no clash.
    assert code == 0 or (code == 2 and "another process is writing there now" in errors)
    assert errors.count("\n") == (code == 2)
    teravec.verify(out)
    assert not list(out.glob("**/*.tmp")) + list(out.glob(".lock"))


def test_builds_by_chance(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", clustered(20_000, 16))
    out = tmp_path / "i"
    codes = [ends(p)[0] for p in [begin(out, tmp_path / "x.npy") for _ in range(3)]]
    assert 0 in codes
    assert set(codes) <= {0, 2}
    teravec.verify(out)


@pytest.mark.parametrize(
    "entry", ["lost+found", ".Trash-0", ".nfs000123", "System Volume Information", ".snapshot"]
)
def test_the_root_of_a_volume_is_empty(made: Path, tmp_path: Path, entry: str) -> None:
    """And what is the system's stays, if the input turns out to be bad."""
    out = tmp_path / "volume"
    (out / entry).mkdir(parents=True)
    (out / entry / "theirs").touch()
    before = tree(out)
    bad = clustered(N, D)
    bad[-1, 0] = np.nan
    np.save(tmp_path / "bad.npy", bad)
    with pytest.raises(InvalidSource):
        teravec.build(tmp_path / "bad.npy", out, nlist=4, calibrate=False)
    assert tree(out) == before
    teravec.build(made / "x.npy", out, nlist=4, calibrate=False)
    assert (out / entry / "theirs").exists()
    teravec.verify(out)


def test_other_entries_are_named(made: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    before = tree(tmp_path)
    with pytest.raises(OutputExists, match=r"a\.jpg found, .* choose another output"):
        teravec.build(made / "x.npy", tmp_path / "photos", nlist=4)
    assert tree(tmp_path) == before


def test_another_build_begun_without_locks_is_not_removed(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are no locks two may begin; who meets bad input removes what is its own."""
    out = tmp_path / "i"

    def other_begins(*_: object) -> object:
        subprocess.run(["rm", "-r", out], check=True)
        monkeypatch.undo()
        teravec.train(made / "x.npy", out, options=TrainOptions(nlist=4))
        raise InvalidSource("row 7 is bad")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", fail)
    monkeypatch.setattr(fcntl, "fcntl", fail)
    monkeypatch.setattr(teravec.building, "train", other_begins)
    with pytest.raises(InvalidSource):
        teravec.build(made / "x.npy", out, nlist=5, calibrate=False)
    teravec.shard(made / "x.npy", out)
    assert teravec.merge(out).nlist == 4
