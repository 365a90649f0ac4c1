"""A server that shuts down while it answers a call: another replica continues the turn, and the
client gets the whole result."""

import asyncio
import json

from tests.plugins.channels.mcp.support import (
    LegacyClient,
    ModernClient,
    open_mcp_server,
    read_events,
)
from tests.server.web.live_server import TIMEOUT_SECONDS
from tests.server.web.test_shutdown import shutting_down

from palaver.testing import MemoryLedger


async def test_a_stream_follows_the_turn_to_its_end_at_another_replica() -> None:
    ledger = MemoryLedger()
    async with open_mcp_server(ledger=ledger, grace=120) as first:
        client = LegacyClient(first)
        await client.initialize()
        body = client.call_body("scripted", {"progressToken": 1}, text="x")
        async with client.open(body) as response:
            events = read_events(response)
            assert not (await anext(events))["data"]
            async with open_mcp_server(ledger=ledger) as other, shutting_down(first):
                other.scripted.emit("from the other")
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    last = [json.loads(event["data"]) async for event in events][-1]
    assert last["result"]["content"][0]["text"] == "from the other"


async def test_a_single_answer_follows_as_well() -> None:
    ledger = MemoryLedger()
    async with open_mcp_server(ledger=ledger, grace=120) as first:
        call = asyncio.create_task(
            ModernClient(first).call("scripted", {"progressToken": 1}, text="x")
        )
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not (await ledger.queue_depth()).running:  # noqa: ASYNC110  it sets no event
                await asyncio.sleep(0.01)
        async with open_mcp_server(ledger=ledger) as other, shutting_down(first):
            other.scripted.emit("from the other")
            answer = await call
    assert answer.text == "from the other"
