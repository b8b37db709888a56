"""The deployment examples are what the command and the topology reader understand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from teravec.cli.main import app
from teravec.serving.coordinator.topology import Topology

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def flags() -> set[str]:
    """Every option of ``teravec serve``."""
    shown = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    return set(re.findall(r"--[a-z][a-z-]+", shown))


def test_systemd(flags: set[str]) -> None:
    units = sorted((EXAMPLES / "systemd").glob("*.service"))
    assert len(units) == 2
    for unit in units:
        command = unit.read_text().split("ExecStart=")[1].split("ExecReload")[0]
        assert set(re.findall(r"--[a-z][a-z-]+", command)) <= flags
    assert len(Topology.read(EXAMPLES / "systemd" / "topology.json").entries) == 4


def test_kubernetes(flags: set[str], tmp_path: Path) -> None:
    documents: list[dict[str, Any]] = list(
        yaml.safe_load_all((EXAMPLES / "kubernetes" / "teravec.yaml").read_text())
    )
    (tmp_path / "t.json").write_text(documents[0]["data"]["topology.json"])
    assert len(Topology.read(tmp_path / "t.json").entries) == 4
    pods = [d["spec"]["template"]["spec"] for d in documents if "template" in d.get("spec", {})]
    assert len(pods) == 2
    for pod in pods:
        (container,) = pod["containers"]
        given = {a.split("=")[0] for a in container["args"] if a.startswith("--")}
        assert given <= flags
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]}
        drain = next(a for a in container["args"] if a.startswith("--drain="))
        assert pod["terminationGracePeriodSeconds"] > int(drain.split("=")[1])
