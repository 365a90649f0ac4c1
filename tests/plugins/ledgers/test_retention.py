"""Retention: inactive conversations are deleted as a whole."""

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.memories import remember
from tests.plugins.ledgers.redis_helpers import (
    CONVERSATION,
    answer_turn,
    claim_turn,
    make_message,
    open_ledger,
    raw_client,
    text_entry,
    with_finished,
)
from tests.plugins.ledgers.redis_server import redis_server

from palaver.errors import Fenced
from palaver.exports import collect_export
from palaver.feedback import Feedback
from palaver.ledger import ConcurrencyPolicies, PendingQuestion, Step, StorageUsage
from palaver.messages import TextReset, encode
from palaver_plugins.ledgers.redis import RedisLedger, RedisLedgerSettings

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest

DAY = 86_400.0
STEER = ConcurrencyPolicies(default="steer")
MERGE = ConcurrencyPolicies(default="merge", merge_window=60.0)


def test_conversations_are_kept_for_a_year_by_default() -> None:
    assert RedisLedgerSettings().retention_seconds == 365 * DAY
    assert RedisLedgerSettings(retention_days=0).retention_seconds == 0


# SQLite


@pytest.fixture(params=["sqlite", "sqlite_uncached"])
async def expiring(request: pytest.FixtureRequest, subject_factories: Any, tmp_path: Any) -> Any:
    async with subject_factories[request.param](tmp_path) as subject:
        await subject.ledger.start()
        try:
            yield subject
        finally:
            await subject.ledger.close()


async def pass_days(subject: "LedgerUnderTest", days: float) -> None:
    """Let time pass and the sweep come by."""
    subject.require_clock().now += days * DAY
    for _ in range(10):  # a step comes after an operation, and before the next one
        await subject.ledger.queue_depth()


async def test_an_inactive_conversation_is_deleted_as_a_whole(expiring: "LedgerUnderTest") -> None:
    await expiring.accept("Zanzibar", person="adamina")
    claim = await expiring.claim()
    waiting = PendingQuestion(
        skill="qa", message=claim.message, journal=(expiring.make_step(0),), reply="Where?"
    )
    await expiring.settle(
        claim, *expiring.reply_entries(claim, "Quetzal"), outcome="asked", pending_question=waiting
    )
    before = (await expiring.ledger.snapshot(claim.conversation, 9)).cursor
    await pass_days(expiring, 364)
    assert len((await expiring.ledger.snapshot(claim.conversation, 9)).history) == 2
    await pass_days(expiring, 2)
    dump = await expiring.dump()
    found = [word for word in ("Zanzibar", "Quetzal", "adamina") if word.encode() in dump]
    assert found == []
    assert await expiring.ledger.members(claim.conversation) == frozenset()
    assert (await collect_export(expiring.ledger.export("acme", "adamina"))).conversations == {}
    await expiring.accept("again")
    new_claim = await expiring.claim()
    assert (new_claim.history, new_claim.pending_question) == ((), None)
    assert (await expiring.ledger.read(claim.conversation, 0, 9)).epoch != before.epoch
    with pytest.raises(Fenced):
        await expiring.settle(claim, *expiring.reply_entries(claim, "Quetzal"))


async def test_activity_keeps_a_conversation(expiring: "LedgerUnderTest") -> None:
    await expiring.accept("old", thread="u")
    await expiring.answer_turn()
    for number in range(4):
        await expiring.accept(f"{number}")
        await expiring.answer_turn()
        await pass_days(expiring, 300)
    where = expiring.make_message().conversation
    assert len((await expiring.ledger.snapshot(where, 99)).history) == 8
    assert (
        await expiring.ledger.members(expiring.make_message(thread="u").conversation) == frozenset()
    )


async def test_a_waiting_message_keeps_its_conversation(expiring: "LedgerUnderTest") -> None:
    await expiring.accept("still here")
    await pass_days(expiring, 1000)
    assert (await expiring.claim()).message.text == "still here"


async def test_conversations_are_kept_forever_with_zero_days(expiring: "LedgerUnderTest") -> None:
    await expiring.reopen(retention_days=0)
    await expiring.accept()
    await expiring.answer_turn(memories={"k": "v"})
    await pass_days(expiring, 10_000)
    assert (await expiring.ledger.snapshot(expiring.make_message().conversation, 9)).history
    assert await expiring.ledger.recall("acme", "ada", "k") == "v"


async def test_retention_is_applied_at_the_start(expiring: "LedgerUnderTest") -> None:
    await expiring.accept()
    await expiring.answer_turn()
    expiring.require_clock().now += 3 * DAY
    await expiring.reopen(retention_days=2)
    assert (await expiring.ledger.snapshot(expiring.make_message().conversation, 9)).history == ()


@pytest.mark.slow
async def test_many_expired_conversations_are_deleted_in_several_runs(
    expiring: "LedgerUnderTest",
) -> None:
    for number in range(450):
        await expiring.accept(thread=f"t{number}")
        await expiring.answer_turn()
    expiring.require_clock().now += 400 * DAY
    for _ in range(4):
        await expiring.ledger.queue_depth()
    assert b"acme/web/t" not in await expiring.dump()


async def test_a_recalled_memory_is_kept(expiring: "LedgerUnderTest") -> None:
    await expiring.accept()
    await expiring.answer_turn(memories={"used": "v", "unused": "v"})
    for _ in range(3):
        assert await expiring.ledger.recall("acme", "ada", "used") == "v"
        await pass_days(expiring, 200)
    assert (await collect_export(expiring.ledger.export("acme", "ada"))).memories == {"used": "v"}


async def test_a_dead_letter_is_deleted_after_a_month(expiring: "LedgerUnderTest") -> None:
    await expiring.accept("Zanzibar")
    await expiring.settle(await expiring.claim(), outcome="failed", dead_letter_reason="given up")
    await pass_days(expiring, 29)
    assert len(await expiring.ledger.dead_letters(9)) == 1
    await pass_days(expiring, 2)
    assert await expiring.ledger.dead_letters(9) == ()


async def test_dedupe_records_are_deleted_after_a_day(expiring: "LedgerUnderTest") -> None:
    await expiring.accept(id="Zanzibar")
    await expiring.answer_turn()
    await expiring.reopen(events_kept=1)
    await expiring.accept()
    await expiring.answer_turn()
    assert b"Zanzibar" in await expiring.dump()
    await pass_days(expiring, 1.1)
    assert b"Zanzibar" not in await expiring.dump()


# Redis


async def fill(ledger: RedisLedger) -> None:
    """Leave every kind of key behind."""
    await remember(ledger, "acme", "ada", "k", "v")
    await ledger.accept(make_message("asks"))
    claim = await claim_turn(ledger)
    waiting = PendingQuestion(skill="qa", message=claim.message, journal=(), reply="Where?")
    await ledger.settle(claim, with_finished(claim), expect=0, pending_question=waiting)
    feedback = Feedback(turn=claim.turn, rating="up")
    await ledger.give_feedback(claim.conversation, claim.message.person, feedback)
    await ledger.accept(make_message("given up", thread="dead"))
    claim = await claim_turn(ledger)
    await ledger.settle(claim, with_finished(claim), expect=0, dead_letter_reason="given up")
    await ledger.accept(make_message("runs"))
    await ledger.accept(make_message("burst", thread="merge"), MERGE)
    await ledger.accept(make_message("more of it", thread="merge"), MERGE)
    claim = await claim_turn(ledger)
    step = Step(number=0, verb="generate", fingerprint="f", done=True)
    cut = TextReset(turn=claim.turn, position=1)
    await ledger.append(claim, (text_entry(claim, "so far"), cut, step), expect=0, lease=30.0)
    await ledger.accept(make_message("steers", person="bob"), STEER)
    await ledger.accept(make_message("waits", person="eve"))


async def expiry_times(client: Any) -> dict[str, int]:
    """Return when each key expires: the time in ms, or -1."""
    keys = sorted([key async for key in client.scan_iter()])
    return {key.decode(): await client.pexpiretime(key) for key in keys}


async def wait_until_expired(client: Any, thread: str) -> None:
    async with asyncio.timeout(30):
        while select_conversation(await expiry_times(client), thread):  # noqa: ASYNC110  unnotified
            await asyncio.sleep(0.02)


def select_conversation(ends: dict[str, int], thread: str = "t") -> dict[str, int]:
    name = f"c:acme/web/{thread}"
    return {key: end for key, end in ends.items() if f"{name}:" in key or key.endswith(name)}


@pytest.mark.redis
@pytest.mark.live
async def test_every_key_in_redis_expires_but_for_two_of_each_partition() -> None:
    async with (
        redis_server() as url,
        open_ledger(url, partitions=3) as ledger,
        raw_client(url) as client,
    ):
        await fill(ledger)
        for person in ("nobody", "eve", "bob"):
            ends = await expiry_times(client)
            for_ever = {key.rpartition(":")[2] for key, end in ends.items() if end < 0}
            assert for_ever == {"state", "queue"}
            await ledger.erase("acme", person)
        nouns = {key.split(":")[2] for key in ends}
        assert nouns >= {"state", "queue", "c", "p", "k", "n", "d"}


@pytest.mark.redis
@pytest.mark.live
async def test_all_keys_of_a_conversation_in_redis_expire_together() -> None:
    async with redis_server() as url, open_ledger(url) as ledger, raw_client(url) as client:
        await fill(ledger)
        ends = select_conversation(await expiry_times(client))
        kinds = {key.partition("web/t")[2][:2] for key in ends}
        assert kinds == {"", ":q", ":h", ":u", ":t", ":r", ":j", ":g", ":s", ":m", ":o", ":l"}
        (end,) = {
            ends[key] for key in ends if key.partition("web/t")[2][:2] not in (":s", ":m", ":o")
        }
        assert max(ends.values()) == end
        assert min(ends.values()) > 0


@pytest.mark.redis
@pytest.mark.live
async def test_activity_postpones_the_expiry_of_all_keys_in_redis() -> None:
    async with redis_server() as url, open_ledger(url) as ledger, raw_client(url) as client:
        await fill(ledger)
        before = await expiry_times(client)
        (conversation,) = [key for key in before if key.endswith("web/t")]
        until = int(await client.hget(conversation, "expires_at"))
        two_hours = 2 * 3600 * 1000
        await client.hset(conversation, "expires_at", until - two_hours)
        for key in before:
            if before[key] >= until:
                await client.pexpireat(key, until - two_hours)
        await ledger.accept(make_message("again"))
        after = await expiry_times(client)
        long = [key for key in select_conversation(before) if before[key] >= until]
        assert len(long) > 7
        assert all(after[key] >= until for key in long)
        people = [key for key in after if ":p:" in key]
        assert len(people) == 4, "three people, and the tenant"
        assert all(after[key] >= until for key in people)


@pytest.mark.redis
@pytest.mark.live
async def test_an_expired_conversation_in_redis_leaves_consistent_counts() -> None:
    """Let a conversation expire with unsettled turns: they are not counted, and an old claim is
    fenced."""
    async with (
        asyncio.timeout(10),
        redis_server() as url,
        open_ledger(url) as ledger,
        raw_client(url) as client,
    ):
        (state,) = [key async for key in client.scan_iter("*state")]
        await client.hset(state, "retention", 500)
        await ledger.accept(make_message("runs"))
        old = await claim_turn(ledger, lease=0.1)
        before = (await ledger.snapshot(CONVERSATION, 0)).cursor
        await ledger.accept(make_message("waits"))
        await wait_until_expired(client, "t")
        assert await ledger.claim("worker", lease=30.0, history=0) is None
        depth = await ledger.queue_depth()
        assert (depth.queued, depth.running) == (0, 0)
        export = await collect_export(ledger.export("acme", "ada"))
        assert (export.conversations, export.pending) == ({}, ())
        assert (await ledger.erase("acme", "ada")).conversations == 0
        await client.hset(state, "retention", 10_000_000)
        await ledger.accept(make_message("again"))
        fresh = await claim_turn(ledger)
        assert (fresh.fence, fresh.history) == (old.fence, ())
        with pytest.raises(Fenced):
            await ledger.append(old, (text_entry(old, "late"),), expect=0, lease=30.0)
        assert (await ledger.read(CONVERSATION, 0, 9)).epoch != before.epoch


@pytest.mark.redis
@pytest.mark.live
async def test_redis_keeps_everything_forever_with_zero_days() -> None:
    async with redis_server() as url, raw_client(url) as client:
        async with open_ledger(url) as ledger:
            await fill(ledger)
        async with open_ledger(url, retention_days=0) as ledger:
            await ledger.accept(make_message("from now on for ever"))
            await ledger.recall("acme", "ada", "k")
            ends = await expiry_times(client)
            short = {":s", ":m", ":o"}
            conversation = select_conversation(ends)
            assert {
                end
                for key, end in conversation.items()
                if key.partition("web/t")[2][:2] not in short
            } == {-1}
            assert {end for key, end in ends.items() if key.endswith("k:acme/ada")} == {-1}
            assert {end for key, end in ends.items() if key.endswith("p:acme/ada")} == {-1}
        async with open_ledger(url, retention_days=7) as ledger:
            await ledger.accept(make_message("for a week"))
            assert min(select_conversation(await expiry_times(client)).values()) > 0


@pytest.mark.redis
@pytest.mark.live
async def test_expired_conversations_leave_a_persons_index() -> None:
    async with (
        asyncio.timeout(10),
        redis_server() as url,
        open_ledger(url) as ledger,
        raw_client(url) as client,
    ):
        (state,) = [key async for key in client.scan_iter("*state")]
        await client.hset(state, "retention", 300)
        await ledger.accept(make_message(thread="short"))
        await answer_turn(ledger)
        await wait_until_expired(client, "short")
        await ledger.accept(make_message(thread="new"))
        indexes = [key async for key in client.scan_iter("*:p:*")]
        assert len(indexes) == 2, "the person's, and the tenant's"
        for index in indexes:
            assert await client.zrange(index, 0, -1) == [b"acme/web/new"]
        usage = StorageUsage(bytes=len(encode(make_message(thread="new"))), conversations=1)
        for person in ("ada", ""):
            assert await ledger.storage_usage("acme", person) == usage


@pytest.mark.redis
@pytest.mark.live
async def test_a_conversation_that_begins_again_is_in_the_index_for_its_new_life() -> None:
    """Also when so many have expired that its old entry has not been removed yet."""
    async with (
        asyncio.timeout(20),
        redis_server() as url,
        open_ledger(url) as ledger,
        raw_client(url) as client,
    ):
        (state,) = [key async for key in client.scan_iter("*state")]
        await ledger.accept(make_message(thread="other"))  # it keeps the index
        await client.hset(state, "retention", 2_000)
        for number in range(210):
            await ledger.accept(make_message("x" * 100, thread=f"t{number:03d}"))
        await wait_until_expired(client, "t209")
        await client.hset(state, "retention", 60_000)
        message = make_message(thread="t209")
        await ledger.accept(message)
        for _ in range(2):  # each removes some of the expired names
            await ledger.accept(make_message(thread="other"))
        export = await collect_export(ledger.export("acme", "ada"))
        assert message.text in [each.text for each in export.pending]
        assert len(export.pending) == 4
        size = len(encode(message))
        for person in ("ada", ""):
            usage = await ledger.storage_usage("acme", person)
            assert usage.conversations == 2
            assert 4 * size <= usage.bytes < 4 * size + 10
