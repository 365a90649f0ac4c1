"""Admission control: which messages are refused before they are stored, and that counts add up."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings
from tests.proof_settings import short_or_long
from tests.server.skills_under_test import Parrot

from palaver.admission import control
from palaver.admission.control import (
    REPLY_TOKENS,
    Admission,
    AdmissionControl,
)
from palaver.admission.quotas import Bucket, Quotas
from palaver.admission.scheduler import Scheduler
from palaver.config.settings import AdmissionSettings, Lane, RoutingSettings, Settings
from palaver.errors import LedgerUnavailable, Overloaded, PalaverError, TooMany
from palaver.ledger import (
    QUEUE_ALL,
    Claim,
    ConcurrencyPolicies,
    Receipt,
    UnsettledCount,
)
from palaver.messages import Conversation, Finished, Message, new_id
from palaver.metrics import Metrics
from palaver.server import Server
from palaver.testing import ListKnowledge, MemoryLedger, ScriptedEngine, ScriptedReply


class FixedWait(Scheduler):
    """A scheduler whose estimate a test sets."""

    seconds = 0.0

    def estimated_wait(self, tenant: str, lane: Lane, starting: int) -> float:
        return self.seconds


class UnavailableLedger(MemoryLedger):
    """A ledger that stores nothing."""

    async def accept(self, message: Message, policies: ConcurrencyPolicies = QUEUE_ALL) -> Receipt:
        raise LedgerUnavailable("away")


class Entrance:
    """Admission control in front of a ledger, with a clock and a wait that a test sets."""

    def __init__(self, ledger: MemoryLedger | None = None, **values: object) -> None:
        self.now = 1000.0
        self.metrics = Metrics()
        self.ledger = ledger or MemoryLedger()
        self.scheduler = FixedWait(1)
        chosen = AdmissionSettings.model_validate(values)
        self.quotas = Quotas(chosen, lambda: self.now)
        self.control = AdmissionControl(
            chosen,
            ledger=self.ledger,
            find_scheduler=lambda message: self.scheduler,
            quotas=self.quotas,
            metrics=self.metrics,
        )

    async def send(
        self,
        person: str = "ada",
        tenant: str = "a",
        *,
        text: str = "hi",
        id: str = "",
        thread: str = "",
        policies: ConcurrencyPolicies = QUEUE_ALL,
    ) -> Receipt:
        conversation = Conversation(tenant, "test", thread or id or new_id())
        message = Message(conversation=conversation, id=id or new_id(), person=person, text=text)
        admission = await self.control.admit(message)
        try:
            receipt = await self.ledger.accept(message, policies)
        except PalaverError as error:
            self.control.not_stored(admission, error)
            raise
        self.control.stored(admission, receipt)
        return receipt

    async def answer(self) -> None:
        """Claim the next turn here, and settle it."""
        claim = await self.ledger.claim("worker", lease=60, history=0)
        assert claim is not None
        self.control.turn_started(claim.turn)
        finished = Finished(turn=claim.turn, outcome="done", length=0)
        await self.ledger.settle(claim, [finished], expect=0)
        self.control.turn_ended(claim)

    async def refused(self, kind: type[PalaverError], *who: str, **values: Any) -> float:
        """Send a message that must be refused. Return after how many seconds to retry."""
        queued = (await self.ledger.queue_depth()).queued
        with pytest.raises(kind) as refusal:
            await self.send(*who, **values)
        assert (await self.ledger.queue_depth()).queued == queued, "it was stored"
        assert refusal.value.retry_after is not None
        return refusal.value.retry_after

    def count(self, reason: str) -> float:
        shown = self.metrics.exposition().decode()
        line = f'palaver_refusals_total{{reason="{reason}"}} '
        return float(shown.partition(line)[2].partition("\n")[0] or 0)


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"person": {"turns": 1}}, "'ada' has 1 messages without a reply"),
        ({"tenant": {"turns": 1}}, "'tenant a' has 1 messages without a reply"),
        ({"person": {"messages_per_minute": 1}}, "'ada' has used up 1 messages per minute"),
        ({"tenant": {"messages_per_minute": 1}}, "'tenant a' has used up 1 messages per minute"),
    ],
)
async def test_a_refusal_names_the_person_or_the_tenant(limits: dict[str, Any], named: str) -> None:
    entrance = Entrance(**limits)
    await entrance.send()
    with pytest.raises(TooMany, match=named):
        await entrance.send()


# Unsettled turns


async def test_a_person_has_a_limit_of_unsettled_turns() -> None:
    entrance = Entrance(person={"turns": 2})
    await entrance.send()
    await entrance.send()
    assert await entrance.refused(TooMany) >= 1
    await entrance.send("bob")
    await entrance.answer()
    await entrance.send()
    assert entrance.count("person_turns") == 1


async def test_a_tenant_has_a_limit_of_unsettled_turns() -> None:
    entrance = Entrance(tenant={"turns": 2}, tenants={"big": {"turns": 3}})
    for tenant, turns in {"a": 2, "big": 3}.items():
        for number in range(turns):
            await entrance.send(f"p{number}", tenant)
        await entrance.refused(TooMany, "new", tenant)
    assert entrance.count("tenant_turns") == 2


async def test_a_repeated_message_is_not_refused() -> None:
    entrance = Entrance(person={"turns": 1})
    first = await entrance.send(id="m1")
    assert await entrance.send(id="m1") == Receipt(turn=first.turn, ahead=0, duplicate=True)
    await entrance.refused(TooMany)


async def test_a_copy_is_not_refused_while_the_message_is_being_stored() -> None:
    class Slow(MemoryLedger):
        async def accept(
            self, message: Message, policies: ConcurrencyPolicies = QUEUE_ALL
        ) -> Receipt:
            await asyncio.sleep(0)
            return await super().accept(message, policies)

    entrance = Entrance(Slow(), person={"turns": 1})
    receipts = await asyncio.gather(*(entrance.send(id="m1") for _ in range(5)))
    assert sum(not receipt.duplicate for receipt in receipts) == 1
    assert entrance.control.unsettled_turns == 1


async def test_a_duplicate_or_joined_message_is_counted_once() -> None:
    entrance = Entrance()
    merging = ConcurrencyPolicies(default="merge")
    for id in ("1", "2", "1"):
        await entrance.send(id=id, thread="t", policies=merging)
    assert entrance.control.unsettled_turns == (await entrance.ledger.queue_depth()).queued == 1


async def test_a_duplicate_that_another_server_has_accepted_is_counted_once() -> None:
    ledger = MemoryLedger()
    await Entrance(ledger).send(id="1")
    entrance = Entrance(ledger)
    assert (await entrance.send(id="1")).duplicate
    assert entrance.control.unsettled_turns == 0
    await entrance.control.refresh()
    assert entrance.control.unsettled_turns == 1


async def test_a_message_that_could_not_be_stored_does_not_count() -> None:
    values = {"person": {"turns": 1, "messages_per_minute": 1}}
    entrance = Entrance(UnavailableLedger(), **values)
    for _ in range(3):
        with pytest.raises(LedgerUnavailable):
            await entrance.send()
    assert entrance.count("ledger") == 3
    assert entrance.control.unsettled_turns == 0


async def test_a_turn_that_waits_for_its_own_conversation_is_not_about_to_start() -> None:
    entrance = Entrance()
    for id in ("1", "2", "3"):
        await entrance.send(id=id, thread="t")
    await entrance.send(thread="u")
    assert entrance.control._to_start == {(entrance.scheduler, "a", "channel"): 2}
    assert entrance.control.unsettled_turns == 4


async def test_concurrent_messages_are_all_counted() -> None:
    entrance = Entrance(person={"turns": 3})
    results = await asyncio.gather(*(entrance.send() for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(result, Receipt) for result in results) == 3


# Quotas by the minute


async def test_a_person_has_a_quota_of_messages_per_minute() -> None:
    entrance = Entrance(
        person={"messages_per_minute": 2}, tenants={"b": {"messages_per_minute": 3}}
    )
    for _ in range(2):
        await entrance.send()
    assert await entrance.refused(TooMany) == pytest.approx(30)
    entrance.now += 29
    assert await entrance.refused(TooMany) == pytest.approx(1)
    entrance.now += 1
    await entrance.send()
    await entrance.send("bob")
    assert entrance.count("person_messages") == 2


async def test_a_tenant_has_a_quota_of_messages_per_minute() -> None:
    entrance = Entrance(
        tenant={"messages_per_minute": 2}, tenants={"b": {"messages_per_minute": 3}}
    )
    for tenant, most in {"a": 2, "b": 3}.items():
        for number in range(most):
            await entrance.send(f"p{number}", tenant)
        await entrance.refused(TooMany, "new", tenant)
    assert entrance.count("tenant_messages") == 2


@pytest.mark.parametrize(
    ("owner", "quota"),
    [
        ("person", {"person": {"tokens_per_minute": 60}}),
        ("tenant", {"tenant": {"tokens_per_minute": 60}}),
        ("tenant", {"tenants": {"a": {"tokens_per_minute": 60}}}),
    ],
)
async def test_a_quota_of_tokens_may_be_overdrawn_once(owner: str, quota: dict[str, Any]) -> None:
    entrance = Entrance(**quota)
    await entrance.send()
    entrance.quotas.take("tokens", "a", "ada", 90)
    assert await entrance.refused(TooMany) == pytest.approx(31)
    entrance.now += 31
    await entrance.send()
    assert entrance.count(f"{owner}_tokens") == 1


def test_a_bucket_holds_no_more_than_a_minutes_worth() -> None:
    bucket = Bucket(10, now=0.0)
    bucket.take(10, now=0.0)
    assert bucket.seconds_until_one(0.0) == pytest.approx(6)
    bucket.take(10, now=3600.0)
    assert bucket.seconds_until_one(3600.0) == pytest.approx(6)


def test_buckets_that_are_full_again_are_forgotten() -> None:
    clock = SimpleNamespace(now=0.0)
    chosen = AdmissionSettings.model_validate({"person": {"messages_per_minute": 1}})
    quotas = Quotas(chosen, lambda: clock.now)
    for number in range(10_000):
        quotas.take("messages", "a", str(number), 1)
        clock.now += 1
    assert len(quotas._buckets) < 3_000


# The whole queue


def cost(text: str) -> int:
    return len(text) // 4 + REPLY_TOKENS


async def test_a_full_queue_refuses() -> None:
    entrance = Entrance(queue_tokens=4 * cost("hi"), tenant_share=1)
    for number in range(4):
        await entrance.send("ada", f"t{number}")
    assert await entrance.refused(Overloaded, "ada", "t9") >= 1
    assert entrance.count("queue") == 1


async def test_a_long_message_takes_more_of_the_queue() -> None:
    text = "x" * 4 * 10_000
    entrance = Entrance(queue_tokens=20_000, tenant_share=1)
    await entrance.send(text=text)
    await entrance.refused(Overloaded, text=text)
    await entrance.send()


async def test_one_tenant_fills_its_share_and_leaves_room_for_others() -> None:
    entrance = Entrance(queue_tokens=10 * cost("hi"), tenant_share=0.5)
    for _ in range(5):
        await entrance.send()
    await entrance.refused(Overloaded)
    for _ in range(2):
        await entrance.send("bob", "b")
    await entrance.refused(Overloaded, "bob", "b")
    await entrance.send("cleo", "c")


async def test_an_empty_queue_takes_any_message() -> None:
    entrance = Entrance(queue_tokens=1)
    await entrance.send(text="x" * 4000)
    await entrance.refused(Overloaded)


async def test_a_message_that_would_wait_too_long_is_refused() -> None:
    entrance = Entrance(max_wait=30)
    entrance.scheduler.seconds = 30.0
    await entrance.send()
    entrance.scheduler.seconds = 42.0
    assert await entrance.refused(Overloaded) == pytest.approx(12)
    entrance.scheduler.seconds = 9000.0
    assert await entrance.refused(Overloaded) == 60
    assert entrance.count("wait") == 2


# The ledger's count


async def test_before_it_refuses_it_asks_the_ledger_for_its_count() -> None:
    entrance = Entrance(person={"turns": 1})
    await entrance.send()
    claim = await entrance.ledger.claim("another server's", lease=60, history=0)
    assert claim is not None
    finished = Finished(turn=claim.turn, outcome="done", length=0)
    await entrance.ledger.settle(claim, [finished], expect=0)
    await entrance.send()


async def test_turns_that_another_server_has_accepted_count() -> None:
    ledger = MemoryLedger()
    for _ in range(2):
        await Entrance(ledger).send()
    entrance = Entrance(ledger, person={"turns": 3})
    await entrance.control.refresh()
    await entrance.send()
    await entrance.refused(TooMany)


async def test_many_refusals_ask_the_ledger_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(MemoryLedger):
        asked = 0

        async def count_unsettled(self) -> tuple[UnsettledCount, ...]:
            self.asked += 1
            return await super().count_unsettled()

    ledger = Counting()
    entrance = Entrance(ledger, person={"turns": 1})
    await entrance.send()
    monkeypatch.setitem(vars(control), "REFRESH_INTERVAL", 3600.0)
    await asyncio.gather(*(entrance.refused(TooMany) for _ in range(20)))
    await entrance.refused(TooMany)
    assert ledger.asked == 1
    monkeypatch.setitem(vars(control), "REFRESH_INTERVAL", 0.0)
    await entrance.refused(TooMany)
    assert ledger.asked == 2


async def test_changes_during_a_refresh_are_not_lost() -> None:
    class Slow(MemoryLedger):
        def __init__(self) -> None:
            super().__init__()
            self.counted = asyncio.Event()
            self.go = asyncio.Event()

        async def count_unsettled(self) -> tuple[UnsettledCount, ...]:
            found = await super().count_unsettled()
            self.counted.set()
            await self.go.wait()
            return found

    ledger = Slow()
    entrance = Entrance(ledger)
    await entrance.send()
    refresh = asyncio.create_task(entrance.control.refresh())
    await ledger.counted.wait()
    await entrance.send()
    assert entrance.control.unsettled_turns == 2
    ledger.go.set()
    await refresh
    assert entrance.control.unsettled_turns == 2
    await entrance.answer()
    await entrance.answer()
    assert entrance.control.unsettled_turns == 0


async def test_a_turn_that_began_on_another_server_is_not_about_to_start_for_ever() -> None:
    entrance = Entrance()
    await entrance.send()
    for _ in range(2):
        assert entrance.control._to_start == {(entrance.scheduler, "a", "channel"): 1}
        await entrance.control.refresh()
    assert not entrance.control._to_start


async def test_a_turn_that_another_server_has_settled_counts_no_more() -> None:
    ledger, engine = MemoryLedger(), ScriptedEngine(lambda _: ScriptedReply(text="done"))
    chosen = Settings(
        admission=AdmissionSettings.model_validate({"person": {"turns": 3}}),
        routing=RoutingSettings(default="parrot", consult_engine=False),
    )

    def server() -> Server:
        return Server(
            chosen,
            ledger=ledger,
            engine=engine,
            knowledge=ListKnowledge(),
            skills={"parrot": Parrot()},
        )

    def message(number: int) -> Message:
        conversation = Conversation("a", "test", f"t{number}")
        return Message(conversation=conversation, id="1", person="ada", text="hi")

    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(server())
        await here._dispatcher.close(0)  # the other one runs the turns
        for number in range(3):
            await here.accept(message(number))
        with pytest.raises(TooMany):
            await here.accept(message(3))
        await stack.enter_async_context(server())
        await settled(ledger)
        await until_accepted(here, message(4))


async def settled(ledger: MemoryLedger) -> None:
    async with asyncio.timeout(5):
        while (depth := await ledger.queue_depth()).queued or depth.running:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def until_accepted(server: Server, message: Message) -> None:
    async with asyncio.timeout(5):
        while True:  # two looks have some time between them
            try:
                await server.accept(message)
                return
            except TooMany:
                await asyncio.sleep(0.02)


# The counts


class CountedLedger:
    """Only the count of a ledger, as a test keeps it."""

    def __init__(self) -> None:
        self.turns: dict[int, Message] = {}

    async def count_unsettled(self) -> tuple[UnsettledCount, ...]:
        return tuple(
            UnsettledCount(
                tenant=message.conversation.tenant,
                person=message.person,
                turns=1,
                bytes=len(message.text),
            )
            for message in self.turns.values()
        )


Step = tuple[str, int]
STORES = {
    "store": Receipt(turn="", ahead=0, duplicate=False),
    "store_behind": Receipt(turn="", ahead=1, duplicate=False),
    "store_joined": Receipt(turn="", ahead=0, duplicate=False, joined=True),
}
STEPS = ("admit", *STORES, "fail", "start", "end", "refresh")


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 5)), max_size=60))
@settings(max_examples=short_or_long(200, 5_000), deadline=None)
def test_the_counts_follow_every_message(steps: Sequence[Step]) -> None:
    asyncio.run(follow(steps))


async def follow(steps: Sequence[Step]) -> None:
    account = Account()
    for name, n in steps:
        await account.take(name, n)
        account.check()
    for n in range(6):
        await account.take("fail", n)
        await account.take("end", n)
    account.check()
    control = account.control
    assert control.unsettled_turns == control.unsettled_tokens == 0
    assert not control._to_start
    await control.refresh()
    for part in control._parts:
        assert not part.turns
        assert not part.tokens


class Account:
    """Admission control, and a plain account of the messages that it should count."""

    def __init__(self) -> None:
        self.ledger = CountedLedger()
        chosen, scheduler = AdmissionSettings(), Scheduler(1)
        self.control = AdmissionControl(
            chosen,
            ledger=self.ledger,  # type: ignore[arg-type]  # the count is all that is asked of it
            find_scheduler=lambda message: scheduler,
            quotas=Quotas(chosen, lambda: 0.0),
            metrics=Metrics(),
        )
        self.messages = [
            Message(
                conversation=Conversation(f"t{n % 2}", "test", str(n)),
                id=str(n),
                person=f"p{n % 3}",
                text="x" * 40 * n,
            )
            for n in range(6)
        ]
        self.admitted: dict[int, Admission] = {}

    async def take(self, name: str, n: int) -> None:
        """Take a step, if it applies to message ``n``."""
        if name == "refresh":
            await self.control.refresh()
        elif n in self.ledger.turns:
            self.run(name, n)
        elif n in self.admitted:
            self.store(name, n)
        elif name == "admit":
            self.control._accepted.clear()
            self.admitted[n] = await self.control.admit(self.messages[n])

    def run(self, name: str, n: int) -> None:
        if name == "start":
            self.control.turn_started(str(n))
        elif name == "end":
            del self.ledger.turns[n]
            self.control.turn_ended(claim_of(self.messages[n]))

    def store(self, name: str, n: int) -> None:
        if name == "fail":
            self.control.not_stored(self.admitted.pop(n), LedgerUnavailable())
        elif name in STORES:
            receipt = msgspec.structs.replace(STORES[name], turn=str(n))
            self.control.stored(self.admitted.pop(n), receipt)
            if not receipt.joined:
                self.ledger.turns[n] = self.messages[n]

    def check(self) -> None:
        inside = [self.messages[n] for n in (*self.ledger.turns, *self.admitted)]
        assert self.control.unsettled_turns == len(inside)
        tokens = sum(len(message.text) // 4 + REPLY_TOKENS for message in inside)
        assert self.control.unsettled_tokens == tokens


def claim_of(message: Message) -> Claim:
    return Claim(
        turn=message.id,
        messages=(message,),
        fence=1,
        attempt=1,
        index=0,
        reply="",
        journal=(),
        history=(),
    )
