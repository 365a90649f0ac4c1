"""While the ledger is unavailable, connections stay open and refusals have Retry-After."""

from typing import cast

import pytest
from tests.server.turns.test_ledger_unavailable import Link
from tests.server.web.live_server import eventually, open_live_server
from tests.server.web.test_api import MESSAGES

from palaver.ledger import Ledger
from palaver.testing import MemoryLedger

pytestmark = pytest.mark.slow


async def test_refusals_have_retry_after_and_websockets_stay_open() -> None:
    link = Link(MemoryLedger())
    async with (
        open_live_server(ledger=cast(Ledger, link)) as live_server,
        live_server.connect("t") as client,
    ):
        link.cut = True
        await client.send({"type": "send", "id": "m", "text": "hello"})
        refused = await client.wait_for("error", id="m")
        assert (refused["code"], refused["retry_after"]) == ("ledger_unavailable", 2)
        async with live_server.session.post(
            live_server.url(MESSAGES), json={"text": "hello"}
        ) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "2")
        await eventually(lambda: "ledger" in live_server.server.readiness())
        assert (await live_server.get("/readyz"))[0] == 503
        link.cut = False
        turn = await client.send_message("hello", id="m")
        assert await client.wait_for_reply(turn) == "hello "
        await eventually(lambda: not live_server.server.readiness())
