"""What nobody uses any more goes, and goes whole."""

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.plugins.ledgers.redis_helpers import (
    WHERE,
    answer,
    claimed,
    ending,
    message,
    opened,
    raw,
    said,
)
from tests.plugins.ledgers.redis_server import redis_server

from palaver.errors import Fenced
from palaver.ledger import ConcurrencyPolicies, PendingQuestion, Step
from palaver.messages import TextReset
from palaver_plugins.ledgers.redis import RedisLedger, RedisLedgerSettings

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import Place

DAY = 86_400.0
STEER = ConcurrencyPolicies(default="steer")
MERGE = ConcurrencyPolicies(default="merge", merge_window=60.0)


def test_things_are_kept_for_a_year_by_default() -> None:
    assert RedisLedgerSettings().retention_seconds == 365 * DAY
    assert RedisLedgerSettings(retention_days=0).retention_seconds == 0


# SQLite


@pytest.fixture(params=["sqlite", "forgetful_sqlite"])
async def swept(request: pytest.FixtureRequest, places: Any, tmp_path: Any) -> Any:
    async with places[request.param](tmp_path) as place:
        await place.ledger.start()
        try:
            yield place
        finally:
            await place.ledger.close()


async def pass_days(place: "Place", days: float) -> None:
    """Let time pass and the sweep come by."""
    place.need_clock().now += days * DAY
    for _ in range(2):  # it comes after an operation, and before the next one
        await place.ledger.queue_depth()


async def test_a_silent_conversation_goes_whole(swept: "Place") -> None:
    await swept.accept("Zanzibar", person="adamina")
    claim = await swept.claim()
    waiting = PendingQuestion(
        skill="qa", message=claim.message, journal=(swept.step(0),), reply="Where?"
    )
    await swept.settle(
        claim, *swept.reply(claim, "Quetzal"), outcome="asked", pending_question=waiting
    )
    before = (await swept.ledger.snapshot(claim.conversation, 9)).cursor
    await pass_days(swept, 364)
    assert len((await swept.ledger.snapshot(claim.conversation, 9)).history) == 2
    await pass_days(swept, 2)
    dump = await swept.dump()
    found = [word for word in ("Zanzibar", "Quetzal", "adamina") if word.encode() in dump]
    assert found == []
    assert await swept.ledger.members(claim.conversation) == frozenset()
    assert (await swept.ledger.export("acme", "adamina")).conversations == {}
    await swept.accept("anew")
    anew = await swept.claim()
    assert (anew.history, anew.pending_question) == ((), None)
    assert (await swept.ledger.read(claim.conversation, 0, 9)).epoch != before.epoch
    with pytest.raises(Fenced):
        await swept.settle(claim, *swept.reply(claim, "Quetzal"))


async def test_activity_keeps_a_conversation(swept: "Place") -> None:
    await swept.accept("old", thread="u")
    await swept.answer()
    for number in range(4):
        await swept.accept(f"{number}")
        await swept.answer()
        await pass_days(swept, 300)
    where = swept.message().conversation
    assert len((await swept.ledger.snapshot(where, 99)).history) == 8
    assert await swept.ledger.members(swept.message(thread="u").conversation) == frozenset()


async def test_a_message_that_waits_keeps_its_conversation(swept: "Place") -> None:
    await swept.accept("still here")
    await pass_days(swept, 1000)
    assert (await swept.claim()).message.text == "still here"


async def test_conversations_stay_for_ever_when_so_set(swept: "Place") -> None:
    await swept.reopen(retention_days=0)
    await swept.accept()
    await swept.answer()
    await swept.ledger.remember("acme", "ada", "k", "v")
    await pass_days(swept, 10_000)
    assert (await swept.ledger.snapshot(swept.message().conversation, 9)).history
    assert await swept.ledger.recall("acme", "ada", "k") == "v"


async def test_retention_is_as_set_and_holds_from_the_start(swept: "Place") -> None:
    await swept.accept()
    await swept.answer()
    swept.need_clock().now += 3 * DAY
    await swept.reopen(retention_days=2)
    assert (await swept.ledger.snapshot(swept.message().conversation, 9)).history == ()


async def test_more_than_goes_at_once_goes_one_after_the_other(swept: "Place") -> None:
    for number in range(450):
        await swept.accept(thread=f"t{number}")
        await swept.answer()
    swept.need_clock().now += 400 * DAY
    for _ in range(4):
        await swept.ledger.queue_depth()
    assert b"acme/web/t" not in await swept.dump()


async def test_what_is_recalled_is_not_forgotten(swept: "Place") -> None:
    for key in ("used", "unused"):
        await swept.ledger.remember("acme", "ada", key, "v")
    for _ in range(3):
        assert await swept.ledger.recall("acme", "ada", "used") == "v"
        await pass_days(swept, 200)
    assert (await swept.ledger.export("acme", "ada")).memories == {"used": "v"}


async def test_a_dead_letter_goes_after_a_month(swept: "Place") -> None:
    await swept.accept("Zanzibar")
    await swept.settle(await swept.claim(), outcome="failed", dead_letter_reason="given up")
    await pass_days(swept, 29)
    assert len(await swept.ledger.dead_letters(9)) == 1
    await pass_days(swept, 2)
    assert await swept.ledger.dead_letters(9) == ()


async def test_the_marks_of_messages_go_after_a_day(swept: "Place") -> None:
    await swept.accept(id="Zanzibar")
    await swept.answer()
    await swept.reopen(events_kept=1)
    await swept.accept()
    await swept.answer()
    assert b"Zanzibar" in await swept.dump()
    await pass_days(swept, 1.1)
    assert b"Zanzibar" not in await swept.dump()


# Redis


async def fill(ledger: RedisLedger) -> None:
    """Leave every kind of key behind."""
    await ledger.accept(message("asks"))
    claim = await claimed(ledger)
    waiting = PendingQuestion(skill="qa", message=claim.message, journal=(), reply="Where?")
    await ledger.settle(claim, ending(claim), expect=0, pending_question=waiting)
    await ledger.accept(message("given up", thread="dead"))
    claim = await claimed(ledger)
    await ledger.settle(claim, ending(claim), expect=0, dead_letter_reason="given up")
    await ledger.accept(message("runs"))
    await ledger.accept(message("burst", thread="merge"), MERGE)
    await ledger.accept(message("more of it", thread="merge"), MERGE)
    claim = await claimed(ledger)
    step = Step(number=0, verb="generate", fingerprint="f", done=True)
    cut = TextReset(turn=claim.turn, position=1)
    await ledger.append(claim, (said(claim, "so far"), cut, step), expect=0, lease=30.0)
    await ledger.accept(message("steers", person="bob"), STEER)
    await ledger.accept(message("waits", person="eve"))
    await ledger.remember("acme", "ada", "k", "v")


async def lasting(client: Any) -> dict[str, int]:
    """When each key ends: the time in ms, or -1."""
    keys = sorted([key async for key in client.scan_iter()])
    return {key.decode(): await client.pexpiretime(key) for key in keys}


async def expired(client: Any, thread: str) -> None:
    while of_conversation(await lasting(client), thread):  # noqa: ASYNC110  Redis tells nobody
        await asyncio.sleep(0.02)


def of_conversation(ends: dict[str, int], thread: str = "t") -> dict[str, int]:
    name = f"c:acme/web/{thread}"
    return {key: end for key, end in ends.items() if f"{name}:" in key or key.endswith(name)}


@pytest.mark.redis
@pytest.mark.live
async def test_every_key_in_redis_expires_but_for_two_of_each_partition() -> None:
    async with (
        redis_server() as url,
        opened(url, partitions=3) as ledger,
        raw(url) as client,
    ):
        await fill(ledger)
        for person in ("nobody", "eve", "bob"):
            ends = await lasting(client)
            for_ever = {key.rpartition(":")[2] for key, end in ends.items() if end < 0}
            assert for_ever == {"state", "queue"}
            await ledger.erase("acme", person)
        nouns = {key.split(":")[2] for key in ends}
        assert nouns >= {"state", "queue", "c", "p", "k", "n", "d"}


@pytest.mark.redis
@pytest.mark.live
async def test_a_conversation_in_redis_ends_as_one() -> None:
    async with redis_server() as url, opened(url) as ledger, raw(url) as client:
        await fill(ledger)
        ends = of_conversation(await lasting(client))
        kinds = {key.partition("web/t")[2][:2] for key in ends}
        assert kinds == {"", ":q", ":h", ":u", ":t", ":r", ":j", ":g", ":s", ":m", ":o"}
        (end,) = {
            ends[key] for key in ends if key.partition("web/t")[2][:2] not in (":s", ":m", ":o")
        }
        assert max(ends.values()) == end
        assert min(ends.values()) > 0


@pytest.mark.redis
@pytest.mark.live
async def test_activity_moves_the_end_of_all_keys_in_redis() -> None:
    async with redis_server() as url, opened(url) as ledger, raw(url) as client:
        await fill(ledger)
        before = await lasting(client)
        (conversation,) = [key for key in before if key.endswith("web/t")]
        until = int(await client.hget(conversation, "until"))
        two_hours = 2 * 3600 * 1000
        await client.hset(conversation, "until", until - two_hours)
        for key in before:
            if before[key] >= until:
                await client.pexpireat(key, until - two_hours)
        await ledger.accept(message("anew"))
        after = await lasting(client)
        long = [key for key in of_conversation(before) if before[key] >= until]
        assert len(long) > 6
        assert all(after[key] >= until for key in long)
        people = [key for key in after if ":p:" in key]
        assert len(people) == 3
        assert all(after[key] >= until for key in people)


@pytest.mark.redis
@pytest.mark.live
async def test_nothing_is_wrong_after_a_conversation_in_redis_has_expired() -> None:
    """Its turns waited and ran: their count is put right, and an old claim does not hold."""
    async with (
        asyncio.timeout(10),
        redis_server() as url,
        opened(url) as ledger,
        raw(url) as client,
    ):
        (state,) = [key async for key in client.scan_iter("*state")]
        await client.hset(state, "retention", 500)
        await ledger.accept(message("runs"))
        old = await claimed(ledger, lease=0.1)
        before = (await ledger.snapshot(WHERE, 0)).cursor
        await ledger.accept(message("waits"))
        await expired(client, "t")
        assert await ledger.claim("worker", lease=30.0, history=0) is None
        depth = await ledger.queue_depth()
        assert (depth.queued, depth.running) == (0, 0)
        export = await ledger.export("acme", "ada")
        assert (export.conversations, export.pending) == ({}, ())
        assert (await ledger.erase("acme", "ada")).conversations == 0
        await client.hset(state, "retention", 10_000_000)
        await ledger.accept(message("anew"))
        fresh = await claimed(ledger)
        assert (fresh.fence, fresh.history) == (old.fence, ())
        with pytest.raises(Fenced):
            await ledger.append(old, (said(old, "late"),), expect=0, lease=30.0)
        assert (await ledger.read(WHERE, 0, 9)).epoch != before.epoch


@pytest.mark.redis
@pytest.mark.live
async def test_redis_keeps_everything_for_ever_when_so_set() -> None:
    async with redis_server() as url, raw(url) as client:
        async with opened(url) as ledger:
            await fill(ledger)
        async with opened(url, retention_days=0) as ledger:
            await ledger.accept(message("from now on for ever"))
            await ledger.recall("acme", "ada", "k")
            ends = await lasting(client)
            short = {":s", ":m", ":o"}
            conversation = of_conversation(ends)
            assert {
                end
                for key, end in conversation.items()
                if key.partition("web/t")[2][:2] not in short
            } == {-1}
            assert {end for key, end in ends.items() if key.endswith("k:acme/ada")} == {-1}
            assert {end for key, end in ends.items() if key.endswith("p:acme/ada")} == {-1}
        async with opened(url, retention_days=7) as ledger:
            await ledger.accept(message("for a week"))
            assert min(of_conversation(await lasting(client)).values()) > 0


@pytest.mark.redis
@pytest.mark.live
async def test_expired_conversations_leave_a_persons_index() -> None:
    async with (
        asyncio.timeout(10),
        redis_server() as url,
        opened(url) as ledger,
        raw(url) as client,
    ):
        (state,) = [key async for key in client.scan_iter("*state")]
        await client.hset(state, "retention", 300)
        await ledger.accept(message(thread="short"))
        await answer(ledger)
        await expired(client, "short")
        await ledger.accept(message(thread="new"))
        (index,) = [key async for key in client.scan_iter("*:p:*")]
        assert await client.zrange(index, 0, -1) == [b"acme/web/new"]
