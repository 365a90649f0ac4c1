"""``palaver serve`` with the kit's parts; ``--hang``: its engine never closes.

At the end it prints how its interpreter was set.
"""

import argparse
import asyncio
import gc
import logging
import resource
import sys

from palaver.cli.logs import configure_logging
from palaver.cli.serve import run_server
from palaver.config.settings import RoutingSettings, ServerSettings, Settings
from palaver.server import Server
from palaver.skills import Skill
from palaver.testing import ListKnowledge, MemoryLedger, ScriptedEngine
from palaver.turns.turn import Turn


class Parrot(Skill):
    """Say one word."""

    name = "parrot"

    async def answer(self, turn: Turn) -> None:
        await turn.say("polly")


class Hanging(ScriptedEngine):
    async def close(self) -> None:
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hang", action="store_true")
    parser.add_argument("--grace", type=float, default=25.0)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--open-files", type=int, help="the limit on open files")
    arguments = parser.parse_args()
    configure_logging(logging.INFO)
    if arguments.open_files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (arguments.open_files, arguments.open_files))
    server = Server(
        Settings(
            server=ServerSettings(port=arguments.port, grace=arguments.grace),
            routing=RoutingSettings(default="parrot"),
        ),
        ledger=MemoryLedger(),
        engine=Hanging() if arguments.hang else ScriptedEngine(),
        knowledge=ListKnowledge(),
        skills={"parrot": Parrot()},
    )
    asyncio.run(run_server(server))
    is_frozen, interval = gc.get_freeze_count() > 10_000, sys.getswitchinterval()
    print(f"frozen={is_frozen} thresholds={gc.get_threshold()} switch={interval}")  # noqa: T201


if __name__ == "__main__":
    main()
