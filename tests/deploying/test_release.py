"""The workflows that test and publish a release: they lint, and name what exists."""

from __future__ import annotations

import io
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from yamllint import linter
from yamllint.config import YamlLintConfig

from teravec.cli.main import app
from teravec.native import extensions
from tests.deploying.conftest import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _commands(workflow: Any) -> list[str]:
    steps = (step for job in workflow["jobs"].values() for step in job["steps"])
    return [step["run"] for step in steps if "run" in step]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_lint_and_run_targets_that_exist(path: Path) -> None:
    text = path.read_text()
    config = YamlLintConfig(file=str(ROOT / ".yamllint.yaml"))
    assert [str(problem) for problem in linter.run(io.StringIO(text), config, path.name)] == []
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    wanted = [word for run in _commands(workflow) for word in re.findall(r"\bmake (\S+)", run)]
    assert set(wanted) <= set(targets)
    uses = re.findall(r"uses: (\S+)", text)
    assert all(re.fullmatch(r"[\w/-]+@[\w./]+", each) for each in uses)


def test_wheels_are_built_for_the_oldest_python_and_tried() -> None:
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=").replace(".", "")
    settings = PROJECT["tool"]["cibuildwheel"]
    assert settings["build"].startswith(f"cp{oldest}-")
    kernels, selftest = settings["test-command"]
    assert "extensions" in kernels
    assert all(hasattr(extensions, name) for name in re.findall(r"\be\.(\w+)", kernels))
    assert selftest.split()[1] in {command.name for command in app.registered_commands}
