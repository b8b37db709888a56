"""docs/operating.md: every command is one that the programs understand, on names that exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import click
import pytest
import typer

from teravec.cli.main import app
from teravec.memory import MIB, parse_bytes
from teravec.serving.deploy.launch import ServeOptions
from teravec.serving.wire.security import Address
from tests.deploying.conftest import EXAMPLES, ROOT, documents
from tests.deploying.test_systemd import command_of, read

PAGE = (ROOT / "docs" / "operating.md").read_text()
ALERTS = EXAMPLES / "monitoring" / "alerts.yaml"


def commands() -> Iterator[list[str]]:
    """Every command of the page's shell blocks."""
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            words: list[str] = []
            for word in lexer:
                if word in ("|", "&&", ";"):
                    yield words
                    words = []
                else:
                    words.append(word)
            yield words


def of(program: str) -> list[list[str]]:
    return [words[1:] for words in commands() if words[0] == program]


def test_programs_are_known() -> None:
    checked = {"teravec", "kubectl", "systemctl", "curl", "journalctl", "rsync", "mv", "ln"}
    assert {words[0] for words in commands()} == checked | {"install", "openssl"}


@pytest.mark.parametrize("words", of("teravec"), ids=" ".join)
def test_teravec_understands(words: list[str]) -> None:
    group = typer.main.get_command(app)
    command = cast(click.Group, group).commands[words[0]]
    command.make_context(words[0], list(words[1:]), resilient_parsing=False)


@pytest.mark.parametrize("words", of("kubectl"), ids=" ".join)
def test_kubectl_names_objects_of_the_manifest(words: list[str]) -> None:
    manifest = documents(EXAMPLES / "kubernetes" / "teravec.yaml")
    names = {f"{each['kind'].lower()}/{each['metadata']['name']}" for each in manifest}
    text = (EXAMPLES / "kubernetes" / "teravec.yaml").read_text()
    for word in words:
        if re.fullmatch(r"(statefulset|deployment)/\S+", word):
            assert word in names
    if "INDEX=2026-11-27" in words:
        workloads = [each for each in manifest if each["kind"] in ("StatefulSet", "Deployment")]
        assert len([w for w in words if "/" in w]) == len(workloads)
        assert all("INDEX" in str(each) for each in workloads)
    for kind in ("secret generic", "configmap"):
        if kind.split()[0] in words:
            name = words[words.index(kind.split()[-1]) + 1]
            assert f"{kind} {name}" in text or f"configmap/{name}" in names
    assert "--namespace" in words or words[0] == "apply"


@pytest.mark.parametrize("words", [*of("systemctl"), *of("journalctl")], ids=" ".join)
def test_units_exist(words: list[str]) -> None:
    for word in words:
        if word.startswith("teravec-"):
            unit = re.sub(r"@\w+$", "@", word)
            assert (EXAMPLES / "systemd" / f"{unit}.service").exists()


@pytest.mark.parametrize("words", of("curl"), ids=" ".join)
def test_paths_are_served(words: list[str]) -> None:
    path = words[-1].partition(":7480")[2]
    assert f"GET {path}" in (ROOT / "docs" / "serving.md").read_text() or path == "/statistics"


def test_the_link_moves(tmp_path: Path) -> None:
    """A version is checked, renamed and linked by the very commands of the page."""
    (tmp_path / "2026-11-20").mkdir()
    (tmp_path / "2026-11-27.partial").mkdir()
    (tmp_path / "index").symlink_to("2026-11-20")
    ran = 0
    for words in commands():
        if words[0] in ("mv", "ln") and "/srv/teravec/" in " ".join(words):
            here = [word.replace("/srv/teravec", str(tmp_path)) for word in words]
            subprocess.run(here, check=True)
            ran += 1
    assert ran == 3
    assert (tmp_path / "index").readlink() == Path("2026-11-27")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2026-11-20", "2026-11-27", "index"]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    for name in ("tokens.new", "topology.json"):
        (tmp_path / name).write_text(name)
    group = subprocess.run(["id", "-gn"], capture_output=True, text=True, check=True).stdout.strip()
    for words in commands():
        if words[0] in ("install", "mv") and "/etc/teravec/" in " ".join(words):
            here = [w.replace("/etc/teravec", str(tmp_path / "etc")) for w in words]
            here = [group if w == "teravec" else w for w in here]
            (tmp_path / "etc").mkdir(exist_ok=True)
            subprocess.run(here, check=True, cwd=tmp_path)
    assert (tmp_path / "etc" / "tokens").read_text() == "tokens.new"
    assert (tmp_path / "etc" / "tokens").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "etc" / "topology.json").read_text() == "topology.json"


def test_headings_that_are_pointed_at_exist() -> None:
    headings = re.findall(r"^##+ (.*)$", PAGE, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
    pointed = set(re.findall(r"\]\(#([^)]+)\)", PAGE))
    assert pointed <= anchors


def test_alerts_are_those_of_the_rules() -> None:
    told = set(re.findall(r"Teravec[A-Z]\w+", PAGE))
    rules = {r["alert"] for g in documents(ALERTS)[0]["groups"] for r in g["rules"]}
    assert told == rules


def test_the_memory_that_it_adds_up(tmp_path: Path) -> None:
    """A search server's, and a coordinator's, beyond --memory; and the line of 24 GiB."""
    more = []
    for servers in (None, "127.0.0.1:1"):
        options = ServeOptions(
            tmp_path, servers=servers, memory_bytes=0x600000000, http=Address("127.0.0.1", 0)
        )
        more.append((sum(options.memory_bound.values()) - 0x600000000) // MIB)
        if servers is None:
            assert f"{sum(options.memory_bound.values()) // MIB:,} MiB: --memory 24,576" in PAGE
    assert f"plus {more[0]:,} MiB on a search server, and plus {more[1]:,} MiB on a" in PAGE
    for name in ("teravec-server@", "teravec-coordinator"):
        unit = EXAMPLES / "systemd" / f"{name}.service"
        memory = parse_bytes(command_of(unit)[command_of(unit).index("--memory") + 1])
        bound = memory // MIB + more[name == "teravec-coordinator"]
        assert f"{bound:,} MiB" in unit.read_text()
        assert int(read(unit)["Service"]["LimitNOFILE"]) >= 16384
