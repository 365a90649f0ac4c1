"""``palaver serve``: run the server until it is told to stop."""

import asyncio
import contextlib
import logging
import signal
import sys
from typing import TYPE_CHECKING

import click

from palaver.cli.console import Console

if TYPE_CHECKING:
    from palaver.server import Server


@click.command()
@click.option("--verbose", is_flag=True, help="Log what happens to each turn.")
@click.pass_obj
def serve(console: Console, verbose: bool) -> None:
    """Serve until SIGTERM or Ctrl-C; running turns may end first."""
    from palaver.app import build_server  # brings the web framework, which takes a moment

    configure_logging(logging.DEBUG if verbose else logging.INFO)
    asyncio.run(_serve(build_server(console.settings, console.registry)))


def configure_logging(level: int) -> None:
    """One line per record on standard error."""
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("gguf").setLevel(logging.WARNING)  # tells of every file that it writes


async def _serve(server: "Server") -> None:
    from palaver.app import listening

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    click.echo(f"Starting the engine {server.settings.engine.use!r} …", err=True)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(server)
        address = await stack.enter_async_context(listening(server))
        note = " (a small demonstration model)" if server.abilities.demonstration else ""
        click.echo(f"Palaver is at {address}  with the model {server.abilities.model!r}{note}")
        await stopped.wait()
        click.echo("Stopping; running turns may end first …", err=True)
