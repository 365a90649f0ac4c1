"""Zygote: the process that replicas are forked from. `tests.chaos.replicas` starts it.

It has imported the program and starts nothing, neither threads nor an event loop: what is forked
from it is a server process in milliseconds, where the imports alone take a second.
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
Ready = Callable[[str], None]
"""Called by a program with its address once it serves there."""
Program = Callable[[Options, Ready], Awaitable[None]]


def main() -> None:
    """Fork a replica for each line of JSON on standard input."""
    module, _, name = sys.argv[1].partition(":")
    program: Program = getattr(importlib.import_module(module), name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: their links tell
    gc.freeze()
    for line in sys.stdin.buffer:
        if os.fork() == 0:
            os.close(sys.stdin.fileno())
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _live(program, json.loads(line))


def _live(program: Program, order: dict[str, Any]) -> None:
    """Be a replica until the end of the process."""
    status = 1
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(order["link"])
            link.sendall(_line(number=order["number"], pid=os.getpid()))
            asyncio.run(_serve(program, order["options"], link))
            link.sendall(_line(ended=True))
        status = 0
    except Exception:  # noqa: BLE001  the end of the process, which tells why
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


async def _serve(program: Program, options: Options, link: socket.socket) -> None:
    # Nothing is ever sent to a replica: what is read is the end of the test.
    asyncio.get_running_loop().add_reader(link, os._exit, 1)

    def ready(address: str) -> None:
        link.sendall(_line(address=address))

    await program(options, ready)


def _line(**told: object) -> bytes:
    return json.dumps(told).encode() + b"\n"


if __name__ == "__main__":
    main()
