"""The ``teravec`` command."""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from teravec.cli.advise_command import add_advise_command
from teravec.cli.build_commands import add_build_commands
from teravec.cli.calibrate_command import add_calibrate_command
from teravec.cli.change_commands import add_change_commands
from teravec.cli.device_commands import add_device_commands
from teravec.cli.duplicates_command import add_duplicates_command
from teravec.cli.inspect_commands import add_inspect_commands
from teravec.cli.options import Json
from teravec.cli.plan_command import add_plan_command
from teravec.cli.row_commands import add_row_commands
from teravec.cli.running import NO_READER, Verbose, command, print_json, reporting, write_whole
from teravec.cli.search_commands import add_search_commands
from teravec.cli.selftest_command import add_selftest_command
from teravec.cli.serve_commands import add_serve_commands
from teravec.cli.slurm_command import add_slurm_command
from teravec.storage.standard_streams import open_streams

__all__ = ["app", "run"]

app = typer.Typer(
    name="teravec",
    help="Build, search, serve and check inverted-file vector indexes that live on disk.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"teravec {version('teravec')}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Verbose = False,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    # Silence gRPC's own lines, several for each failed handshake; our errors give the reason.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.basicConfig(format="teravec: %(message)s", level=logging.WARNING)
    logging.getLogger("teravec").setLevel(logging.INFO if verbose else logging.WARNING)


add_build_commands(app)
add_calibrate_command(app)
add_change_commands(app)
add_search_commands(app)
add_row_commands(app)
add_duplicates_command(app)
add_inspect_commands(app)
add_device_commands(app)
add_serve_commands(app)
add_advise_command(app)
add_plan_command(app)
add_selftest_command(app)
add_slurm_command(app)


@command(app, "version")
def _show_version(json: Json = False) -> None:
    """Show the version."""
    if json:
        print_json({"version": version("teravec")})
    else:
        print(f"teravec {version('teravec')}")


def run() -> None:
    """Run the command line."""
    open_streams()
    write_whole()
    try:
        with reporting():  # for errors outside of commands, such as in --help
            try:
                app()
            finally:
                if type(sys.stdout).__name__ == "PacifyFlushWrapper":  # typer met a closed pipe
                    raise typer.Exit(NO_READER)
                sys.stdout.flush()
    except typer.Exit as end:
        sys.exit(end.exit_code)


if __name__ == "__main__":
    run()
