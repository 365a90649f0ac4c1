"""Function calls per turn by package: what the path of a message costs, without the clock's noise.

    python -m benchmarks.calls [--turns N] [--functions N]

A server of `benchmarks.servers` (memory ledger, a reply of 32 chunks that come together) runs under
cProfile while one websocket client in another process sends messages one after the other. Prints
JSON: calls per turn in all and by package, those of C functions under ``built-in``.
"""

import argparse
import asyncio
import cProfile
import json
import pstats
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import aiohttp

from benchmarks.servers import ReadyEngine, make_server
from palaver.testing import MemoryLedger
from palaver.web.listener import listening

WARM_UP = 50
"""Turns before the counting begins: the history is full and every metric has its children."""
PACKAGES = ("palaver", "palaver_skills", "palaver_plugins")


def package_of(path: str) -> str:
    """Return the package of a profiled function: ``palaver.turns``, ``asyncio``, ``built-in``, …"""
    if path.startswith(("~", "<")):
        return "built-in"
    parts = Path(path).with_suffix("").parts
    for root in PACKAGES:
        if root in parts:
            return ".".join((root, *parts[parts.index(root) + 1 :][:1]))
    for known in ("site-packages", "asyncio", "benchmarks"):
        if known in parts:
            at = parts.index(known)
            return parts[at + 1] if known == "site-packages" else known
    return "standard library"


def function_of(function: tuple[str, int, str]) -> str:
    path, line, name = function
    return f"{package_of(path)}: {name}" + (f" ({Path(path).name}:{line})" if line else "")


async def profile_turns(turns: int) -> pstats.Stats:
    """Return the profile of ``turns`` turns of a warm server."""
    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory() as folder:
        server = make_server(MemoryLedger(), ReadyEngine(ticks=False), Path(folder))
        async with server, listening(server) as address:
            client = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.calls", "--client", address),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(f"{WARM_UP}\n".encode())
            await client.stdout.readline()
            profile.enable()
            client.stdin.write(f"{turns}\n".encode())
            await client.stdout.readline()
            profile.disable()
            client.stdin.close()
            await client.wait()
    return pstats.Stats(profile)


def per_turn(
    stats: pstats.Stats, turns: int, group: Callable[[tuple[str, int, str]], str]
) -> dict[str, float]:
    """Return calls per turn by ``group`` of the function, the most first."""
    calls: Counter[str] = Counter()
    for function, (_, count, *_) in stats.stats.items():  # type: ignore[attr-defined]
        calls[group(function)] += count
    return {name: round(count / turns, 1) for name, count in calls.most_common()}


def measure(turns: int, functions: int = 0) -> dict[str, float]:
    """Return calls per turn in all, under ``total``, by package, and of the most called
    functions."""
    stats = asyncio.run(profile_turns(turns))
    packages = per_turn(stats, turns, lambda function: package_of(function[0]))
    most_called = list(per_turn(stats, turns, function_of).items())[:functions]
    return {"total": round(sum(packages.values()), 1), **packages, **dict(most_called)}


async def talk(address: str) -> None:
    """Send as many messages as each line of standard input says, each after the last reply."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(address + "ws", max_msg_size=0) as socket,
    ):
        await socket.send_json({"type": "hello", "thread": "calls", "person": "ada"})
        await socket.receive()
        number = 0
        while line := await asyncio.to_thread(sys.stdin.readline):
            for _ in range(int(line)):
                number += 1
                await socket.send_json(
                    {"type": "send", "id": str(number), "text": "hello there", "skill": "relay"}
                )
                while '"type":"finished"' not in await socket.receive_str():
                    pass
            sys.stdout.write("done\n")
            sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description="Count function calls per turn by package.")
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--functions", type=int, default=0, help="print so many functions as well")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client:
        asyncio.run(talk(arguments.client))
        return
    found = measure(arguments.turns, arguments.functions)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
