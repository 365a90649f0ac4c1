"""``palaver serve``: run the server until SIGTERM or SIGINT."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

import click

from palaver.cli.console import EXIT_STOP_TIMEOUT, Console, echo, find_launch
from palaver.cli.logs import configure_logging, log_loop_error
from palaver.models.choices import Launch
from palaver.models.setup_job import ModelSetup

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
    if command := asyncio.run(run_server(server, find_launch(console))):
        restart_process(command)


async def run_server(server: "Server", launch: Launch | None = None) -> list[str]:
    """Start the server, serve its web interface, and shut down gracefully after a signal.

    Return the command with which this process is to start again, and nothing when it is to end.
    With ``launch``, the server can connect another model and start again with it.
    """
    from palaver.web.listener import listening

    asyncio.get_running_loop().set_exception_handler(log_loop_error)
    stop = StopRequest(server.settings.server.grace)
    server.model_setup = ModelSetup(launch, stop.restart) if launch else None
    ledger, engine = server.settings.ledger.use, server.settings.engine.use
    echo(f"Starting the ledger {ledger!r} and the engine {engine!r} …", err=True)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(server)
        if server.model_setup:
            stack.push_async_callback(server.model_setup.close)
        address = await stack.enter_async_context(listening(server))
        stop.command = make_command(server.settings.server.port, address)
        tune_interpreter()
        others = "".join(f", {name!r}" for name in server.settings.engine.models)
        echo(f"Palaver is at {address}  with the model {server.engine_info.model!r}{others}")
        if server.engine_info.demonstration:
            echo(
                "It is a small demonstration. Connect a real model there, or: palaver models setup"
            )
        await stop.requested.wait()
        doing = "Restarting" if stop.is_restart else "Stopping"
        echo(f"{doing} gracefully. Press Ctrl-C again to exit at once.", err=True)
    return stop.command if stop.is_restart else []


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


class StopRequest:
    """The request to stop, by SIGTERM or SIGINT, or to restart, by the server itself.

    The process exits, or starts again, after ``grace`` seconds in any case; a second signal ends
    it.
    """

    def __init__(self, grace: float) -> None:
        self.requested = asyncio.Event()
        self.is_restart = False
        self.command = sys.orig_argv
        self._loop = asyncio.get_running_loop()
        # A thread, because the event loop may hang, or have ended.
        self._force_end = threading.Timer(grace, self._end)
        self._force_end.daemon = True
        for number in SIGNALS:
            self._loop.add_signal_handler(number, self._stop)

    def restart(self) -> None:
        """Restart, unless the server stops already."""
        if not self.requested.is_set():
            self.is_restart = True
            self._request()

    def _stop(self) -> None:
        self.is_restart = False
        for number in SIGNALS:
            self._loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        if not self.requested.is_set():
            self._request()

    def _request(self) -> None:
        self.requested.set()
        self._force_end.start()

    def _end(self) -> None:
        if self.is_restart:
            log.error("the server did not stop within server.grace; it restarts nevertheless")
            restart_process(self.command)
        log.error("the server did not stop within server.grace; its turns are left to a takeover")
        logging.shutdown()
        os._exit(EXIT_STOP_TIMEOUT)


def make_command(port: int, address: str) -> list[str]:
    """Return the command that serves at the same address again, if the port was any free one."""
    taken = [] if port else ["--port", address.rstrip("/").rpartition(":")[2]]
    return [*sys.orig_argv, *taken]


def restart_process(command: list[str]) -> NoReturn:
    """Start a command in the place of this process, which keeps its id."""
    os.execv(sys.executable, [sys.executable, *command[1:]])
