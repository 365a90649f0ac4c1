"""Contract: storage quotas, and the counters behind them."""

import contextlib
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from palaver.errors import Fenced, TooMany
from palaver.ledger import ConcurrencyPolicies, StorageQuota, StorageUsage
from palaver.messages import ConcurrencyPolicy, Conversation, encode

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest


def policies(
    *, person: StorageQuota | None = None, tenant: StorageQuota | None = None
) -> ConcurrencyPolicies:
    return ConcurrencyPolicies(
        person_storage=person or StorageQuota(), tenant_storage=tenant or StorageQuota()
    )


def size_of(subject: "LedgerUnderTest", text: str, **fields: str) -> int:
    return len(encode(subject.make_message(text, **fields)))


async def usage_of(subject: "LedgerUnderTest", person: str = "") -> StorageUsage:
    return await subject.ledger.storage_usage("acme", person)


async def test_messages_and_replies_are_counted(subject: "LedgerUnderTest") -> None:
    size = size_of(subject, "hello")
    await subject.accept()
    assert await usage_of(subject, "ada") == StorageUsage(bytes=size, conversations=1)
    await subject.answer_turn("héllo")
    await subject.accept(thread="u")
    await subject.accept(person="bob")
    usage = StorageUsage(bytes=2 * size + 6, conversations=2)
    assert await usage_of(subject, "ada") == usage
    assert await usage_of(subject, "bob") == StorageUsage(bytes=size, conversations=1)
    assert await usage_of(subject) == StorageUsage(bytes=3 * size + 6, conversations=2)
    assert await usage_of(subject, "eve") == StorageUsage()


async def test_a_duplicate_is_not_counted(subject: "LedgerUnderTest") -> None:
    message = subject.make_message()
    await subject.ledger.accept(message)
    usage = await usage_of(subject)
    assert (await subject.ledger.accept(message)).duplicate
    assert await usage_of(subject) == usage


@pytest.mark.parametrize("owner", ["person", "tenant"])
async def test_bytes_are_limited(subject: "LedgerUnderTest", owner: str) -> None:
    size = size_of(subject, "x" * 500)
    limited = policies(**{owner: StorageQuota(bytes=2 * size)})
    for thread in ("t", "u"):
        await subject.accept_with("x" * 500, limited, thread=thread)
    for thread in ("t", "u", "new"):
        with pytest.raises(TooMany, match=f"admission.{owner}.stored_bytes") as refused:
            await subject.accept_with("hi", limited, thread=thread)
        assert refused.value.reason == f"{owner}_stored_bytes"
    assert (await usage_of(subject)).conversations == 2
    if owner == "person":
        await subject.accept_with("hi", limited, person="bob")
    else:
        with pytest.raises(TooMany):
            await subject.accept_with("hi", limited, person="bob")
    await subject.accept_with("hi", limited, tenant="other")


@pytest.mark.parametrize("owner", ["person", "tenant"])
async def test_conversations_are_limited(subject: "LedgerUnderTest", owner: str) -> None:
    limited = policies(**{owner: StorageQuota(conversations=2)})
    for thread in ("t", "u", "t"):
        await subject.accept_with("hi", limited, thread=thread)
    with pytest.raises(TooMany, match=f"admission.{owner}.conversations") as refused:
        await subject.accept_with("hi", limited, thread="new")
    assert refused.value.reason == f"{owner}_conversations"
    await subject.accept_with("hi", limited, thread="u", person="bob")


async def test_a_running_turn_ends_beyond_the_quota(subject: "LedgerUnderTest") -> None:
    limited = policies(person=StorageQuota(bytes=size_of(subject, "hello")))
    await subject.accept_with("hello", limited)
    await subject.answer_turn("x" * 100_000)
    with pytest.raises(TooMany):
        await subject.accept_with("hello", limited)


async def test_an_erasure_makes_room(subject: "LedgerUnderTest") -> None:
    limited = policies(
        person=StorageQuota(conversations=2), tenant=StorageQuota(conversations=3, bytes=3_000)
    )
    await subject.accept_with("x" * 500, limited, thread="t")
    await subject.accept_with("x" * 500, limited, thread="u")
    await subject.accept_with("x" * 500, limited, thread="u", person="bob")
    with pytest.raises(TooMany):
        await subject.accept_with("hi", limited, thread="v")
    await subject.ledger.erase("acme", "ada")
    assert await usage_of(subject, "ada") == StorageUsage()
    assert await usage_of(subject) == await usage_of(subject, "bob")
    assert (await usage_of(subject)).conversations == 1
    await subject.accept_with("x" * 500, limited, thread="v")
    await subject.ledger.erase("acme", "ada")
    await subject.ledger.erase("acme", "bob")
    assert await usage_of(subject) == StorageUsage()


async def test_an_expiry_makes_room(subject: "LedgerUnderTest") -> None:
    if subject.name == "memory":
        pytest.skip("the ledger in memory keeps everything")
    if subject.name == "redis":
        pytest.skip("its keys expire by the server's clock: see the test in test_retention")
    await subject.accept("old", thread="t")
    await subject.answer_turn()
    subject.require_clock().now += 366 * 86_400
    for _ in range(20):
        await subject.ledger.queue_depth()
    assert await usage_of(subject) == StorageUsage()
    assert await usage_of(subject, "ada") == StorageUsage()


class Counted:
    """Random operations on a ledger, and the bytes that they store by thread and person."""

    people, threads = ("ada", "bob", "eve"), ("t", "u", "v")

    def __init__(self, subject: "LedgerUnderTest", seed: int) -> None:
        self._subject = subject
        self._chance = random.Random(seed)
        self.stored: Counter[tuple[str, str]] = Counter()

    async def accept(self, policy: ConcurrencyPolicy = "merge") -> None:
        person, thread = self._chance.choice(self.people), self._chance.choice(self.threads)
        text = "é" * self._chance.randrange(500)
        message = self._subject.make_message(text, person=person, thread=thread)
        with contextlib.suppress(TooMany):
            await self._subject.ledger.accept(message, ConcurrencyPolicies(default=policy))
            self.stored[thread, person] += len(encode(message))

    async def steer(self) -> None:
        await self.accept("steer")

    async def answer(self) -> None:
        claim = await self._subject.ledger.claim("w", lease=30.0, history=5)
        if claim is None:
            await self._subject.advance_clock(2.0)
            return
        person = claim.message.person
        if self._chance.random() < 0.2:
            await self.erase_person(person)
            with pytest.raises(Fenced):
                await self._subject.settle(claim)
            return
        reply = "ü" * self._chance.randrange(500)
        await self._subject.settle(claim, *self._subject.reply_entries(claim, reply))
        self.stored[claim.conversation.thread, person] += len(reply.encode())

    async def stop(self) -> None:
        where = Conversation("acme", "web", self._chance.choice(self.threads))
        await self._subject.ledger.stop(where, None)

    async def erase(self) -> None:
        if self._chance.random() < 0.2:
            await self.erase_person(self._chance.choice(self.people))

    async def erase_person(self, person: str) -> None:
        await self._subject.ledger.erase("acme", person)
        for key in [key for key in self.stored if key[1] == person]:
            del self.stored[key]

    async def run(self) -> None:
        steps = (self.accept, self.accept, self.steer, self.answer, self.answer, self.stop)
        for _ in range(150):
            await self._chance.choice((*steps, self.erase))()

    def usage(self, *people: str) -> StorageUsage:
        found = {key: size for key, size in self.stored.items() if key[1] in people}
        threads = {thread for thread, _ in found}
        return StorageUsage(bytes=sum(found.values()), conversations=len(threads))


@pytest.mark.parametrize("seed", range(4))
async def test_the_counters_equal_a_recount_after_any_operations(
    subject: "LedgerUnderTest", seed: int
) -> None:
    counted = Counted(subject, seed)
    await counted.run()
    assert counted.stored
    for person in counted.people:
        assert await usage_of(subject, person) == counted.usage(person)
    assert await usage_of(subject) == counted.usage(*counted.people)
