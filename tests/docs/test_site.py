"""The site is built without a warning: no dead link, no missing page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from website.blocks import ROOT


@pytest.mark.slow
def test_the_site_is_built(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        check=True,
    )
    commands = (tmp_path / "reference" / "commands.html").read_text()
    assert "--exclude-self" in commands
    python = (tmp_path / "reference" / "python.html").read_text()
    assert re.search(r'id="teravec[\w.]*\.build"', python)
    assert (tmp_path / "project" / "benchmarks" / "RESULTS.html").exists()
