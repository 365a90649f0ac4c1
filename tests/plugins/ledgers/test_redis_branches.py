"""Branches in Redis: what is trimmed from the history leaves nothing behind."""

import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from tests.plugins.ledgers.redis_helpers import (
    CONVERSATION,
    answer_turn,
    make_message,
    needs_redis,
    open_ledger,
    raw_client,
)
from tests.plugins.ledgers.redis_server import redis_server

from palaver.conversations import Share
from palaver.errors import NotFound
from palaver.feedback import Feedback, FeedbackFilter
from palaver_plugins.ledgers.redis import RedisLedger

pytestmark = needs_redis

KEPT = 10


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with redis_server() as address:
        yield address


async def say(ledger: RedisLedger, text: str, after: str | None = None) -> str:
    message = msgspec.structs.replace(make_message(text), after=after)
    receipt = await ledger.accept(message)
    await answer_turn(ledger, f"re {text}")
    return receipt.turn


async def stored(url: str, suffix: str) -> Any:
    """Return the hash with that suffix, ':v' or ':f' of the conversation."""
    async with raw_client(url) as client:
        (key,) = [*await client.keys(f"*{CONVERSATION}{suffix}"), None][:1]
        return await client.hgetall(key) if key else {}


async def texts(ledger: RedisLedger) -> list[str]:
    return [entry.text for entry in (await ledger.snapshot(CONVERSATION, 100)).history]


async def test_trimmed_turns_leave_no_branches_behind(url: str) -> None:
    async with open_ledger(url, history_kept=KEPT) as ledger:
        a = await say(ledger, "a")
        for number in range(20):
            await say(ledger, f"b{number}", after=a if number < 4 else "")
            assert len(await stored(url, ":v")) < KEPT
            assert len(await stored(url, ":f")) <= KEPT
        for number in range(KEPT):
            await say(ledger, f"c{number}")
        assert await stored(url, ":v") == {}
        assert len(await stored(url, ":f")) <= 1  # the place of the last alternative
        assert (await ledger.snapshot(CONVERSATION, 0)).alternatives == ()


async def test_what_follows_a_trimmed_alternative_can_be_selected(url: str) -> None:
    async with open_ledger(url, history_kept=KEPT) as ledger:
        a = await say(ledger, "a")
        b = await say(ledger, "b", after=a)
        c = await say(ledger, "c")
        d = await say(ledger, "d", after=a)
        await say(ledger, "e")
        await say(ledger, "f")  # trims a
        with pytest.raises(NotFound):
            await say(ledger, "x", after=a)
        await say(ledger, "g")  # trims b
        assert (await ledger.snapshot(CONVERSATION, 0)).alternatives == ((c, d),)
        with pytest.raises(NotFound):
            await ledger.select(CONVERSATION, b)
        await ledger.select(CONVERSATION, c)
        assert await texts(ledger) == ["c", "re c"]
        await ledger.select(CONVERSATION, d)
        assert await texts(ledger) == [
            "d", "re d", "e", "re e", "f", "re f", "g", "re g"
        ]  # fmt: skip


async def test_branches_expire_with_their_conversation(url: str) -> None:
    async with open_ledger(url, retention_days=30) as ledger, raw_client(url) as client:
        a = await say(ledger, "a")
        b = await say(ledger, "b", after="")  # creates the keys
        await ledger.select(CONVERSATION, a)
        await ledger.select(CONVERSATION, b)
        (alternatives,) = await client.keys(f"*{CONVERSATION}:f")
        (superseded,) = await client.keys(f"*{CONVERSATION}:v")
        ends = await client.pexpiretime(alternatives.removesuffix(b":f"))
        assert ends > 0
        assert [await client.pexpiretime(key) for key in (alternatives, superseded)] == [ends] * 2


async def test_activity_postpones_the_end_of_branches_and_shares(url: str) -> None:
    async with open_ledger(url, retention_days=30) as ledger:
        a = await say(ledger, "a")
        await say(ledger, "b", after="")
        await ledger.select(CONVERSATION, a)
        epoch = (await ledger.snapshot(CONVERSATION, 0)).cursor.epoch
        await ledger.share(CONVERSATION, "ada", Share(id="s", at=1.0), b"{}", epoch=epoch)
    async with open_ledger(url, retention_days=60) as ledger, raw_client(url) as client:
        await say(ledger, "c")
        (alternatives,) = await client.keys(f"*{CONVERSATION}:f")
        ends = await client.pexpiretime(alternatives.removesuffix(b":f"))
        assert ends / 1000 - time.time() > 50 * 86_400
        keys = [
            alternatives,
            *await client.keys(f"*{CONVERSATION}:[vx]"),
            *await client.keys("*:x:s"),
        ]
        assert len(keys) == 4
        assert {await client.pexpiretime(key) for key in keys} == {ends}


async def test_trimmed_replies_leave_no_feedback_behind(url: str) -> None:
    async with open_ledger(url, history_kept=KEPT) as ledger:
        turns = []
        for number in range(3 * KEPT):
            turns.append(await say(ledger, f"a{number}"))
            feedback = Feedback(turn=turns[-1], rating="up")
            await ledger.give_feedback(CONVERSATION, "ada", feedback)
            given = await ledger.feedback(CONVERSATION, "ada")
            assert {each.turn for each in given} == set(turns[-(KEPT // 2) :])
        replies = ledger.rated_replies("acme", FeedbackFilter())
        assert [reply.feedback.turn async for reply in replies] == turns[-(KEPT // 2) :]
        with pytest.raises(NotFound):
            await ledger.give_feedback(CONVERSATION, "ada", Feedback(turn=turns[0], rating="up"))
