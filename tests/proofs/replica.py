"""The program of a replica under proof: a real server, on Redis, until SIGTERM."""

import asyncio
import contextlib
import dataclasses
import logging
import signal
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from tests.chaos.fork_server import Options, Ready
from tests.proofs import tampering
from tests.proofs.witness import ring_into

from palaver.app import build_server
from palaver.config.settings import Settings
from palaver.plugins import ENTRY_POINT_GROUP, load_plugins
from palaver.web.listener import listening

PROGRAM = "tests.proofs.replica:serve"
REGISTRY = load_plugins(
    [
        EntryPoint("ledger_redis", "palaver_plugins.ledgers.redis", ENTRY_POINT_GROUP),
        EntryPoint("channel_openai_api", "palaver_plugins.channels.openai_api", ENTRY_POINT_GROUP),
        EntryPoint("witness", "tests.proofs.witness", ENTRY_POINT_GROUP),
    ],
    strict=True,
)


def options(folder: Path, url: str, **more: Any) -> dict[str, Any]:  # JSON values
    """What a replica is told: Redis's ``url``, and a folder for its data and the tool's effects.

    ``more``: ``settings`` (by section, over those here), ``redis`` (the ledger's), ``pace`` (of
    the engine) and ``tamper`` (the name of a rule that this replica's scripts break).
    """
    return {"folder": str(folder), "url": url, **more}


def settings(told: Options) -> Settings:
    """Replicas die far more often here than in life, so a turn gets many attempts."""
    chosen: dict[str, dict[str, Any]] = {  # settings by section
        "server": {"port": 0, "data": f"{told['folder']}/data"},
        "dispatch": {"lease": 1.5, "max_attempts": 50},
        "routing": {"default": "witness"},
        "channels": {"enabled": ["openai_api"]},
        "knowledge": {"use": "list"},
        "engine": {"use": "paced", "paced": {"pace": told.get("pace", 0.06)}},
        "ledger": {
            "use": "redis",
            "redis": {
                "url": told["url"],
                "events_kept": 1_000_000,
                "history_kept": 1_000_000,
                **told.get("redis", {}),
            },
        },
    }
    for section, values in told.get("settings", {}).items():
        chosen.setdefault(section, {}).update(values)
    return Settings.model_validate(chosen)


def effects(folder: Path) -> Path:
    """The file with a line for each time that the tool has run."""
    return folder / "effects"


async def serve(told: Options, ready: Ready) -> None:
    logging.basicConfig(
        level=logging.INFO,
        format=f"%(asctime)s {told['url']} %(process)d %(levelname)s %(message)s",
    )
    if broken := told.get("tamper"):
        tampering.break_rule(broken)
    tool = ring_into(effects(Path(told["folder"])))
    registry = dataclasses.replace(REGISTRY, tools={tool.name: tool})
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(build_server(settings(told), registry))
        ready(await stack.enter_async_context(listening(server)))
        await stopped.wait()
