"""A server restarts in its place: also when it hangs, and not when it is stopped meanwhile."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

TIMEOUT_SECONDS = 60.0
HANGS = """
import asyncio, sys, time
from palaver.cli.serve import StopRequest

async def main():
    stop = StopRequest(grace=0.1)
    stop.command = [sys.executable, "-c", "import os; print('again', os.getpid())"]
    stop.restart()
    time.sleep(60)

import os
print("first", os.getpid(), flush=True)
asyncio.run(main())
"""
IS_STOPPED = """
import asyncio, os, signal
from palaver.cli.serve import StopRequest

async def main():
    stop = StopRequest(grace=60)
    stop.restart()
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(10):
        while stop.is_restart:
            await asyncio.sleep(0.01)
    stop.restart()
    print("restarts" if stop.is_restart else "stops", stop.requested.is_set())
    os._exit(0)

asyncio.run(main())
"""
COMMAND = """
import sys
from palaver.cli.serve import make_command
print(make_command(0, "http://[::1]:4711/")[-2:], make_command(80, "http://a:80/") == sys.orig_argv)
"""


def run(program: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_server_that_hangs_restarts_after_its_grace_with_the_same_process_id() -> None:
    first, again = run(HANGS)
    assert first.removeprefix("first ") == again.removeprefix("again ")


def test_a_signal_during_the_restart_stops_the_server() -> None:
    assert run(IS_STOPPED) == ["stops True"]


def test_a_port_that_was_any_free_one_stays() -> None:
    assert run(COMMAND) == ["['--port', '4711'] True"]
