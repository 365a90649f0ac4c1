"""The times in a snapshot never go backwards, whatever the clock does."""

import pytest
from tests.server.web.live_server import open_live_server
from tests.server.web.test_api import MESSAGES

from palaver.exports import collect_export
from palaver.testing import MemoryLedger

pytestmark = pytest.mark.slow

SNAPSHOT = "/v1/conversations/t"


@pytest.mark.parametrize("step", [-3_600.0, -365 * 86_400.0, 7_200.0])
async def test_times_do_not_go_backwards_after_a_step_of_the_clock(step: float) -> None:
    wall, passed = [1_800_000_000.0], [0.0]
    ledger = MemoryLedger(clock=lambda: wall[0], monotonic=lambda: passed[0])
    async with open_live_server(ledger=ledger) as live_server:
        for text in ("one", "two", "three"):
            sent = {"text": text, "person": "ada"}
            assert (await live_server.post(f"{MESSAGES}?wait=true", sent))[0] == 200
            wall[0] += 10.0 + (step if text == "one" else 0.0)
            passed[0] += 10.0
        _, body = await live_server.get(SNAPSHOT, params={"person": "ada"})
        await live_server.post(f"{MESSAGES}?wait=true", {"text": "four", "person": "ada"})
        stored = (await collect_export(ledger.export("default", "ada"))).conversations
    history = body["snapshot"]["history"]
    times = [entry["at"] for entry in history]
    assert [entry["text"] for entry in history][::2] == ["one", "two", "three"]
    assert times == sorted(times)
    (entries,) = stored.values()
    assert (entries[-1].at < times[0]) is (step < 0), "the export has the times as they were"
