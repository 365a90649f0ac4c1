"""Source: the tools of all MCP servers of the settings, those that an operator has approved."""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from palaver import (
    Conflict,
    FindAddresses,
    LedgerUnavailable,
    NotFound,
    OfferedTool,
    RecordStore,
    SchemaTool,
    ToolContext,
    ToolFailed,
    find_addresses_by_system,
)
from palaver_plugins.tools.mcp.connection import FIRST_DELAY, ServerConnection, connecting
from palaver_plugins.tools.mcp.definitions import Definition
from palaver_plugins.tools.mcp.pins import Pins
from palaver_plugins.tools.mcp.results import render
from palaver_plugins.tools.mcp.settings import McpServerSettings, McpSettings

PINS_INTERVAL = 5.0
"""Seconds between two looks at the pins, which another replica or a command may change."""

log = logging.getLogger(__name__)


@dataclasses.dataclass(slots=True)
class _Server:
    """A server with the pins that were read last."""

    connection: ServerConnection
    pins: Pins
    settings: McpServerSettings
    approved: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reported: frozenset[str] = frozenset()
    """The digests of tools that the log has named, since they need approval."""

    def state(self, definition: Definition) -> str:
        if definition.problem:
            return "unusable"
        approved = self.approved.get(definition.tool)
        if approved is None:
            return "new"
        return "ready" if approved == definition.digest else "changed"


class McpSource:
    """`ToolSource` of the MCP servers of the settings."""

    def __init__(
        self,
        settings: McpSettings,
        *,
        find_addresses: FindAddresses = find_addresses_by_system,
        first_delay: float = FIRST_DELAY,
        pins_interval: float = PINS_INTERVAL,
    ) -> None:
        self._settings = settings
        self._find_addresses = find_addresses
        self._first_delay = first_delay
        self._pins_interval = pins_interval
        self._servers: dict[str, _Server] = {}
        self._tools: Mapping[str, SchemaTool] = MappingProxyType({})
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, records: RecordStore) -> None:
        for name, settings in self._settings.servers.items():
            self._servers[name] = _Server(
                self._connection(name, settings, records), Pins(records, name), settings
            )
        self._tasks = [
            asyncio.create_task(server.connection.run_forever())
            for server in self._servers.values()
        ]
        self._tasks.append(asyncio.create_task(self._read_pins_forever()))

    def _connection(
        self, name: str, settings: McpServerSettings, records: RecordStore | None
    ) -> ServerConnection:
        async def take_list() -> None:
            if name in self._servers:
                with contextlib.suppress(LedgerUnavailable):
                    await self._read_pins(self._servers[name])

        return ServerConnection(
            name,
            settings,
            records,
            on_list=take_list,
            find_addresses=self._find_addresses,
            first_delay=self._first_delay,
        )

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def connected(self) -> None:
        """Return when each server is connected, or an attempt has failed."""
        connections = (server.connection.connected() for server in self._servers.values())
        await asyncio.gather(*connections)

    # The pins

    async def _read_pins_forever(self) -> None:
        while True:
            await asyncio.sleep(self._pins_interval)
            for server in self._servers.values():
                with contextlib.suppress(LedgerUnavailable):
                    await self._read_pins(server)

    async def _read_pins(self, server: _Server) -> None:
        server.approved = await server.pins.read()
        self._report(server)
        self._rebuild()

    def _report(self, server: _Server) -> None:
        """Log once which tools need approval."""
        name, definitions = server.connection.name, server.connection.definitions
        for state, words in (("new", "are not approved"), ("changed", "have changed")):
            found = [each for each in definitions if server.state(each) == state]
            if {each.digest for each in found} - server.reported:
                tools = ", ".join(each.name for each in found[:10])
                log.warning(
                    "%d tools of the MCP server %s %s, so they are not used: %s%s; see: "
                    "palaver mcp approve %s",
                    len(found), name, words, tools, ", …" if len(found) > 10 else "", name,
                )  # fmt: skip
        server.reported |= {each.digest for each in definitions}

    def _rebuild(self) -> None:
        self._tools = MappingProxyType(
            {
                definition.name: self._make_tool(server, definition)
                for server in self._servers.values()
                for definition in server.connection.definitions
                if server.state(definition) == "ready"
            }
        )

    def _make_tool(self, server: _Server, definition: Definition) -> SchemaTool:
        async def call(arguments: Mapping[str, Any], context: ToolContext) -> str:
            result = await server.connection.call(definition, dict(arguments))
            text = render(result, server.settings.max_result_characters)
            if result.is_error:
                raise ToolFailed(text or "The tool failed and gave no reason.")
            return text

        return SchemaTool(
            function=call,
            name=definition.name,
            description=definition.description,
            schema=definition.schema,
            idempotent=definition.idempotent,
            read_only=definition.read_only,
            parallel=definition.read_only,
            untrusted=True,
            needs_approval=definition.needs_approval,
        )

    # `ToolSource`

    @property
    def tools(self) -> Mapping[str, SchemaTool]:
        return self._tools

    @property
    def problems(self) -> Sequence[str]:
        return [sentence for server in self._servers.values() for sentence in _problems_of(server)]

    def offered(self) -> Sequence[OfferedTool]:
        return [
            OfferedTool(
                name=definition.name,
                description=definition.description,
                state=server.state(definition),  # type: ignore[arg-type]
                digest=definition.digest,
                problem=definition.problem,
            )
            for server in self._servers.values()
            for definition in server.connection.definitions
        ]

    async def approve(self, digests: Mapping[str, str]) -> None:
        wanted = dict(digests)
        chosen: list[tuple[_Server, dict[str, str]]] = []
        for server in self._servers.values():
            found = {d.name: d for d in server.connection.definitions if not d.problem}
            own = {}
            for name in wanted.keys() & found.keys():
                if wanted[name] != found[name].digest:
                    raise Conflict(f"the definition of {name!r} has changed; look at it again")
                own[found[name].tool] = wanted.pop(name)
            chosen.append((server, own))
        if wanted:
            raise NotFound(f"no MCP server offers {min(wanted)[:100]!r} now, or it is unusable")
        for server, own in chosen:
            if own:
                await server.pins.approve(own)
                await self._read_pins(server)

    async def check(self) -> Sequence[str]:
        _, problems, _ = await self.inspect()
        return problems

    async def inspect(self) -> tuple[str, Sequence[str], Sequence[Definition]]:
        """Connect without starting; return what the servers are, what is wrong with them, and
        their tools."""
        found = [
            self._connection(name, settings, None)
            for name, settings in self._settings.servers.items()
        ]
        async with contextlib.AsyncExitStack() as stack:
            await asyncio.gather(
                *(stack.enter_async_context(connecting(connection)) for connection in found)
            )
            return (
                "; ".join(filter(None, (connection.description for connection in found))),
                [sentence for each in found for sentence in _connection_problems(each)],
                [definition for each in found for definition in each.definitions],
            )


def _problems_of(server: _Server) -> list[str]:
    name, problems = server.connection.name, _connection_problems(server.connection)
    states = [server.state(definition) for definition in server.connection.definitions]
    for state, words in (("new", "not approved"), ("changed", "changed since they were approved")):
        if count := states.count(state):
            problems.append(
                f"{count} tools of the server {name!r} are {words}, so they are not used; see: "
                f"palaver mcp approve {name}"
            )
    return problems


def _connection_problems(connection: ServerConnection) -> list[str]:
    sentences = [connection.problem] if connection.problem else []
    sentences += connection.notes
    sentences += [f"{each.name}: {each.problem}" for each in connection.definitions if each.problem]
    return [f"the server {connection.name!r}: {sentence}" for sentence in sentences]
