"""Redis goes away and comes back: what those who talk see of it, and what is kept.

Redis is killed with SIGKILL while replies are being written, and started again on its files.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
from click.testing import CliRunner
from tests.chaos.history import HistoryChecker
from tests.plugins.ledgers.redis_helpers import needs_redis, open_ledger, retry_until_available
from tests.plugins.ledgers.redis_load import LoadGenerator
from tests.plugins.ledgers.redis_server import RedisServer, run_redis
from tests.ports import free_port
from tests.proof_settings import short_or_long
from tests.server.web.live_server import LiveServer, WebSocketClient, eventually, open_live_server
from tests.server.web.test_api import MESSAGES

from palaver import Skill, Turn
from palaver.cli import main
from palaver.cli.console import EXIT_UNAVAILABLE
from palaver.messages import Conversation, Message
from palaver_plugins.ledgers.redis import RedisLedger, RedisLedgerSettings

pytestmark = needs_redis

SHORT, LONG = 1.0, float(short_or_long(4, 10))
"""Seconds: one outage that a turn sits out, and one in which it pauses and its lease lapses."""
CONVERSATIONS = 6


def reply_to(message: Message) -> str:
    return "".join(f"{message.text} {word} é😀 " for word in range(60))


class Narrator(Skill):
    """Say something for longer than it takes to kill a Redis."""

    name = "narrator"

    async def answer(self, turn: Turn) -> None:
        for word in reply_to(turn.message).split(" ")[:-1]:
            await turn.say(f"{word} ")
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def outage(server: RedisServer, seconds: float) -> AsyncIterator[None]:
    """Redis is killed; at the end, and not before so many ``seconds``, it is there again."""
    await asyncio.to_thread(server.kill)
    began = time.monotonic()
    yield
    await asyncio.sleep(began + seconds - time.monotonic())
    await asyncio.to_thread(server.start)


@pytest.mark.parametrize("seconds", [SHORT, LONG])
async def test_replies_go_on_after_an_outage_on_the_same_sockets(seconds: float) -> None:
    checker = HistoryChecker(reply_to)
    async with run_redis() as server:
        ledger = RedisLedger(RedisLedgerSettings.model_validate({"url": server.url}))
        async with (
            open_live_server(ledger=ledger, skills=[Narrator()]) as live_server,
            contextlib.AsyncExitStack() as stack,
        ):
            clients = [
                await stack.enter_async_context(live_server.connect(f"t{number}"))
                for number in range(CONVERSATIONS)
            ]
            turns = [await _ask(client, checker, number) for number, client in enumerate(clients)]
            for client, turn in zip(clients, turns, strict=True):
                await client.wait_for_text(turn, " 3 ")
            async with outage(server, seconds):
                await _is_told_when_to_come_back(live_server, clients[0])
            await retry_until_available(ledger.queue_depth)
            await checker.wait_settled(ledger, timeout_seconds=20)
            for client, turn in zip(clients, turns, strict=True):
                assert await client.wait_for_reply(turn) == reply_to(
                    _message(clients.index(client))
                )
            await eventually(lambda: not live_server.server.readiness())
            findings = await checker.check(ledger)
            assert findings.is_clean, findings


def _message(number: int) -> Message:
    conversation = Conversation("default", "web", f"t{number}")
    return Message(conversation=conversation, id="m", person="ada", text=f"talk {number}:")


async def _ask(client: WebSocketClient, checker: HistoryChecker, number: int) -> str:
    message = _message(number)
    turn = await client.send_message(message.text, id=message.id, skill="narrator")
    checker.record_accepted(message, turn)
    return turn


async def _is_told_when_to_come_back(live_server: LiveServer, client: WebSocketClient) -> None:
    """Over HTTP and over a socket, which stays open."""
    async with live_server.session.post(
        live_server.url(MESSAGES), json={"text": "hello"}
    ) as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) >= 1
    await client.send({"type": "send", "id": "refused", "text": "hello"})
    refused = await client.wait_for("error", id="refused")
    assert refused["code"] == "ledger_unavailable"
    assert refused["retry_after"] >= 1


@pytest.mark.parametrize("seconds", [SHORT, LONG])
async def test_what_was_acknowledged_before_an_outage_is_answered_after_it(seconds: float) -> None:
    async with (
        asyncio.timeout(60),
        run_redis() as server,
        open_ledger(server.url, events_kept=1_000_000) as ledger,
    ):
        load = LoadGenerator(ledger)
        async with load.running():
            await load.wait_for_settled(50)
            async with outage(server, seconds):
                pass
            await load.wait_for_settled(50)
            server.pause()
            await load.wait_for_refusal()
            server.resume()
            await load.wait_for_settled(50)
        findings = await load.findings()
        assert findings.is_clean, findings


def test_a_server_does_not_start_without_its_redis_and_says_where_it_looked() -> None:
    port = free_port()
    flags = ("ledger.use=redis", f"ledger.redis.url=redis://:hunter2@127.0.0.1:{port}")
    words = [word for flag in flags for word in ("--set", flag)]
    result = CliRunner().invoke(main, [*words, "serve"])
    assert result.exit_code == EXIT_UNAVAILABLE
    assert f"palaver: Redis at 127.0.0.1:{port}: " in result.output
    assert "hunter2" not in result.output
