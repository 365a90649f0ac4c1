"""Helpers for the tests of the Redis ledger: opening it, and running a turn."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import pytest
from redis.asyncio import Redis

from palaver.errors import LedgerUnavailable
from palaver.ledger import Claim, Guarantee, LogEntry
from palaver.messages import Conversation, Finished, Message, Text, new_id
from palaver_plugins.ledgers.redis import RedisLedger, RedisLedgerSettings

T = TypeVar("T")

CONVERSATION = Conversation("acme", "web", "t")

needs_redis = [pytest.mark.redis, pytest.mark.live]


@contextlib.asynccontextmanager
async def open_ledger(
    url: str, *, kind: type[RedisLedger] = RedisLedger, **options: Any
) -> AsyncIterator[RedisLedger]:
    """Start a ledger with short timeouts; ``options`` are its settings."""
    quick: dict[str, Any] = {"connect_timeout": 1.0, "command_timeout": 1.0}
    ledger = kind(RedisLedgerSettings(url=url, **(quick | options)))
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.close()


@contextlib.asynccontextmanager
async def raw_client(
    url: str,
) -> AsyncIterator[Any]:  # Any: redis-py types its replies by its options
    """Open a plain client, to inspect the store."""
    client = Redis.from_url(url)
    try:
        yield client
    finally:
        await client.aclose()


async def retry_until_available(call: Callable[[], Awaitable[T]], *, within: float = 10.0) -> T:
    """Call until the ledger is available."""
    async with asyncio.timeout(within):
        while True:
            try:
                return await call()
            except LedgerUnavailable:
                await asyncio.sleep(0.02)


def loss_limitations(guarantee: Guarantee) -> list[str]:
    """Return the limitations, except the one about the permissions of most tests' user."""
    return [sentence for sentence in guarantee.limitations if "least permissions" not in sentence]


def make_message(text: str = "hello", *, thread: str = "t", person: str = "ada") -> Message:
    conversation = Conversation("acme", "web", thread)
    return Message(conversation=conversation, id=new_id(), person=person, text=text)


async def claim_turn(ledger: RedisLedger, *, lease: float = 30.0, history: int = 40) -> Claim:
    """Claim a turn that must be due."""
    claim = await ledger.claim("worker", lease=lease, history=history)
    assert claim is not None, "nothing was due"
    return claim


def text_entry(claim: Claim, text: str, position: int = 0) -> Text:
    return Text(turn=claim.turn, position=position, text=text)


def with_finished(claim: Claim, *entries: LogEntry) -> tuple[LogEntry, ...]:
    """Return ``entries`` and the end of the turn."""
    return (*entries, Finished(turn=claim.turn, outcome="done", length=0))


async def answer_turn(ledger: RedisLedger, text: str = "fine") -> Claim:
    """Claim the next turn and settle it with a reply."""
    claim = await claim_turn(ledger)
    await ledger.settle(claim, with_finished(claim, text_entry(claim, text)), expect=0)
    return claim
