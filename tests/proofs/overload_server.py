"""A server with an engine of known capacity, in a process of its own.

    python -m tests.proofs.overload_server FOLDER [--unbounded]

``--unbounded``: admission control is off.
"""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

from tests.proofs.engine_skill import EngineSkill
from tests.proofs.paced_engine import PacedEngine

from palaver.config.settings import AuthKey, Secret, Settings
from palaver.server import Server
from palaver.testing import ListKnowledge
from palaver.web.listener import listening
from palaver_plugins.ledgers.sqlite import SQLiteLedger, SQLiteLedgerSettings

TENANTS = ("red", "green", "blue", "white")
UNLIMITED = 10**9
MAX_WAIT_SECONDS = 2.5
UNBOUNDED: dict[str, Any] = {  # settings
    "admission": {
        "queue_tokens": UNLIMITED,
        "tenant_share": 1.0,
        "max_wait": UNLIMITED,
        "person": {"turns": UNLIMITED},
    },
    "dispatch": {"max_running": UNLIMITED, "turn_timeout": 3600.0},
    "engine": {"timeout": 3600.0},
}


def make_engine() -> PacedEngine:
    return PacedEngine(slots=16, first_word_seconds=0.1, word_seconds=0.05, mean_words=7)


def ledger_in(folder: Path) -> SQLiteLedger:
    return SQLiteLedger(SQLiteLedgerSettings(), folder)


def settings(*, unbounded: bool) -> Settings:
    keys = {
        tenant: AuthKey(
            secret=Secret(f"env:KEY_{tenant.upper()}"),
            tenant=tenant,
            rights=("talk", "read", "metrics", "impersonate"),
        )
        for tenant in TENANTS
    }
    bounded = {"admission": {"max_wait": MAX_WAIT_SECONDS}}
    return Settings.model_validate(
        {"server": {"port": 0}, "auth": {"keys": keys}, "routing": {"default": EngineSkill.name}}
        | (UNBOUNDED if unbounded else bounded)
    )


async def serve(folder: Path, *, unbounded: bool) -> None:
    """Serve until SIGTERM; the address is the only line on standard output."""
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    server = Server(
        settings(unbounded=unbounded),
        ledger=ledger_in(folder),
        engine=make_engine(),
        knowledge=ListKnowledge(),
        skills={EngineSkill.name: EngineSkill()},
    )
    async with server, listening(server) as address:
        sys.stdout.write(address + "\n")
        sys.stdout.flush()
        await terminated.wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), unbounded="--unbounded" in sys.argv))
