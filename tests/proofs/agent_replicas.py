"""Program of a replica in the proof of agents."""

import dataclasses
from importlib.metadata import EntryPoint
from pathlib import Path

from tests.chaos.fork_server import OnReady, Options
from tests.proofs.agent_mutants import IDEMPOTENCY, install_mutant
from tests.proofs.agent_plugin import make_tools
from tests.proofs.replica_program import serve_until_terminated, tool_log

from palaver.plugins import ENTRY_POINT_GROUP, load_plugins

PROGRAM = "tests.proofs.agent_replicas:serve"
SETTINGS = {"routing": {"default": "task", "threshold": 1.0, "consult_engine": False}}
REGISTRY = load_plugins(
    [
        EntryPoint("ledger_redis", "palaver_plugins.ledgers.redis", ENTRY_POINT_GROUP),
        EntryPoint("channel_openai_api", "palaver_plugins.channels.openai_api", ENTRY_POINT_GROUP),
        EntryPoint("agents", "tests.proofs.agent_plugin", ENTRY_POINT_GROUP),
    ],
    strict=True,
)


async def serve(options: Options, on_ready: OnReady) -> None:
    """Run a replica until SIGTERM. ``mutant`` of the options is one of `agent_mutants.MUTANTS`."""
    mutant = options.get("mutant", "")
    if mutant:
        install_mutant(mutant)
    path = tool_log(Path(options["folder"]))
    tools = make_tools(path, all_idempotent=mutant == IDEMPOTENCY)
    registry = dataclasses.replace(REGISTRY, tools={tool.name: tool for tool in tools})
    await serve_until_terminated(options, registry, on_ready)
