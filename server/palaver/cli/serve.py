"""``palaver serve``: run the server until it is told to stop."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import click

from palaver.cli.console import Console

if TYPE_CHECKING:
    from palaver.server import Server

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_STOP_TIMEOUT = 75
"""EX_TEMPFAIL of sysexits.h: the server did not stop by itself within ``server.grace``."""


@click.command()
@click.option("--verbose", is_flag=True, help="Log what happens to each turn.")
@click.pass_obj
def serve(console: Console, verbose: bool) -> None:
    """Serve until SIGTERM or Ctrl-C; running turns may end first."""
    from palaver.app import build_server  # brings the web framework, which takes a moment

    configure_logging(logging.DEBUG if verbose else logging.INFO)
    asyncio.run(run_server(build_server(console.settings, console.registry)))


def configure_logging(level: int) -> None:
    """One line per record on standard error."""
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("gguf").setLevel(logging.WARNING)  # tells of every file that it writes


async def run_server(server: "Server") -> None:
    from palaver.app import listening

    stopped = stop_on_signal(server.settings.server.grace)
    click.echo(f"Starting the engine {server.settings.engine.use!r} …", err=True)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(server)
        address = await stack.enter_async_context(listening(server))
        note = " (a small demonstration model)" if server.engine_info.demonstration else ""
        click.echo(f"Palaver is at {address}  with the model {server.engine_info.model!r}{note}")
        await stopped.wait()
        click.echo("Stopping; running turns may end first. Again to end at once.", err=True)


def stop_on_signal(grace: float) -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT. The process ends at the second, or when ``grace`` seconds
    are over."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        stopped.set()
        for number in SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        # A thread: whatever hangs may have the event loop, or come after it.
        last_resort = threading.Timer(grace, _force_exit)
        last_resort.daemon = True
        last_resort.start()

    for number in SIGNALS:
        loop.add_signal_handler(number, stop)
    return stopped


def _force_exit() -> None:
    log.error("the server did not stop in time; it is ended, and its turns will be taken over")
    logging.shutdown()
    os._exit(EXIT_STOP_TIMEOUT)
