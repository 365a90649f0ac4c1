"""The command line: ``palaver COMMAND``."""

from pathlib import Path

import click

import palaver
from palaver.cli.chat import chat
from palaver.cli.check import check
from palaver.cli.console import CommandGroup, Console
from palaver.cli.deadletters import deadletters
from palaver.cli.models import models
from palaver.cli.people import erase, export
from palaver.cli.serve import serve
from palaver.cli.skills import skills
from palaver.cli.stop import stop

__all__ = ["main"]


@click.group(cls=CommandGroup)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Settings file (default: $PALAVER_CONFIG, else ./palaver.toml if there is one).",
)
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="One setting.")
@click.pass_context
def main(ctx: click.Context, config: Path | None, overrides: tuple[str, ...]) -> None:
    """A conversation server: skills as plugins, one shared engine, a durable ledger."""
    ctx.obj = Console(config, overrides)


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(palaver.__version__)


for command in (
    chat, check, deadletters, erase, export, models, serve, skills, stop, version
):  # fmt: skip
    main.add_command(command)
