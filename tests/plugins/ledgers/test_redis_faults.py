"""The Redis ledger when things fail: lost answers, dead servers, emptied stores, cancelled calls.

Every count of zero has a mutant or a weaker configuration, which shows that the fault happened.
"""

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from tests.memories import remember
from tests.plugins.ledgers.redis_helpers import (
    CONVERSATION,
    answer_turn,
    claim_turn,
    make_message,
    needs_redis,
    open_ledger,
    raw_client,
    text_entry,
    with_finished,
)
from tests.plugins.ledgers.redis_server import RecordingProxy, RedisServer, run_proxy, run_redis

from palaver.errors import Fenced, LedgerUnavailable
from palaver.exports import collect_export
from palaver.feedback import Feedback
from palaver.ledger import ConcurrencyPolicies
from palaver.messages import Message, StoredEvent
from palaver_plugins.ledgers.redis import RedisLedger, work_signal
from palaver_plugins.ledgers.redis.connection import Connection, pack
from palaver_plugins.ledgers.redis.scripts import load_scripts

pytestmark = needs_redis


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with run_redis() as running:
        yield running


@pytest.fixture
async def proxy(server: RedisServer) -> AsyncIterator[RecordingProxy]:
    async with run_proxy(server) as relay:
        yield relay


# Answers that get lost


async def test_a_write_with_a_lost_reply_is_applied_once(proxy: RecordingProxy) -> None:
    async with asyncio.timeout(5), open_ledger(proxy.url) as ledger:
        proxy.drop_next_reply = True
        receipt = await ledger.accept(make_message())
        assert not receipt.duplicate
        proxy.drop_next_reply = True
        claim = await claim_turn(ledger)
        assert (claim.turn, claim.fence, claim.attempt) == (receipt.turn, 1, 1)
        proxy.drop_next_reply = True
        progress = await ledger.append(claim, (text_entry(claim, "once "),), expect=0, lease=30.0)
        assert (progress.index, progress.offset) == (1, 2)
        proxy.drop_next_reply = True
        await ledger.release(claim)
        claim = await claim_turn(ledger)
        assert (claim.reply, claim.attempt) == ("once ", 1)
        proxy.drop_next_reply = True
        progress = await ledger.settle(
            claim, with_finished(claim, text_entry(claim, "more", 5)), expect=1
        )
        assert (progress.index, progress.offset) == (3, 4)
        history = (await ledger.snapshot(CONVERSATION, 10)).history
        assert [line.text for line in history] == ["hello", "once more"]
        depth = await ledger.queue_depth()
        assert (depth.queued, depth.running) == (0, 0)


async def test_a_joined_message_with_a_lost_reply_is_no_duplicate(
    proxy: RecordingProxy,
) -> None:
    steer = ConcurrencyPolicies(default="steer")
    async with asyncio.timeout(5), open_ledger(proxy.url) as ledger:
        await ledger.accept(make_message())
        claim = await claim_turn(ledger)
        first = make_message("steers")
        proxy.drop_next_reply = True
        receipt = await ledger.accept(first, steer)
        assert (receipt.turn, receipt.joined, receipt.duplicate) == (claim.turn, True, False)
        assert (await ledger.accept(first, steer)).duplicate
        await ledger.accept(make_message("steers too", person="bob"), steer)
        assert len(await ledger.read_steering(claim)) == 2
        proxy.drop_next_reply = True
        settled = await ledger.settle(
            claim, with_finished(claim), expect=0, dead_letter_reason="given up"
        )
        assert settled.steering_count == 2
        assert len(await ledger.dead_letters(10)) == 1
        depth = await ledger.queue_depth()
        assert (depth.queued, depth.running) == (1, 0)
        following = await claim_turn(ledger)
        assert [sent.text for sent in following.messages] == ["steers"]
        assert [sent.text for sent in following.steering_messages] == ["steers too"]


async def test_without_the_index_a_repeated_append_would_double_the_text(
    proxy: RecordingProxy,
) -> None:
    """Repeat a recorded command: with the real script, then with a mutant."""
    async with open_ledger(proxy.url) as ledger, raw_client(proxy.url) as client:
        await ledger.accept(make_message())
        claim = await claim_turn(ledger)
        proxy.clear_record()
        await ledger.append(claim, (text_entry(claim, "once "),), expect=0, lease=30.0)
        (command,) = proxy.commands
        assert await client.execute_command(*command) == [1, 2, 0, 0]
        (pending,) = (await ledger.snapshot(CONVERSATION, 0)).pending
        assert pending.reply == "once "

        scripts = await asyncio.to_thread(load_scripts)
        mutant = scripts["append"].source.replace("index ~= expect", "false")
        mutant = mutant.replace("entry[3] ~= length", "false")
        await client.execute_command("EVAL", mutant, *command[2:])
        (pending,) = (await ledger.snapshot(CONVERSATION, 0)).pending
        assert pending.reply == "once once "


async def test_a_lost_connection_notifies_every_watcher(proxy: RecordingProxy) -> None:
    hints: list[Sequence[StoredEvent]] = []
    news = asyncio.Event()

    def hint(events: Sequence[StoredEvent]) -> None:
        hints.append(events)
        news.set()

    async with (
        asyncio.timeout(5),
        open_ledger(proxy.url) as ledger,
        open_ledger(proxy.url) as other,
    ):
        await ledger.watch(CONVERSATION, hint)
        proxy.cut_connections()
        await news.wait()
        assert hints == [()]
        news.clear()
        await ledger.queue_depth()
        await other.accept(make_message("news"))
        await news.wait()
        assert [recorded.offset for recorded in hints[-1]] == [1]


async def test_no_reply_reaches_another_caller_when_calls_are_cancelled(
    proxy: RecordingProxy,
) -> None:
    """Cancel hundreds of calls at random times, and cut a connection twice."""
    chance = random.Random(11)
    wrong: list[tuple[int, str | None]] = []
    answered = 0

    async def ask(ledger: RedisLedger, number: int) -> None:
        nonlocal answered
        value = await ledger.recall("acme", "ada", f"k{number}")
        answered += 1
        if value != f"v{number}":
            wrong.append((number, value))

    async with asyncio.timeout(10), open_ledger(proxy.url) as ledger:
        for number in range(50):
            await remember(ledger, "acme", "ada", f"k{number}", f"v{number}")
        cancelled = 0
        for wave in range(40):
            tasks = [asyncio.create_task(ask(ledger, chance.randrange(50))) for _ in range(30)]
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            if wave in (13, 27):
                proxy.cut_connections()
            for task in chance.sample(tasks, 15):
                cancelled += task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await ask(ledger, 7)
    assert wrong == []
    assert cancelled > 400
    assert answered > 400


class WithoutReplyMatching(Connection):
    """Mutant: removes a cancelled call from the queue although its reply will arrive."""

    def data_received(self, data: bytes) -> None:
        while self._pending and (first := self._pending[0]) and first.cancelled():
            self._pending.popleft()
        super().data_received(data)


@pytest.mark.parametrize(
    ("kind", "received"), [(Connection, b"his"), (WithoutReplyMatching, b"hers")]
)
async def test_the_reply_to_a_cancelled_call_is_discarded(
    server: RedisServer, kind: type[Connection], received: bytes
) -> None:
    def make() -> Connection:
        return kind(lambda channel, payload: None, lambda wire: None, 1.0)

    loop = asyncio.get_running_loop()
    _, wire = await loop.create_connection(make, "127.0.0.1", server.port)
    await wire.send(pack("HELLO", 3))
    hers, his = wire.send(pack("ECHO", "hers")), wire.send(pack("ECHO", "his"))
    hers.cancel()
    assert await his == received
    wire.close("done")


# Servers that die


async def test_nothing_acknowledged_is_lost_when_redis_is_killed(server: RedisServer) -> None:
    async with open_ledger(server.url) as ledger:
        acknowledged = await _accept_until_killed(ledger, server)
        await asyncio.to_thread(server.start)
        await _wait_until_available(ledger)
        again = [await ledger.accept(known) for known in acknowledged]
        lost = [receipt for receipt in again if not receipt.duplicate]
        assert len(acknowledged) >= 100
        assert lost == []


async def test_without_an_append_only_file_a_killed_redis_loses_everything() -> None:
    """Show what the refused configuration loses."""
    async with (
        run_redis(appendonly="no") as server,
        open_ledger(server.url, allow_weak_durability=True) as ledger,
    ):
        acknowledged = await _accept_until_killed(ledger, server)
        await asyncio.to_thread(server.start)
        await _wait_until_available(ledger)
        again = [await ledger.accept(known) for known in acknowledged]
        assert all(not receipt.duplicate for receipt in again)


async def _accept_until_killed(ledger: RedisLedger, server: RedisServer) -> list[Message]:
    """Send messages until a SIGKILL; return those that were acknowledged."""
    acknowledged: list[Message] = []
    enough = asyncio.Event()

    async def write(writer: int) -> None:
        number = 0
        while True:
            new = make_message(thread=f"t{writer}-{number}")
            number += 1
            try:
                await ledger.accept(new)
            except LedgerUnavailable:
                return
            acknowledged.append(new)
            if len(acknowledged) >= 100:
                enough.set()

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        for writer in range(8):
            group.create_task(write(writer))
        await enough.wait()
        await asyncio.to_thread(server.kill)
    return acknowledged


async def _wait_until_available(ledger: RedisLedger) -> None:
    """Return when the ledger answers again."""
    async with asyncio.timeout(5):
        while True:
            try:
                await ledger.queue_depth()
                return
            except LedgerUnavailable:
                await asyncio.sleep(0.02)


async def test_every_method_fails_while_redis_is_away_and_works_again_after_it(
    server: RedisServer,
) -> None:
    async with open_ledger(server.url) as ledger:
        await ledger.accept(make_message())
        claim = await claim_turn(ledger)
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: ledger.accept(make_message()),
            lambda: ledger.wait_for_work(1.0),
            lambda: ledger.claim("w", lease=3.0, history=0),
            lambda: ledger.append(claim, (), expect=0, lease=3.0),
            lambda: ledger.settle(claim, with_finished(claim), expect=0),
            lambda: ledger.release(claim),
            lambda: ledger.stop(CONVERSATION, None),
            lambda: ledger.read(CONVERSATION, 0, 10),
            lambda: ledger.watch(CONVERSATION, lambda events: None),
            lambda: ledger.snapshot(CONVERSATION, 10),
            lambda: ledger.members(CONVERSATION),
            ledger.queue_depth,
            lambda: ledger.recall("acme", "ada", "k"),
            lambda: ledger.count_memories("acme", "ada"),
            lambda: collect_export(ledger.export("acme", "ada")),
            lambda: ledger.erase("acme", "ada"),
            ledger.guarantee,
        ]
        await asyncio.to_thread(server.kill)
        async with asyncio.timeout(5):
            for call in calls:
                with pytest.raises(LedgerUnavailable) as away:
                    await call()
                assert f"127.0.0.1:{server.port}" in str(away.value)
                assert away.value.retry_after is not None
        await asyncio.to_thread(server.start)
        await _wait_until_available(ledger)
        await ledger.settle(claim, with_finished(claim, text_entry(claim, "fine")), expect=0)


async def test_a_paused_redis_counts_as_unavailable(server: RedisServer) -> None:
    async with open_ledger(server.url, connect_timeout=0.3, command_timeout=0.3) as ledger:
        server.pause()
        try:
            async with asyncio.timeout(5):
                with pytest.raises(LedgerUnavailable):
                    await ledger.queue_depth()
        finally:
            server.resume()
        await _wait_until_available(ledger)


async def test_a_call_waits_for_the_end_of_a_short_outage(proxy: RecordingProxy) -> None:
    async with asyncio.timeout(5), open_ledger(proxy.url) as ledger:
        for _ in range(10):
            proxy.cut_connections()
            await ledger.accept(make_message(thread="u"))
        assert (await ledger.queue_depth()).queued == 10


async def test_a_redis_with_full_memory_is_unavailable_for_writing(server: RedisServer) -> None:
    async with open_ledger(server.url) as ledger, raw_client(server.url) as client:
        await client.config_set("maxmemory", "1")
        with pytest.raises(LedgerUnavailable, match="OOM"):
            await ledger.accept(make_message())
        await client.config_set("maxmemory", "0")
        await ledger.accept(make_message())
        claim = await answer_turn(ledger)
        await client.config_set("maxmemory", "1")
        feedback = Feedback(turn=claim.turn, rating="up")
        with pytest.raises(LedgerUnavailable, match="OOM"):
            await ledger.give_feedback(claim.conversation, "ada", feedback)
        assert not await ledger.withdraw_feedback(claim.conversation, "ada", claim.turn)


# Stores that are emptied or set back


async def test_forgotten_scripts_are_loaded_again(server: RedisServer) -> None:
    async with open_ledger(server.url) as ledger, raw_client(server.url) as client:
        await client.script_flush()
        await ledger.accept(make_message())
        await client.script_flush()
        await answer_turn(ledger)


async def test_an_empty_store_begins_a_new_epoch(server: RedisServer) -> None:
    async with open_ledger(server.url) as ledger, raw_client(server.url) as client:
        await ledger.accept(make_message())
        claim = await claim_turn(ledger)
        before = (await ledger.snapshot(CONVERSATION, 0)).cursor
        await client.flushall()
        with pytest.raises(Fenced):
            await ledger.append(claim, (), expect=0, lease=3.0)
        await ledger.accept(make_message())
        after = (await ledger.snapshot(CONVERSATION, 0)).cursor
        assert after.epoch != before.epoch
        assert after.offset == before.offset


async def test_a_restored_backup_begins_a_new_epoch(server: RedisServer) -> None:
    """Restores an older copy, then writes on until the offsets look as if nothing were lost."""
    copy = server.directory.with_suffix(".copy")
    async with open_ledger(server.url) as ledger:
        await ledger.accept(make_message("one"))
        await asyncio.to_thread(shutil.copytree, server.directory, copy)
        await ledger.accept(make_message("two"))
        before = (await ledger.snapshot(CONVERSATION, 0)).cursor
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(shutil.rmtree, server.directory / "appendonlydir")
        await asyncio.to_thread(
            shutil.copytree, copy / "appendonlydir", server.directory / "appendonlydir"
        )
        await asyncio.to_thread(shutil.rmtree, copy)
        await asyncio.to_thread(server.start)
        await _wait_until_available(ledger)
        assert (await ledger.snapshot(CONVERSATION, 0)).cursor.offset == 1
        await ledger.accept(make_message("three"))
        after = await ledger.read(CONVERSATION, before.offset, 10)
        assert after.last == before.offset
        assert after.epoch != before.epoch


# Two replicas


async def test_a_dead_replicas_turn_is_taken_over_when_its_lease_ends(
    server: RedisServer,
) -> None:
    async with open_ledger(server.url) as dead, open_ledger(server.url) as alive:
        await dead.accept(make_message())
        claim = await claim_turn(dead, lease=0.3)
        await dead.append(claim, (text_entry(claim, "half "),), expect=0, lease=0.3)
        async with asyncio.timeout(10):  # the wait for work alone would take 30 seconds
            taken = None
            while taken is None:
                await alive.wait_for_work(30.0)
                taken = await alive.claim("alive", lease=30.0, history=0)
        assert (taken.turn, taken.attempt, taken.reply) == (claim.turn, 2, "half ")
        for late in (dead.append(claim, (), expect=1, lease=3.0), dead.release(claim)):
            with pytest.raises(Fenced):
                await late
        await alive.settle(taken, with_finished(taken, text_entry(taken, "whole", 5)), expect=1)


async def test_a_message_accepted_by_one_replica_wakes_another_at_once(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(work_signal), "POLL_SECONDS", 60.0)  # it does not look by itself
    async with open_ledger(server.url) as here, open_ledger(server.url) as there:
        assert await there.claim("there", lease=3.0, history=0) is None
        waiting = asyncio.create_task(there.wait_for_work(30.0))
        await asyncio.sleep(0)
        await here.accept(make_message())
        async with asyncio.timeout(10):
            await waiting
        assert await there.claim("there", lease=3.0, history=0) is not None


async def test_a_stop_from_another_replica_is_seen_by_the_next_renewal(
    server: RedisServer,
) -> None:
    async with open_ledger(server.url) as owner, open_ledger(server.url) as other:
        await owner.accept(make_message())
        claim = await claim_turn(owner)
        assert await other.stop(CONVERSATION, None) == ("stopping", claim.turn)
        assert (await owner.append(claim, (), expect=0, lease=3.0)).stop_requested
