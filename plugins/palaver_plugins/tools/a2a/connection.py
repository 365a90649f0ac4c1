"""AgentConnection: looks at the card of an agent in the background, and asks the agent."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable

import msgspec

from palaver import (
    Conflict,
    FindAddresses,
    OutboundClient,
    OutboundError,
    PalaverError,
    RecordStore,
    ToolFailed,
    encode,
)
from palaver_plugins.tools.a2a.calls import AgentCalls
from palaver_plugins.tools.a2a.card import Endpoint, decode_card, find_endpoint, read_definition
from palaver_plugins.tools.a2a.client import AgentClient, AgentError
from palaver_plugins.tools.a2a.settings import RECORDS, AgentSettings
from palaver_plugins.tools.a2a.shapes import AgentCard
from palaver_plugins.tools.pinned.definition import Definition
from palaver_plugins.tools.pinned.source import MAX_DELAY
from palaver_plugins.tools.pinned.texts import clean_line

MAX_PROBLEM_CHARACTERS = 2_000
log = logging.getLogger(__name__)


class AgentConnection:
    """`Connection` to an agent. ``calls`` is None without records."""

    def __init__(
        self,
        name: str,
        settings: AgentSettings,
        records: RecordStore | None,
        *,
        on_card: Callable[[], Awaitable[None]],
        find_addresses: FindAddresses,
        first_delay: float,
    ) -> None:
        self.name = name
        self.definitions: tuple[Definition, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.problem = "its card is not read yet"
        self.description = ""
        self.endpoint: Endpoint | None = None
        self.calls = AgentCalls(name, settings, self._connect, records) if records else None
        self._settings = settings
        self._records = records
        self._on_card = on_card
        self._find_addresses = find_addresses
        self._first_delay = first_delay
        self._card: AgentCard | None = None
        self._client: asyncio.Future[AgentClient] = asyncio.get_running_loop().create_future()
        self._has_tried = asyncio.Event()

    async def run_forever(self) -> None:
        outbound = OutboundClient(
            allowed_networks=self._settings.allowed_networks,
            timeout=self._settings.timeout,
            find_addresses=self._find_addresses,
        )
        try:
            async with outbound:
                try:
                    await self._read_forever(outbound)
                finally:
                    if self.calls:
                        await self.calls.close()
        finally:
            self._has_tried.set()

    async def connected(self) -> None:
        await self._has_tried.wait()

    async def _connect(self) -> AgentClient:
        """Return the client when there is one. Raises `ToolFailed`."""
        try:
            async with asyncio.timeout(self._settings.timeout):
                return await asyncio.shield(self._client)
        except TimeoutError:
            raise ToolFailed(f"The agent {self.name!r} is not asked: {self.problem}") from None

    async def _read_forever(self, outbound: OutboundClient) -> None:
        delay = self._first_delay
        while True:
            try:
                await self._read(outbound)
                self.problem, delay = "", self._first_delay
                pause = self._settings.refresh
            except (OutboundError, AgentError, PalaverError) as error:
                self._note(clean_line(str(error), MAX_PROBLEM_CHARACTERS))
                pause, delay = delay * random.uniform(0.5, 1.0), min(2 * delay, MAX_DELAY)
            self._has_tried.set()
            await asyncio.sleep(pause)

    def _note(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("the card of the A2A agent %s is not read: %s", self.name, problem)
        self.problem = problem

    async def _read(self, outbound: OutboundClient) -> None:
        settings = self._settings
        if not self._client.done():
            token = await asyncio.to_thread(settings.token.reveal) if settings.token else ""
            self._client.set_result(
                AgentClient(
                    outbound, token, timeout=settings.timeout, max_bytes=settings.max_message_bytes
                )
            )
        client = self._client.result()
        card = await client.read_card(settings.url)
        endpoint = find_endpoint(card, settings.url)
        if card.capabilities.extended_agent_card and settings.token and endpoint:
            card = await client.read_extended_card(endpoint)
        self._use(card)
        await self._on_card()

    def _use(self, card: AgentCard) -> None:
        self._card = card
        self.endpoint = find_endpoint(card, self._settings.url)
        self.definitions = (read_definition(self.name, self._settings, card),)
        self.description = clean_line(card.name, 100) or "an agent"

    # The card that was approved: a server that has just started goes on with calls at once

    async def keep_card(self) -> None:
        """Store the card. Raises `LedgerUnavailable`."""
        assert self._records is not None
        assert self._card is not None
        record = await self._records.read_record(RECORDS, self._key)
        with contextlib.suppress(Conflict):  # another server stores it
            await self._records.write_record(
                RECORDS, self._key, encode(self._card), expect=record.version if record else 0
            )

    async def load_card(self) -> None:
        """Use the stored card until the agent has shown its own. Raises `LedgerUnavailable`."""
        assert self._records is not None
        record = await self._records.read_record(RECORDS, self._key)
        if record is not None and self._card is None:
            with contextlib.suppress(msgspec.DecodeError):  # another version has stored it
                self._use(decode_card(record.value))

    @property
    def _key(self) -> str:
        return f"card:{self.name}"
