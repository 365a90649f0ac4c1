"""The Redis ledger on a real Cluster, which refuses any script that crosses slots.

Slots are moved and nodes killed while turns run.
"""

import asyncio

import pytest
from tests.memories import remember
from tests.plugins.ledgers.redis_cluster import run_cluster, slot_of
from tests.plugins.ledgers.redis_helpers import (
    CONVERSATION,
    claim_turn,
    loss_limitations,
    make_message,
    needs_redis,
    open_ledger,
    raw_client,
    retry_until_available,
    text_entry,
    with_finished,
)
from tests.plugins.ledgers.redis_load import LoadGenerator
from tests.plugins.ledgers.redis_server import run_redis

from palaver.errors import ConfigurationError, LedgerError, LedgerUnavailable
from palaver.exports import collect_export
from palaver.ledger import ConcurrencyPolicies
from palaver.messages import Conversation
from palaver_plugins.ledgers.redis import RedisLedger

pytestmark = needs_redis

KEEP_ALL = 1_000_000


async def test_every_method_works_on_all_nodes_of_a_cluster() -> None:
    async with (
        asyncio.timeout(20),
        run_cluster() as nodes,
        open_ledger(nodes.url, partitions=8) as ledger,
        open_ledger(nodes.masters[1].url, partitions=8) as other,
    ):
        threads = [f"t{number}" for number in range(16)]
        news = asyncio.Event()
        for thread in threads:
            await ledger.watch(Conversation("acme", "web", thread), lambda events: news.set())
        await remember(ledger, "acme", "ada", "k", "v")
        assert await other.recall("acme", "ada", "k") == "v"
        for thread in threads:
            news.clear()
            await other.accept(make_message(thread=thread))
            await news.wait()
        claims = [await claim_turn(ledger) for _ in threads]
        assert await other.claim("other", lease=30.0, history=0) is None
        for claim in claims:
            await ledger.append(claim, (text_entry(claim, "a "),), expect=0, lease=30.0)
            await ledger.release(claim)
        for claim in [await claim_turn(other) for _ in threads]:
            assert await ledger.stop(claim.conversation, None) == ("stopping", claim.turn)
            await other.settle(claim, with_finished(claim, text_entry(claim, "b", 2)), expect=1)
        for thread in threads:
            where = Conversation("acme", "web", thread)
            assert len((await other.read(where, 0, 10)).events) == 4
            assert (await ledger.snapshot(where, 2)).history[1].text == "a b"
            assert await ledger.members(where) == {"ada"}
        assert (await ledger.queue_depth()).queued == 0
        for node in nodes.masters:
            async with raw_client(node.url) as client:
                assert await client.dbsize() > 8
        assert (
            len((await collect_export(other.export("acme", "ada"))).conversations)
            == len(threads) + 1
        )
        assert (await ledger.erase("acme", "ada")).conversations == len(threads) + 1
        for node in nodes.masters:
            async with raw_client(node.url) as client:
                assert not [key async for key in client.scan_iter() if b"state" not in key]
        guarantee = await ledger.guarantee()
        assert all(str(node.port) in guarantee.promises[0] for node in nodes.masters)
        assert any("no replica" in loss for loss in loss_limitations(guarantee))


async def test_slots_move_while_turns_run() -> None:
    async with (
        asyncio.timeout(40),
        run_cluster() as nodes,
        open_ledger(nodes.url, partitions=4, events_kept=KEEP_ALL) as ledger,
    ):
        load = LoadGenerator(ledger)
        async with load.running(people=8):
            for partition in range(4):
                await load.wait_for_settled(10)
                slot = slot_of(partition)
                owner = await nodes.owner(slot)
                target = next(node for node in nodes.masters if node is not owner)
                async with nodes.migrate_slot(slot, target) as move:
                    await move.migrate(*(await move.remaining_keys())[::2])
                    await load.wait_for_refusal()
                assert await nodes.owner(slot) is target
            await load.wait_for_settled(10)
        findings = await load.findings()
        assert findings.is_clean, findings


class WithoutAbsentKey(RedisLedger):
    """Mutant: its scripts do not name the absent key."""

    async def start(self) -> None:
        self._keys.partitions = tuple(
            partition._replace(absent_key=partition.state) for partition in self._keys.partitions
        )
        await super().start()


@pytest.mark.parametrize(
    ("kind", "refusal", "reply"),
    [
        (RedisLedger, LedgerUnavailable, "and once"),
        (WithoutAbsentKey, LedgerError, "and onceonce"),
    ],
)
async def test_a_write_in_the_middle_of_a_move_is_made_once(
    kind: type[RedisLedger], refusal: type[LedgerError], reply: str
) -> None:
    async with (
        asyncio.timeout(20),
        run_cluster() as nodes,
        open_ledger(nodes.url, kind=kind) as ledger,
    ):
        await ledger.accept(make_message())
        claim = await claim_turn(ledger)
        await ledger.accept(make_message(), ConcurrencyPolicies(default="steer"))
        await ledger.append(claim, (text_entry(claim, "and "),), expect=0, lease=30.0)
        slot = slot_of(0)
        owner = await nodes.owner(slot)
        target = next(node for node in nodes.masters if node is not owner)
        entries = (text_entry(claim, "once", 4),)
        async with nodes.migrate_slot(slot, target) as move:
            await move.migrate(*(key for key in await move.remaining_keys() if key.endswith(b":s")))
            with pytest.raises(refusal) as refused:
                await ledger.append(claim, entries, expect=1, lease=30.0)
            assert type(refused.value) is refusal
        await ledger.append(claim, entries, expect=1, lease=30.0)
        async with raw_client(target.url) as client:
            (key,) = [key async for key in client.scan_iter(b"*:r:*")]
            assert (await client.get(key)).decode() == reply


async def test_a_single_key_is_found_on_either_side_of_a_move() -> None:
    async with asyncio.timeout(20), run_cluster() as nodes, open_ledger(nodes.url) as ledger:
        await remember(ledger, "acme", "ada", "k", "moved")
        before = (await ledger.snapshot(CONVERSATION, 0)).cursor
        slot = slot_of(0)
        owner = await nodes.owner(slot)
        target = next(node for node in nodes.masters if node is not owner)
        async with nodes.migrate_slot(slot, target) as move:
            await move.migrate(*(key for key in await move.remaining_keys() if b"ada" in key))
            assert await ledger.recall("acme", "ada", "k") == "moved"
            assert await ledger.recall("acme", "bob", "k") is None
            assert not [key for key in await move.remaining_keys() if b"ada" in key]
        assert await ledger.recall("acme", "ada", "k") == "moved"
        assert (await ledger.snapshot(CONVERSATION, 0)).cursor.epoch != before.epoch


async def test_nothing_acknowledged_is_lost_when_a_node_is_killed_under_load() -> None:
    async with (
        asyncio.timeout(60),
        run_cluster(replicated=True) as nodes,
        open_ledger(nodes.url, partitions=4, replicas=1, events_kept=KEEP_ALL) as ledger,
    ):
        here = Conversation("acme", "web", "t5")  # on the node that is killed, and watched there
        slot = slot_of(ledger._keys.partition(str(here)).number)
        victim = await nodes.owner(slot)
        assert victim is nodes.masters[0]
        news = asyncio.Event()
        await ledger.watch(here, lambda events: news.set())
        load = LoadGenerator(ledger)
        async with load.running(people=8):
            await load.wait_for_settled(40)
            await asyncio.to_thread(victim.kill)
            await load.wait_for_refusal()
            async with asyncio.timeout(20):
                while await nodes.owner(slot) is victim:  # noqa: ASYNC110  there is no notification
                    await asyncio.sleep(0.05)
            await asyncio.to_thread(victim.start)
            news.clear()
            await news.wait()
            await load.wait_for_settled(40)
        findings = await load.findings()
        assert findings.is_clean, findings
        assert f"127.0.0.1:{victim.port}" not in (await ledger.guarantee()).promises[0]


async def test_turns_of_the_other_nodes_are_claimed_while_one_is_away() -> None:
    async with (
        asyncio.timeout(20),
        run_cluster() as nodes,
        open_ledger(nodes.url, partitions=6) as ledger,
    ):
        homes = {
            partition.number: await nodes.owner(slot_of(partition.number))
            for partition in ledger._keys.partitions
        }
        victim, alive = homes[0], set()
        for number in range(30):
            where = make_message(thread=f"t{number}")
            turn = (await ledger.accept(where)).turn
            if homes[ledger._keys.partition(str(where.conversation)).number] is not victim:
                alive.add(turn)
        await asyncio.to_thread(victim.kill)
        assert {(await claim_turn(ledger)).turn for _ in alive} == alive
        with pytest.raises(LedgerUnavailable):
            await ledger.claim("worker", lease=3.0, history=0)
        assert 0 < len(alive) < 30


async def test_any_seed_will_do_and_it_must_be_a_node() -> None:
    async with asyncio.timeout(20), run_cluster() as nodes, run_redis() as alone:
        await asyncio.to_thread(nodes.masters[0].kill)
        with pytest.raises(LedgerUnavailable):
            async with open_ledger(nodes.masters[0].url):
                pass
        async with open_ledger(nodes.url, prefix="other", partitions=1) as ledger:
            await retry_until_available(lambda: ledger.accept(make_message()))
        with pytest.raises(ConfigurationError, match="no Cluster node"):
            async with open_ledger(f"redis+cluster://127.0.0.1:{alone.port}"):
                pass
