"""Source: the tools of all MCP servers of the settings."""

import functools
from collections.abc import Mapping
from typing import Any

from palaver import (
    FindAddresses,
    RecordStore,
    SchemaTool,
    ToolContext,
    ToolFailed,
    find_addresses_by_system,
)
from palaver_plugins.tools.mcp.connection import ServerConnection
from palaver_plugins.tools.mcp.definitions import SEPARATOR
from palaver_plugins.tools.mcp.results import render
from palaver_plugins.tools.mcp.settings import KIND, McpSettings
from palaver_plugins.tools.pinned.definition import Definition
from palaver_plugins.tools.pinned.source import FIRST_DELAY, PINS_INTERVAL, PinnedSource


class McpSource(PinnedSource[ServerConnection]):
    """`ToolSource` of the MCP servers of the settings."""

    def __init__(
        self,
        settings: McpSettings,
        *,
        find_addresses: FindAddresses = find_addresses_by_system,
        first_delay: float = FIRST_DELAY,
        pins_interval: float = PINS_INTERVAL,
    ) -> None:
        super().__init__(KIND, settings.servers, pins_interval=pins_interval)
        self._servers = settings.servers
        self._find_addresses = find_addresses
        self._first_delay = first_delay

    def may_offer(self, name: str) -> bool:
        server, _, tool = name.partition(SEPARATOR)
        return bool(tool) and server in self._servers

    def make_connection(self, name: str, records: RecordStore | None) -> ServerConnection:
        return ServerConnection(
            name,
            self._servers[name],
            records,
            on_list=functools.partial(self.take_definitions, name),
            find_addresses=self._find_addresses,
            first_delay=self._first_delay,
        )

    def make_tool(self, connection: ServerConnection, definition: Definition) -> SchemaTool:
        limit = self._servers[connection.name].max_result_characters

        async def call(arguments: Mapping[str, Any], context: ToolContext) -> str:
            result = await connection.call(definition, dict(arguments))
            text = render(result, limit)
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
