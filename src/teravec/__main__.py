"""``python -m teravec``."""

from teravec.cli.main import run

run()
