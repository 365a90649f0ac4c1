"""Records of calls: what another replica may need, until it is a day old."""

import pytest
from tests.plugins.channels.mcp.support import LegacyClient, open_mcp_server

from palaver.testing import MemoryLedger
from palaver_plugins.channels.mcp.records import KEEP_SECONDS, SCOPE, CallRecords


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def test_what_is_older_than_a_day_is_deleted() -> None:
    clock = Clock()
    ledger = MemoryLedger(clock=clock)
    records = CallRecords(ledger)
    await records.note_call("session", 1, "old")
    await records.note_declined("message", 1, "decline")
    clock.now += KEEP_SECONDS / 2
    await records.note_call("session", "1", "young")
    clock.now += KEEP_SECONDS / 2 + 1
    await records.sweep()
    assert await records.find_call("session", 1) == ""
    assert await records.find_declined("message", 1) == ""
    assert await records.find_call("session", "1") == "young"


async def test_a_request_is_one_of_its_session() -> None:
    records = CallRecords(MemoryLedger())
    await records.note_call("session", 1, "first")
    await records.note_call("session", 1, "again")
    assert await records.find_call("session", 1) == "again"
    assert await records.find_call("session", "1") == ""
    assert await records.find_call("another", 1) == ""
    await records.forget_call("session", 1)
    await records.forget_call("session", 1)
    assert await records.find_call("session", 1) == ""


@pytest.mark.parametrize("skill", ["parrot", "clumsy"])
async def test_a_call_that_has_ended_leaves_no_record(skill: str) -> None:
    ledger = MemoryLedger()
    async with open_mcp_server(ledger=ledger) as live_server:
        client = LegacyClient(live_server)
        await client.initialize()
        await client.call(skill, text="x")
        assert await ledger.list_records(SCOPE) == ()
