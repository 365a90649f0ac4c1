"""Source: the A2A agents of the settings, each as one tool."""

import asyncio
import contextlib
import functools
from collections.abc import Mapping
from typing import Any

from palaver import (
    FindAddresses,
    LedgerUnavailable,
    RecordStore,
    SchemaTool,
    ToolContext,
    ToolFailed,
    find_addresses_by_system,
)
from palaver_plugins.tools.a2a.calls import delete_old
from palaver_plugins.tools.a2a.card import tool_name
from palaver_plugins.tools.a2a.connection import AgentConnection
from palaver_plugins.tools.a2a.settings import KIND, A2ASettings
from palaver_plugins.tools.pinned.definition import Definition
from palaver_plugins.tools.pinned.source import FIRST_DELAY, PINS_INTERVAL, PinnedSource

SWEEP_SECONDS = 600.0


class A2ASource(PinnedSource[AgentConnection]):
    """`ToolSource` of the agents of the settings."""

    def __init__(
        self,
        settings: A2ASettings,
        *,
        find_addresses: FindAddresses = find_addresses_by_system,
        first_delay: float = FIRST_DELAY,
        pins_interval: float = PINS_INTERVAL,
    ) -> None:
        super().__init__(KIND, settings.agents, pins_interval=pins_interval)
        self._agents = settings.agents
        self._find_addresses = find_addresses
        self._first_delay = first_delay

    async def start(self, records: RecordStore) -> None:
        await super().start(records)
        for name, program in self._programs.items():
            with contextlib.suppress(LedgerUnavailable):
                await program.connection.load_card()
                await self.take_definitions(name)
        self._tasks.append(asyncio.create_task(_sweep_forever(records)))

    async def approve(self, digests: Mapping[str, str]) -> None:
        await super().approve(digests)
        for program in self._programs.values():
            if any(each.name in digests for each in program.connection.definitions):
                await program.connection.keep_card()

    def may_offer(self, name: str) -> bool:
        return any(name == tool_name(agent) for agent in self._agents)

    def make_connection(self, name: str, records: RecordStore | None) -> AgentConnection:
        return AgentConnection(
            name,
            self._agents[name],
            records,
            on_card=functools.partial(self.take_definitions, name),
            find_addresses=self._find_addresses,
            first_delay=self._first_delay,
        )

    def make_tool(self, connection: AgentConnection, definition: Definition) -> SchemaTool:
        endpoint, calls = connection.endpoint, connection.calls

        async def call(arguments: Mapping[str, Any], context: ToolContext) -> str:
            if endpoint is None or calls is None:
                raise ToolFailed(f"The agent {connection.name!r} cannot be asked.")
            return await calls.ask(endpoint, arguments, context)

        return SchemaTool(
            function=call,
            name=definition.name,
            description=definition.description,
            schema=definition.schema,
            idempotent=True,  # the same call follows the same task
            read_only=definition.read_only,
            parallel=definition.read_only,
            untrusted=True,
            needs_approval=definition.needs_approval,
        )


async def _sweep_forever(records: RecordStore) -> None:
    while True:
        with contextlib.suppress(LedgerUnavailable):
            await delete_old(records)
        await asyncio.sleep(SWEEP_SECONDS)
