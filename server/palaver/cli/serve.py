"""``palaver serve``: run the server until SIGTERM or SIGINT."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import click

from palaver.cli.console import EXIT_STOP_TIMEOUT, Console, echo
from palaver.cli.logs import configure_logging, log_loop_error

if TYPE_CHECKING:
    from palaver.server import Server

log = logging.getLogger(__name__)

GC_THRESHOLDS = (700, 10, 100)
"""Those of `gc.set_threshold`. By default a full collection follows 70,000 more objects, which a
thousand new connections have."""
SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread must let another one use the interpreter."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@click.command()
@click.option("--host", help="Address to listen on, the same as --set server.host=HOST.")
@click.option("--port", help="Port to listen on, the same as --set server.port=PORT.")
@click.option("--verbose", is_flag=True, help="Log what happens to each turn.")
@click.pass_obj
def serve(console: Console, host: str | None, port: str | None, verbose: bool) -> None:
    """Serve until SIGTERM or Ctrl-C, then shut down gracefully."""
    from palaver.app import build_server
    from palaver.web.connections import raise_open_files_limit
    from palaver.web.listener import check_address  # imports the web framework, which is slow

    configure_logging(logging.DEBUG if verbose else logging.INFO)
    options = {"server.host": host, "server.port": port}
    console = console.override(*(f"{key}={value}" for key, value in options.items() if value))
    server = build_server(console.settings, console.registry)
    check_address(console.settings.server)
    raise_open_files_limit()
    asyncio.run(run_server(server))


async def run_server(server: "Server") -> None:
    """Start the server, serve its web interface, and shut down gracefully after a signal."""
    from palaver.web.listener import listening

    asyncio.get_running_loop().set_exception_handler(log_loop_error)
    stopped = stop_on_signal(server.settings.server.grace)
    ledger, engine = server.settings.ledger.use, server.settings.engine.use
    echo(f"Starting the ledger {ledger!r} and the engine {engine!r} …", err=True)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(server)
        address = await stack.enter_async_context(listening(server))
        tune_interpreter()
        note = " (a small demonstration model)" if server.engine_info.demonstration else ""
        echo(f"Palaver is at {address}  with the model {server.engine_info.model!r}{note}")
        await stopped.wait()
        echo("Stopping gracefully. Press Ctrl-C again to exit at once.", err=True)


def tune_interpreter() -> None:
    """Keep the event loop's thread responsive. Call it when everything has started.

    A full garbage collection stalls the loop for as long as it takes to visit every object. What
    the start has made stays until the end and is not visited again; of the rest, connections above
    all, little is garbage that only a full collection finds, so there are fewer of them.

    A thread that reads a long text would let the loop wait for the interpreter's lock after each
    system call, by default for 5 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_INTERVAL)


def stop_on_signal(grace: float) -> asyncio.Event:
    """Return an event that the first SIGTERM or SIGINT sets.

    The process exits at the second signal, or ``grace`` seconds after the first.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        stopped.set()
        for number in SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        # A thread, because the event loop may hang, or have ended.
        force_exit = threading.Timer(grace, _force_exit)
        force_exit.daemon = True
        force_exit.start()

    for number in SIGNALS:
        loop.add_signal_handler(number, stop)
    return stopped


def _force_exit() -> None:
    log.error("the server did not stop within server.grace; its turns are left to a takeover")
    logging.shutdown()
    os._exit(EXIT_STOP_TIMEOUT)
