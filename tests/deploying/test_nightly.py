"""examples/nightly: a job whose commands exist, and units that systemd accepts."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess

import typer
from typer.core import TyperGroup

from teravec.cli.main import app
from tests.deploying.conftest import EXAMPLES

FOLDER = EXAMPLES / "nightly"


def test_the_jobs_commands_and_options_exist() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    text = (FOLDER / "nightly.sh").read_text().replace("\\\n", " ")
    lines = [shlex.split(line) for line in text.splitlines() if line.startswith("teravec ")]
    assert [words[1] for words in lines] == ["add", "maintain", "vacuum"]
    for words in lines:
        known = {name for option in group.commands[words[1]].params for name in option.opts}
        assert {word for word in words if re.match("--?[a-z]", word)} <= known
    subprocess.run(["sh", "-n", FOLDER / "nightly.sh"], check=True)


def test_the_timer_starts_the_service_that_starts_the_job() -> None:
    service = (FOLDER / "teravec-nightly.service").read_text()
    assert (FOLDER / "teravec-nightly.timer").exists()
    assert "ExecStart=/opt/teravec/nightly.sh" in service
    assert "PGPASSFILE=%d/pgpass" in service
    if shutil.which("systemd-analyze"):
        timer = ["systemd-analyze", "calendar", "*-*-* 03:15"]
        subprocess.run(timer, check=True, capture_output=True)
