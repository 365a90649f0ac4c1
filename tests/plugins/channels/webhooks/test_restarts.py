"""A server that dies at any point loses no event, and repeats one under the same id."""

import asyncio
import itertools
import json
import random
from collections.abc import Collection
from pathlib import Path

import pytest
from aiohttp import web
from tests.plugins.channels.webhooks.support import (
    Caller,
    Clock,
    Gate,
    Receiver,
    calling,
    channel_of,
    endpoint_settings,
    read,
    receiving,
    receiving_by,
    secret_of,
    states,
)
from tests.plugins.ledgers.redis_server import redis_server

from palaver import Record
from palaver.platforms import ParkedConversations, Times
from palaver.testing import MemoryLedger
from palaver_plugins.channels.webhooks.channel import WebhookChannel
from palaver_plugins.channels.webhooks.conversation import RETRIES, schedule_retry
from palaver_plugins.channels.webhooks.events import event_id
from palaver_plugins.ledgers.redis import RedisLedger, RedisLedgerSettings
from palaver_plugins.ledgers.sqlite import SQLiteLedger, SQLiteLedgerSettings

pytestmark = pytest.mark.slow
ORDERS = secret_of("orders")


def successor(tmp_path: Path, receiver: Receiver) -> WebhookChannel:
    settings = endpoint_settings(tmp_path, "orders", callback=receiver.url)
    return channel_of({"orders": settings})


async def test_a_death_between_post_and_note_repeats_the_event(tmp_path: Path) -> None:
    async with receiving(ORDERS) as receiver, calling(tmp_path, receiver.url) as caller:

        async def hang() -> None:
            await asyncio.Event().wait()

        receiver.hold = hang
        turn = await caller.say("Hello")
        await receiver.wait_for(1)  # it is taken, and the answer never comes
        (state,) = states(json.loads((await caller.outbox()).value))
        assert state["attempts"] == "1"
        receiver.hold = None
        await caller.restart(successor(tmp_path, receiver))
        content = await caller.until_delivered()
        assert content["posted"] == [turn]
        one, two = receiver.events
        assert one.pop("webhook")["webhook-id"] == two.pop("webhook")["webhook-id"]
        assert one == two


class NoListener:
    async def stop_listening(self) -> None:
        pass

    def open_requests(self) -> int:
        return 0


async def test_a_server_that_shuts_down_leaves_its_outboxes_to_others_at_once(
    tmp_path: Path,
) -> None:
    gate = Gate()
    async with (
        receiving(ORDERS) as receiver,
        calling(tmp_path, receiver.url, skills=(gate,)) as caller,
    ):
        await caller.say("Hello", skill="gate")
        await caller.server.shut_down(NoListener())
        async with asyncio.timeout(10):
            while (await caller.outbox()).due_at != caller.clock.now:  # noqa: ASYNC110  a record
                await asyncio.sleep(0.002)
        for _ in range(100):
            caller.wake()
            await asyncio.sleep(0)
        assert (await caller.outbox()).due_at == caller.clock.now


async def test_deaths_at_every_step_lose_nothing(tmp_path: Path) -> None:
    """The ledger of a dying server fails at its first, second, … write; another one goes on."""
    for step in itertools.count(1):
        clock = Clock()
        ledger = DyingLedger(clock, step)
        async with (
            receiving(ORDERS) as receiver,
            calling(tmp_path, receiver.url, ledger=ledger, clock=clock) as caller,
        ):
            receiver.answers = [web.Response(status=500)]
            await caller.say("Hello")
            async with asyncio.timeout(5):
                while not ledger.is_dead and not await is_waiting(caller):  # noqa: ASYNC110
                    await asyncio.sleep(0.002)
            died, ledger.is_dead, ledger.step = ledger.is_dead, False, 0
            await caller.restart(successor(tmp_path, receiver))
            async with asyncio.timeout(10):
                while not await is_posted(caller):
                    caller.clock.now += 7
                    await asyncio.sleep(0.005)
            assert len(set(receiver.ids)) == 1
            assert 2 <= len(receiver.events) <= 3
        if not died:
            assert step > 3
            return


async def is_waiting(caller: Caller) -> bool:
    record = await caller.outbox()
    return record.due_at is None and b"attempts" in record.value


async def is_posted(caller: Caller) -> bool:
    record = await caller.outbox()
    return b"posted" in record.value


class DyingLedger(MemoryLedger):
    """A ledger that answers no write of a record from the given one on, until it is revived."""

    def __init__(self, clock: Clock, step: int) -> None:
        super().__init__(clock=clock, monotonic=clock)
        self.step = step
        self.is_dead = False
        self._writes = 0

    async def write_record(
        self, channel: str, key: str, value: bytes, *, expect: int, due_in: float | None = None
    ) -> Record:
        self._writes += 1
        if self.step and self._writes >= self.step:
            self.is_dead = True
            await asyncio.Event().wait()
        return await super().write_record(channel, key, value, expect=expect, due_in=due_in)


class RacingLedger(MemoryLedger):
    """A ledger that deletes the record which wakes an outbox just after the outbox' owner has read
    it, in order to write it again."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock, monotonic=clock)
        self._is_read = asyncio.Event()
        self._is_deleted = asyncio.Event()
        self.races = 0

    async def read_record(self, channel: str, key: str) -> Record | None:
        record = await super().read_record(channel, key)
        if channel == RETRIES and record is not None and not self.races:
            self.races += 1
            self._is_read.set()
            await self._is_deleted.wait()
        return record

    async def delete_record(self, channel: str, key: str, *, expect: int) -> None:
        if channel == RETRIES:
            await self._is_read.wait()
        await super().delete_record(channel, key, expect=expect)
        self._is_deleted.set()


async def test_the_record_that_wakes_an_outbox_is_not_lost_in_a_race(tmp_path: Path) -> None:
    clock = Clock()
    ledger = RacingLedger(clock)
    async with (
        receiving(ORDERS) as receiver,
        calling(tmp_path, receiver.url, ledger=ledger, clock=clock) as caller,
    ):
        receiver.answers = [web.Response(status=500) for _ in range(2)]
        await caller.say("Hello")
        await caller.pass_pause(1)
        await caller.pass_pause(2)
        assert ledger.races == 1
        await caller.until_delivered()


async def test_a_turn_that_ends_while_nobody_follows_is_told(tmp_path: Path) -> None:
    gate = Gate()
    async with (
        receiving(ORDERS) as receiver,
        calling(tmp_path, receiver.url, skills=(gate,)) as caller,
    ):
        turn = await caller.say("Hello", skill="gate")
        await caller.restart(channel_of({}))  # which lacks the endpoint
        gate.open.set()
        async with asyncio.timeout(5):
            while (await caller.server.snapshot(caller.conversation())).pending:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        await caller.restart(successor(tmp_path, receiver))
        caller.clock.now += 60
        (event,) = await receiver.wait_for(1)
        assert event["data"]["turn"] == turn


async def test_an_outbox_with_an_owner_is_not_woken(tmp_path: Path) -> None:
    gate = Gate()
    async with (
        receiving(ORDERS) as receiver,
        calling(tmp_path, receiver.url, skills=(gate,)) as caller,
    ):
        records = caller.server.records

        async def until_due_in(seconds: float, channel: str, key: str) -> Record:
            async with asyncio.timeout(5):
                while True:
                    record = await records.read_record(channel, key)
                    if record is not None and record.due_at == caller.clock.now + seconds:
                        return record
                    await asyncio.sleep(0.002)

        await caller.say("Hello", skill="gate")
        outbox = (await caller.outbox()).key
        owned = await until_due_in(30, "webhooks", outbox)
        await schedule_retry(records, caller.conversation(), 0.0)
        (retry,) = await records.list_records(RETRIES)
        await until_due_in(5, RETRIES, retry.key)
        assert (await caller.outbox()).version == owned.version
        gate.open.set()
        await caller.until_delivered()
        caller.clock.now += 5
        async with asyncio.timeout(5):
            while await records.list_records(RETRIES):  # noqa: ASYNC110
                await asyncio.sleep(0.002)


async def test_two_servers_deliver_once(tmp_path: Path) -> None:
    async with receiving(ORDERS) as receiver, calling(tmp_path, receiver.url) as caller:
        other = successor(tmp_path, receiver)
        await other.start(caller.server)
        try:
            for number in range(20):
                await caller.say(f"{number}", thread=f"t{number % 4}")
            events = await receiver.wait_for(20)
            for thread in range(4):
                await caller.until_delivered(5, f"t{thread}")
        finally:
            await other.close()
        assert len(receiver.events) == 20
        for thread in range(4):
            texts = [e["data"]["text"] for e in events if e["data"]["thread"] == f"t{thread}"]
            assert texts == [f"{number}" for number in range(thread, 20, 4)]


async def test_the_schedule_survives_a_restart_of_the_whole_server(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    clock = Clock()
    async with receiving(ORDERS) as receiver:
        receiver.answers = [web.Response(status=500) for _ in range(3)]
        first = sqlite(path, clock)
        async with calling(tmp_path, receiver.url, ledger=first, clock=clock) as caller:
            await caller.say("Hello")
            await caller.pass_pause(1)
            pause = await caller.until_waiting(2)
        second = sqlite(path, clock)
        async with calling(tmp_path, receiver.url, ledger=second, clock=clock) as caller:
            assert await caller.pass_pause(2) == pause
            await caller.pass_pause(3)
            await caller.until_delivered()
        assert len(receiver.events) == 4
        assert len(set(receiver.ids)) == 1


def sqlite(path: Path, clock: Clock) -> SQLiteLedger:
    settings = SQLiteLedgerSettings(path=path)
    return SQLiteLedger(settings, path.parent, clock=clock, monotonic=clock)


async def test_a_reply_whose_events_are_gone_is_told_and_no_older_one(tmp_path: Path) -> None:
    """The stream has lost what the outbox has not seen; the history tells."""
    gate, clock = Gate(), Clock()
    settings = SQLiteLedgerSettings(path=tmp_path / "ledger.sqlite", events_kept=2)
    ledger = SQLiteLedger(settings, tmp_path, clock=clock, monotonic=clock)
    async with (
        receiving(ORDERS) as receiver,
        calling(tmp_path, ledger=ledger, clock=clock, skills=(gate,)) as caller,
    ):
        for _ in range(2):
            turn = await caller.say("without a callback")
            await read(caller, turn)
        await caller.say("while it comes", skill="gate")
        await caller.until(lambda content: content.get("posted") == [turn])
        await caller.restart(successor(tmp_path, receiver))
        gate.open.set()
        for number in range(3):
            await caller.say(f"{number}")
            await receiver.wait_for(number + 2)
        await caller.until_delivered(4)
        await caller.restart(channel_of({}))
        for number in range(3, 6):
            await caller.say(f"{number}")
        async with asyncio.timeout(5):
            while (await caller.server.snapshot(caller.conversation())).pending:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        await caller.restart(successor(tmp_path, receiver))
        caller.clock.now += 60
        await caller.until_delivered(7)
        texts = [event["data"]["text"] for event in receiver.events]
        assert texts == ["while it comes", *"012345"]


@pytest.mark.redis
async def test_the_schedule_is_kept_by_redis(tmp_path: Path) -> None:
    async with redis_server() as url, receiving(ORDERS) as receiver:
        receiver.answers = [web.Response(status=500) for _ in range(3)]
        ledger = RedisLedger(RedisLedgerSettings(url=url))
        times = Times(poll=0.01, retries=(0.05,) * 5)
        async with calling(
            tmp_path, receiver.url, ledger=ledger, channel={"times": times}
        ) as caller:
            await caller.say("Hello")
            await receiver.wait_for(4)
            await caller.until_delivered()
            receiver.answers = [web.Response(status=410)]
            await caller.say("Gone")
            await caller.until(lambda content: "410 Gone" in content.get("problem", ""))
            parked = ParkedConversations(caller.server.records, "webhooks")
            assert await parked.replay(caller.conversation())
            await caller.until_delivered(2)
        assert len(set(receiver.ids)) == 2


class Unreliable(Receiver):
    """A receiver that fails by chance, and remembers the events that it has taken."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(ORDERS)
        self.taken: dict[str, list[str]] = {}
        """The texts that came with each id."""
        self._chance = chance

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        response = await super().handle(request)
        fault = self._chance.choice(["500", "429", "drop", "lost", "", "", "", ""])
        if fault == "500":
            return web.Response(status=500)
        if fault == "429":
            return web.Response(status=429, headers={"Retry-After": "3"})
        event = self.events[-1]
        if fault != "drop":
            self.taken.setdefault(event["webhook"]["webhook-id"], []).append(event["data"]["text"])
        if fault and request.transport is not None:
            request.transport.close()
        return response


@pytest.mark.parametrize("seed", range(3))
async def test_by_chance_faults_and_deaths_lose_nothing(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with receiving_by(Unreliable(chance)) as receiver:
        async with calling(tmp_path, receiver.url) as caller:
            others = [successor(tmp_path, receiver) for _ in range(2)]
            for other in others:
                await other.start(caller.server)
            wanted: dict[str, str] = {}
            try:
                for number in range(60):
                    thread = f"t{chance.randrange(6)}"
                    attempts = [
                        caller.say(f"{number}", thread=thread, id=f"msg_{number}") for _ in range(2)
                    ]
                    first, second = await asyncio.gather(*attempts)
                    assert first == second
                    wanted[first] = f"{number}"
                    if chance.random() < 0.2:
                        await caller.restart(successor(tmp_path, receiver))
                async with asyncio.timeout(30):
                    while not await all_delivered(caller, wanted):
                        await pass_time(caller)
                        await asyncio.sleep(0.005)
            finally:
                for other in others:
                    await other.close()
        ids = {event_id(turn, "done"): [text] for turn, text in wanted.items()}
        assert {id: sorted(set(texts)) for id, texts in receiver.taken.items()} == ids


async def pass_time(caller: Caller) -> None:
    """Move the clock to the next attempt, unless somebody delivers."""
    records = caller.server.records
    owned = [record.due_at for record in await records.list_records("webhooks", "outbox:")]
    waiting = [record.due_at for record in await records.list_records(RETRIES) if record.due_at]
    if waiting and not any(owned):
        caller.clock.now = max(caller.clock.now, min(waiting))


async def all_delivered(caller: Caller, turns: Collection[str]) -> bool:
    records = await caller.server.records.list_records("webhooks", "outbox:")
    posted = {turn for record in records for turn in json.loads(record.value).get("posted", ())}
    return posted == set(turns)
