"""Ports for servers that tests start."""

import contextlib
import itertools
import os
import socket

FIRST, COUNT = 12_000, 18_000
"""Below the ports that systems give to connections (from 32,768), which come and go."""
_numbers = (FIRST + (os.getpid() * 101 + number) % COUNT for number in itertools.count())


def free_port() -> int:
    """Return a port that nobody uses, and that no other call in any process returns while this
    process runs."""
    for port in itertools.islice(_numbers, COUNT):
        with contextlib.suppress(OSError):
            _reserve(port)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


def _reserve(port: int) -> None:
    """Take a name that the kernel frees when the process ends. Raises `OSError` when another
    process has it."""
    reservation = socket.socket(socket.AF_UNIX)
    try:
        reservation.bind(f"\0palaver-test-port-{port}")
    except OSError:
        reservation.close()
        raise
    reservation.detach()
