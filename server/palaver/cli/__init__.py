"""The command line: ``palaver COMMAND``."""

import functools
import os
from pathlib import Path

import click

import palaver
from palaver.cli.channels import channels
from palaver.cli.chat import chat
from palaver.cli.check import check
from palaver.cli.console import CommandGroup, Console
from palaver.cli.data import data
from palaver.cli.deadletters import deadletters
from palaver.cli.evaluate import evaluate
from palaver.cli.feedback import feedback
from palaver.cli.healthcheck import healthcheck
from palaver.cli.jobs import jobs
from palaver.cli.logs import logging_interpreter_errors
from palaver.cli.models import models
from palaver.cli.models_setup import setup
from palaver.cli.people import erase, export
from palaver.cli.serve import serve
from palaver.cli.skills import skills
from palaver.cli.stop import stop
from palaver.private_files import set_private_umask

__all__ = ["main"]


@click.group(cls=CommandGroup)
@click.option(
    "--config",
    "settings_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Settings file (default: $PALAVER_CONFIG, else ./palaver.toml if it exists).",
)
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="One setting.")
@click.version_option(palaver.__version__, prog_name="palaver", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context, settings_path: Path | None, overrides: tuple[str, ...]) -> None:
    """Run and administer Palaver, a conversation server."""
    ctx.call_on_close(functools.partial(os.umask, set_private_umask()))
    ctx.with_resource(logging_interpreter_errors())
    ctx.obj = Console(settings_path, overrides)


COMMANDS = (
    channels,
    chat,
    check,
    data,
    deadletters,
    erase,
    evaluate,
    export,
    feedback,
    healthcheck,
    jobs,
    models,
    serve,
    skills,
    stop,
)
for command in COMMANDS:
    main.add_command(command)
models.add_command(setup)
