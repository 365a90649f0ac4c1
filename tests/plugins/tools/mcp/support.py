"""MCP servers for tests, and a source that is connected to them."""

import contextlib
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from palaver import FindAddresses, find_addresses_by_system
from palaver.ledger import Ledger
from palaver.testing import MemoryLedger
from palaver_plugins.tools.mcp.settings import McpSettings
from palaver_plugins.tools.mcp.source import McpSource

HERE = Path(__file__).parent
Json = Any  # JSON values
CONTEXT: Any = None  # the tools of MCP servers do not look at it


def friendly(tmp_path: Path, **settings: Any) -> dict[str, Any]:
    """Return the settings of a real server by stdio."""
    env = {"EFFECTS": str(tmp_path / "effects"), **settings.pop("env", {})}
    program = str(HERE / "friendly_server.py")
    return {"command": sys.executable, "args": [program], "env": env, **settings}


def effects(tmp_path: Path) -> list[str]:
    path = tmp_path / "effects"
    return path.read_text().split() if path.exists() else []


def tool(name: str, description: str = "A tool.", **about: Any) -> dict[str, Any]:
    """Return a definition as a server lists it."""
    schema = {"type": "object", "properties": {}}
    return {"name": name, "description": description, "inputSchema": schema, **about}


class Hostile:
    """A server by stdio that misbehaves, and can be told so while it runs."""

    def __init__(self, tmp_path: Path, *names: str, **configuration: Any) -> None:
        self._path = tmp_path / "hostile.json"
        self.configuration = {"tools": [tool(name) for name in names], **configuration}
        self.write()

    def write(self, **changes: Any) -> None:
        self.configuration |= changes
        self._path.write_text(json.dumps(self.configuration), encoding="utf-8")

    def settings(self, **settings: Any) -> dict[str, Any]:
        program = str(HERE / "hostile_server.py")
        return {"command": sys.executable, "args": [program, str(self._path)], **settings}

    @property
    def deaths(self) -> int:
        path = self._path.with_suffix(".calls")
        return len(path.read_text().split()) if path.exists() else 0


def make_source(
    servers: Mapping[str, Any], *, find_addresses: FindAddresses = find_addresses_by_system
) -> McpSource:
    settings = McpSettings.model_validate({"servers": servers})
    return McpSource(settings, find_addresses=find_addresses, first_delay=0.05, pins_interval=0.05)


@contextlib.asynccontextmanager
async def running_source(
    servers: Mapping[str, Any],
    *,
    ledger: Ledger | None = None,
    is_approved: bool = True,
    find_addresses: FindAddresses = find_addresses_by_system,
) -> AsyncIterator[McpSource]:
    """Run a source that has tried to connect; unless said otherwise, all its tools are approved."""
    source, records = make_source(servers, find_addresses=find_addresses), ledger or MemoryLedger()
    await source.start(records)
    try:
        await source.connected()
        if is_approved:
            await approve_all(source)
        yield source
    finally:
        await source.close()


async def approve_all(source: McpSource) -> None:
    await source.approve({each.name: each.digest for each in source.offered() if not each.problem})


async def call(source: McpSource, name: str, **arguments: Json) -> str:
    """Call a tool as a turn does."""
    tool = source.tools[name]
    return await tool.run(tool.validate(arguments), CONTEXT)


def states(source: McpSource) -> Sequence[tuple[str, str]]:
    return [(each.name, each.state) for each in source.offered()]
