"""Program of a replica in a proof: a server on Redis that runs until SIGTERM."""

import asyncio
import contextlib
import dataclasses
import logging
import signal
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from tests.chaos.fork_server import OnReady, Options
from tests.proofs.mutants import install_mutant
from tests.proofs.reference_plugin import make_ring_tool

from palaver.app import build_server
from palaver.config.settings import Settings
from palaver.plugins import ENTRY_POINT_GROUP, PluginRegistry, load_plugins
from palaver.web.listener import listening

PROGRAM = "tests.proofs.replica_program:serve"
REGISTRY = load_plugins(
    [
        EntryPoint("ledger_redis", "palaver_plugins.ledgers.redis", ENTRY_POINT_GROUP),
        EntryPoint("channel_openai_api", "palaver_plugins.channels.openai_api", ENTRY_POINT_GROUP),
        EntryPoint("channel_agui", "palaver_plugins.channels.agui", ENTRY_POINT_GROUP),
        EntryPoint("channel_a2a", "palaver_plugins.channels.a2a", ENTRY_POINT_GROUP),
        EntryPoint("channel_mcp", "palaver_plugins.channels.mcp", ENTRY_POINT_GROUP),
        EntryPoint("reference", "tests.proofs.reference_plugin", ENTRY_POINT_GROUP),
    ],
    strict=True,
)


def make_options(folder: Path, url: str, **more: Any) -> dict[str, Any]:  # JSON values
    """Return the options of a replica with its files in ``folder`` and its Redis at ``url``.

    ``more``: ``settings`` (by section, over the defaults here), ``redis`` (of the ledger), ``pace``
    (seconds per word of the engine) and ``mutant`` (a name in `tests.proofs.mutants.MUTATIONS`).
    """
    return {"folder": str(folder), "url": url, **more}


def make_settings(options: Options) -> Settings:
    """Return the settings of a replica.

    ``dispatch.max_attempts`` is high because replicas are killed far more often than in production.
    """
    chosen: dict[str, dict[str, Any]] = {  # settings by section
        "server": {"port": 0, "data": f"{options['folder']}/data"},
        "dispatch": {"lease": 1.5, "max_attempts": 50},
        "routing": {"default": "reference"},
        "channels": {"enabled": ["openai_api"]},
        "knowledge": {"use": "list"},
        "engine": {"use": "paced", "paced": {"pace": options.get("pace", 0.06)}},
        "ledger": {
            "use": "redis",
            "redis": {
                "url": options["url"],
                "events_kept": 1_000_000,
                "history_kept": 1_000_000,
                **options.get("redis", {}),
            },
        },
    }
    for section, values in options.get("settings", {}).items():
        chosen.setdefault(section, {}).update(values)
    return Settings.model_validate(chosen)


def tool_log(folder: Path) -> Path:
    """Return the path of the file with one line per run of the tool."""
    return folder / "tool-log"


async def serve(options: Options, on_ready: OnReady) -> None:
    """Run a replica until SIGTERM."""
    if mutant := options.get("mutant"):
        install_mutant(mutant)
    tool = make_ring_tool(tool_log(Path(options["folder"])))
    registry = dataclasses.replace(REGISTRY, tools={tool.name: tool})
    await serve_until_terminated(options, registry, on_ready)


async def serve_until_terminated(
    options: Options, registry: PluginRegistry, on_ready: OnReady
) -> None:
    """Run a server with these plugins until SIGTERM."""
    logging.basicConfig(
        level=logging.INFO,
        format=f"%(asctime)s {options['url']} %(process)d %(levelname)s %(message)s",
    )
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(build_server(make_settings(options), registry))
        on_ready(await stack.enter_async_context(listening(server)))
        await terminated.wait()
