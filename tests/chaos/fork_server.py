"""Fork server: the process from which `tests.chaos.replicas` forks replicas.

It has imported the program and runs neither threads nor an event loop. A forked replica starts in
milliseconds; the imports alone would take a second.
"""

import asyncio
import gc
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Options = Mapping[str, Any]  # JSON values
OnReady = Callable[[str], None]
"""Called by a program with the address at which it serves."""
Program = Callable[[Options, OnReady], Awaitable[None]]


def main() -> None:
    """Fork a replica for each line of JSON on standard input."""
    module, _, name = sys.argv[1].partition(":")
    program: Program = getattr(importlib.import_module(module), name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # exits are reported by the control sockets
    gc.freeze()
    for line in sys.stdin.buffer:
        if os.fork() == 0:
            os.close(sys.stdin.fileno())
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _run_replica(program, json.loads(line))


def _run_replica(program: Program, command: dict[str, Any]) -> None:
    """Run the program in this forked process, then exit."""
    status = 1
    try:
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(command["control_socket"])
            control.sendall(_status_line(number=command["number"], pid=os.getpid()))
            asyncio.run(_serve(program, command["options"], control))
            control.sendall(_status_line(exited_cleanly=True))
        status = 0
    except Exception:  # noqa: BLE001  the process ends here, so the traceback must be printed
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


async def _serve(program: Program, options: Options, control: socket.socket) -> None:
    # The test never writes to the control socket: it becomes readable when the test has ended.
    asyncio.get_running_loop().add_reader(control, os._exit, 1)

    def on_ready(address: str) -> None:
        control.sendall(_status_line(address=address))

    await program(options, on_ready)


def _status_line(**status: object) -> bytes:
    return json.dumps(status).encode() + b"\n"


if __name__ == "__main__":
    main()
