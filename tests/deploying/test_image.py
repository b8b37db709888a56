"""The Dockerfile: pinned, small, without root, and given all files that the build needs."""

from __future__ import annotations

import re
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploying.conftest import EXAMPLES, ROOT, documents

Instruction = tuple[str, str]


def stages() -> list[list[Instruction]]:
    """The instructions of each stage, in order."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    found: list[list[Instruction]] = []
    for line in filter(None, map(str.strip, lines)):
        name, _, value = line.partition(" ")
        assert name.isupper(), line
        if name == "FROM":
            found.append([])
        found[-1].append((name, value.strip()))
    return found


BUILD, IMAGE = stages()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def values(stage: list[Instruction], name: str) -> list[str]:
    return [value for given, value in stage if given == name]


def copied() -> list[str]:
    """Files and folders that the first stage takes from here."""
    return [source for value in values(BUILD, "COPY") for source in shlex.split(value)[:-1]]


def ignored(path: str) -> bool:
    """Whether .dockerignore leaves a path out: the last rule that matches decides."""
    left_out = False
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    for rule in (line for line in lines if line and not line.startswith("#")):
        takes, pattern = rule.startswith("!"), rule.removeprefix("!")
        parents = [path, *map(str, Path(path).parents)]
        plain = any(fnmatch(parent, pattern) for parent in parents if parent != ".")
        anywhere = pattern.startswith("**/") and any(
            fnmatch(part, pattern[3:]) for part in Path(path).parts
        )
        if plain or anywhere:
            left_out = not takes
    return left_out


def test_both_stages_have_the_same_pinned_base() -> None:
    bases = {values(stage, "FROM")[0].split()[0] for stage in (BUILD, IMAGE)}
    (base,) = bases
    pinned = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-\w+", base)
    assert pinned, base
    assert pinned[1] in {c.rpartition(" ")[2] for c in PROJECT["classifiers"]}


def test_it_runs_without_root_as_the_pods_do() -> None:
    user = values(IMAGE, "USER")[-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert not any(name == "RUN" for name, _ in IMAGE)
    manifest = documents(EXAMPLES / "kubernetes" / "teravec.yaml")
    contexts = [
        each["spec"]["template"]["spec"]["securityContext"]
        for each in manifest
        if each["kind"] in ("StatefulSet", "Deployment")
    ]
    assert {f"{c['runAsUser']}:{c['runAsGroup']}" for c in contexts} == {user}


def test_it_runs_teravec() -> None:
    assert values(IMAGE, "ENTRYPOINT") == ['["teravec"]']
    assert values(IMAGE, "STOPSIGNAL") == ["SIGTERM"]
    (taken,) = values(IMAGE, "COPY")
    stage, source, target = shlex.split(taken)
    assert stage == "--from=build"
    assert source == target
    assert f"PATH={target}/bin:$PATH" in values(IMAGE, "ENV")[0]
    install = " ".join(values(BUILD, "RUN"))
    assert f"python -m venv {target}" in install
    assert "[serve]" in install
    assert "teravec" in PROJECT["scripts"]


def test_the_build_gets_what_it_needs_and_nothing_else() -> None:
    taken = copied()
    assert all((ROOT / path).exists() for path in taken)
    for path in (PROJECT["readme"], *PROJECT["license-files"], "setup.py", "requirements.lock"):
        assert path in taken
        assert not ignored(path)
    sources = [p.relative_to(ROOT) for p in (ROOT / "src" / "teravec").rglob("*") if p.is_file()]
    names = {str(path): ignored(str(path)) for path in sources}
    kept = {name for name, left_out in names.items() if not left_out}
    assert all(Path(name).suffix not in (".so", ".pyc") for name in kept)
    left = {Path(name).suffix for name, left_out in names.items() if left_out}
    assert left <= {".so", ".pyc"}
    assert {".py", ".c", ".h", ".html", ".css", ".js", ".typed"} <= {
        Path(name).suffix or Path(name).name for name in kept
    }
    others = [".git/config", "tests/conftest.py", "benchmarks/soak.py", ".venv/bin/python", "x"]
    assert all(ignored(path) for path in others)


@pytest.mark.parametrize("extra", ["", "serve"])
def test_the_lock_pins_what_is_installed(extra: str) -> None:
    wanted = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = {canonicalize_name(name): pin for name, _, pin in (x.partition("==") for x in lines)}
    for requirement in map(Requirement, wanted):
        pin = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), requirement
