"""While the ledger is away connections stay open, and callers are told when to come back."""

from typing import cast

from tests.server.turns.test_ledger_unavailable import Link
from tests.server.web.house import eventually, open_house
from tests.server.web.test_api import MESSAGES

from palaver.ledger import Ledger
from palaver.testing import MemoryLedger


async def test_refusals_say_when_to_come_back_and_sockets_stay_open() -> None:
    link = Link(MemoryLedger())
    async with open_house(ledger=cast(Ledger, link)) as house, house.client("t") as wire:
        link.cut = True
        await wire.send({"type": "send", "id": "m", "text": "hello"})
        refused = await wire.until("error", id="m")
        assert (refused["code"], refused["retry_after"]) == ("ledger_unavailable", 2)
        async with house.session.post(house.url(MESSAGES), json={"text": "hello"}) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "2")
        await eventually(lambda: "ledger" in house.server.readiness())
        assert (await house.get("/readyz"))[0] == 503
        link.cut = False
        turn = await wire.say("hello", id="m")
        assert await wire.finish(turn) == "hello "
        await eventually(lambda: not house.server.readiness())
