"""A server whose engine answers so many people a second, in a process of its own.

    python -m tests.proofs.overload_server FOLDER [--unbounded]

``--unbounded``: it refuses nothing.
"""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

from tests.proofs.paced import PacedEngine

from palaver import Skill, Turn
from palaver.config.settings import AuthKey, Secret, Settings
from palaver.server import Server
from palaver.testing import ListKnowledge
from palaver.web.listener import listening
from palaver_plugins.ledgers.sqlite import SQLiteLedger, SQLiteLedgerSettings

TENANTS = ("red", "green", "blue", "white")
NOBODY = 10**9
LONGEST_WAIT = 2.5
UNBOUNDED: dict[str, Any] = {  # settings
    "admission": {
        "queue_tokens": NOBODY,
        "tenant_share": 1.0,
        "max_wait": NOBODY,
        "person": {"turns": NOBODY},
    },
    "dispatch": {"max_running": NOBODY, "turn_timeout": 3600.0},
    "engine": {"timeout": 3600.0},
}


class Relay(Skill):
    """Say what the engine says."""

    name = "relay"

    async def answer(self, turn: Turn) -> None:
        await turn.stream(turn.message.text)


def paced_engine() -> PacedEngine:
    return PacedEngine(slots=16, prefill=0.1, pace=0.05, words=7)


def ledger_in(folder: Path) -> SQLiteLedger:
    return SQLiteLedger(SQLiteLedgerSettings(), folder)


def settings(*, unbounded: bool) -> Settings:
    keys = {
        tenant: AuthKey(secret=Secret(f"env:KEY_{tenant.upper()}"), tenant=tenant)
        for tenant in TENANTS
    }
    bounded = {"admission": {"max_wait": LONGEST_WAIT}}
    return Settings.model_validate(
        {"server": {"port": 0}, "auth": {"keys": keys}, "routing": {"default": "relay"}}
        | (UNBOUNDED if unbounded else bounded)
    )


async def serve(folder: Path, *, unbounded: bool) -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    server = Server(
        settings(unbounded=unbounded),
        ledger=ledger_in(folder),
        engine=paced_engine(),
        knowledge=ListKnowledge(),
        skills={"relay": Relay()},
    )
    async with server, listening(server) as address:
        sys.stdout.write(address + "\n")
        sys.stdout.flush()
        await told.wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), unbounded="--unbounded" in sys.argv))
