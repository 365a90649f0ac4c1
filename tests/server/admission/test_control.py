"""The door: what is refused before it is stored, and that refusing and forgetting add up."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from tests.proof_settings import short_or_long
from tests.server.skills_under_test import Parrot

from palaver.admission.control import REPLY_TOKENS, AdmissionControl, AdmittedMessage, Register
from palaver.admission.quotas import Bucket, Quotas
from palaver.config.settings import AdmissionSettings, Lane, RoutingSettings, Settings
from palaver.errors import LedgerUnavailable, Overloaded, PalaverError, TooMany
from palaver.ledger import ConcurrencyPolicies, Receipt
from palaver.messages import Conversation, Finished, Message, new_id
from palaver.metrics import Metrics
from palaver.server import Server
from palaver.testing import ListKnowledge, MemoryLedger, ScriptedEngine, ScriptedReply


class House:
    """A door before a ledger in memory, with a clock and a line that a test sets."""

    def __init__(self, **about: object) -> None:
        self.now = 1000.0
        self.wait = 0.0
        self.metrics = Metrics()
        self.ledger = MemoryLedger()
        chosen = AdmissionSettings.model_validate(about)
        self.door = AdmissionControl(
            chosen,
            ledger=self.ledger,
            quotas=Quotas(chosen, lambda: self.now),
            wait=self._wait,
            lane=lambda channel: "channel",
            metrics=self.metrics,
        )

    def _wait(self, tenant: str, lane: Lane, coming: int) -> float:
        return self.wait

    async def send(
        self,
        person: str = "ada",
        tenant: str = "a",
        *,
        text: str = "hi",
        id: str = "",
        thread: str = "",
    ) -> Receipt:
        conversation = Conversation(tenant, "test", thread or id or new_id())
        message = Message(conversation=conversation, id=id or new_id(), person=person, text=text)
        return await self.door.admit(message, self.ledger.accept)

    async def refused(self, kind: type[PalaverError], *who: str, **about: str) -> float:
        """Send what must be refused; returns after how many seconds to come back."""
        queued = (await self.ledger.queue_depth()).queued
        with pytest.raises(kind) as refusal:
            await self.send(*who, **about)
        assert (await self.ledger.queue_depth()).queued == queued, "it was stored"
        assert refusal.value.retry_after is not None
        return refusal.value.retry_after

    def count(self, reason: str) -> float:
        shown = self.metrics.exposition().decode()
        line = f'palaver_refusals_total{{reason="{reason}"}} '
        return float(shown.partition(line)[2].partition("\n")[0] or 0)


# Unsettled turns


async def test_a_person_may_have_so_many_messages_unanswered() -> None:
    house = House(person={"turns": 2})
    first = await house.send()
    await house.send()
    assert await house.refused(TooMany) >= 1
    await house.send("bob")
    house.door.register.end(first.turn)
    await house.send()
    assert house.count("person_turns") == 1


async def test_a_tenant_may_have_so_many_messages_unanswered() -> None:
    house = House(tenant={"turns": 2}, tenants={"big": {"turns": 3}})
    for tenant, turns in {"a": 2, "big": 3}.items():
        for number in range(turns):
            await house.send(f"p{number}", tenant)
        await house.refused(TooMany, "new", tenant)
    assert house.count("tenant_turns") == 2


async def test_a_repeated_message_is_not_refused() -> None:
    house = House(person={"turns": 1})
    first = await house.send(id="m1")
    assert await house.send(id="m1") == Receipt(turn=first.turn, ahead=0, duplicate=True)
    await house.refused(TooMany)


async def test_what_was_a_duplicate_or_joined_another_counts_once() -> None:
    house = House()
    policies = ConcurrencyPolicies(default="merge")
    conversation = Conversation("a", "test", "t")

    async def accept(message: Message) -> Receipt:
        return await house.ledger.accept(message, policies)

    for id in ("1", "2", "1"):
        message = Message(conversation=conversation, id=id, person="ada", text=id)
        await house.door.admit(message, accept)
    assert len(house.door.register) == (await house.ledger.queue_depth()).queued == 1


async def test_what_could_not_be_stored_does_not_count() -> None:
    house = House(person={"turns": 1, "messages_per_minute": 1})

    async def fail(message: Message) -> Receipt:
        raise LedgerUnavailable("away")

    message = Message(conversation=Conversation("a", "test", "t"), id="1", person="ada", text="x")
    for _ in range(3):
        with pytest.raises(LedgerUnavailable):
            await house.door.admit(message, fail)
    await house.send()
    assert house.count("ledger") == 3


async def test_what_waits_for_its_own_conversation_is_not_in_line() -> None:
    house = House()
    for id in ("1", "2", "3"):
        await house.send(id=id, thread="t")
    await house.send(thread="u")
    assert house.door.register.coming == {("a", "channel"): 2}
    assert len(house.door.register) == 4


async def test_messages_that_come_together_are_all_counted() -> None:
    house = House(person={"turns": 3})
    results = await asyncio.gather(*(house.send() for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(result, Receipt) for result in results) == 3


# Quotas by the minute


async def test_messages_by_the_minute_of_a_person() -> None:
    house = House(person={"messages_per_minute": 2}, tenants={"b": {"messages_per_minute": 3}})
    for _ in range(2):
        await house.send()
    assert await house.refused(TooMany) == pytest.approx(30)
    house.now += 29
    assert await house.refused(TooMany) == pytest.approx(1)
    house.now += 1
    await house.send()
    await house.send("bob")
    assert house.count("person_messages") == 2


async def test_messages_by_the_minute_of_a_tenant() -> None:
    house = House(tenant={"messages_per_minute": 2}, tenants={"b": {"messages_per_minute": 3}})
    for tenant, most in {"a": 2, "b": 3}.items():
        for number in range(most):
            await house.send(f"p{number}", tenant)
        await house.refused(TooMany, "new", tenant)
    assert house.count("tenant_messages") == 2


@pytest.mark.parametrize(
    ("owner", "quota"),
    [
        ("person", {"person": {"tokens_per_minute": 60}}),
        ("tenant", {"tenant": {"tokens_per_minute": 60}}),
        ("tenant", {"tenants": {"a": {"tokens_per_minute": 60}}}),
    ],
)
async def test_tokens_by_the_minute_may_be_overdrawn_once(
    owner: str, quota: dict[str, Any]
) -> None:
    house = House(**quota)
    await house.send()
    house.door._quotas.take("tokens", "a", "ada", 90)
    assert await house.refused(TooMany) == pytest.approx(31)
    house.now += 31
    await house.send()
    assert house.count(f"{owner}_tokens") == 1


def test_a_bucket_holds_no_more_than_a_minutes_worth() -> None:
    bucket = Bucket(10, now=0.0)
    bucket.take(10, now=0.0)
    assert bucket.wait(0.0) == pytest.approx(6)
    bucket.take(10, now=3600.0)
    assert bucket.wait(3600.0) == pytest.approx(6)


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
    house = House(queue_tokens=4 * cost("hi"), tenant_share=1)
    for number in range(4):
        await house.send("ada", f"t{number}")
    assert await house.refused(Overloaded, "ada", "t9") >= 1
    assert house.count("queue") == 1


async def test_a_long_message_takes_more_of_the_queue() -> None:
    text = "x" * 4 * 10_000
    house = House(queue_tokens=20_000, tenant_share=1)
    await house.send(text=text)
    await house.refused(Overloaded, text=text)
    await house.send()


async def test_one_tenant_fills_its_share_and_leaves_room_for_others() -> None:
    house = House(queue_tokens=10 * cost("hi"), tenant_share=0.5)
    for _ in range(5):
        await house.send()
    await house.refused(Overloaded)
    for _ in range(2):
        await house.send("bob", "b")
    await house.refused(Overloaded, "bob", "b")
    await house.send("cleo", "c")


async def test_an_empty_house_takes_any_message() -> None:
    house = House(queue_tokens=1)
    await house.send(text="x" * 4000)
    await house.refused(Overloaded)


async def test_a_message_that_would_wait_too_long_is_refused() -> None:
    house = House(max_wait=30)
    house.wait = 30.0
    await house.send()
    house.wait = 42.0
    assert await house.refused(Overloaded) == pytest.approx(12)
    house.wait = 9000.0
    assert await house.refused(Overloaded) == 60
    assert house.count("wait") == 2


# Turns that end elsewhere


async def test_before_it_refuses_it_looks_whether_turns_have_ended_elsewhere() -> None:
    house = House(person={"turns": 1})
    await house.send()
    claim = await house.ledger.claim("another", lease=60, history=0)
    assert claim is not None
    finished = Finished(turn=claim.turn, outcome="done", length=0)
    await house.ledger.settle(claim, [finished], expect=0)
    await house.send()


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
        await here._dispatcher.close(0)  # another one does its work
        for number in range(3):
            await here.accept(message(number))
        with pytest.raises(TooMany):
            await here.accept(message(3))
        await stack.enter_async_context(server())
        await settled(ledger)
        await until_accepted(here, message(4))
        assert len(here.door.register) == 1


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


async def test_all_turns_are_looked_at_in_time_however_many_do_not_move() -> None:
    house = House(person={"turns": 1000})
    receipts = [await house.send() for _ in range(120)]
    kept = {receipt.turn for receipt in receipts[:110]}
    looked: set[str] = set()
    for _ in range(3):
        looked |= house.door.register.take_oldest(50).keys()
    assert kept < looked


# The register


Step = tuple[str, int]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "stored", "behind", "begin", "end", "drop"]),
            st.integers(0, 5),
        ),
        max_size=60,
    )
)
@settings(max_examples=short_or_long(200, 5_000), deadline=None)
def test_what_came_and_went_leaves_nothing_behind(steps: list[Step]) -> None:
    register = Register()
    entries = [
        AdmittedMessage(
            Conversation(f"t{n % 2}", "test", str(n)), str(n), f"p{n % 3}", "channel", 10 + n
        )
        for n in range(6)
    ]
    state: dict[int, str] = {}
    moves: dict[str, tuple[tuple[str, ...], str, Callable[[int], None]]] = {
        "add": (("",), "added", lambda n: register.add(entries[n])),
        "stored": (
            ("added",),
            "stored",
            lambda n: register.stored(entries[n], str(n), behind=False),
        ),
        "behind": (
            ("added",),
            "behind",
            lambda n: register.stored(entries[n], str(n), behind=True),
        ),
        "begin": (("stored", "behind", "begun"), "begun", lambda n: register.begin(str(n))),
        "end": (("stored", "behind", "begun", ""), "", lambda n: register.end(str(n))),
        "drop": (("added",), "", lambda n: register.drop(entries[n])),
    }
    for name, n in steps:
        before, after, move = moves[name]
        if state.get(n, "") in before:
            move(n)
            state[n] = after
    inside = [n for n in range(6) if state.get(n)]
    assert len(register) == len(inside)
    assert register.tokens == sum(entries[n].tokens for n in inside)
    coming = [n for n in inside if state[n] in ("added", "stored")]
    assert sum(register.coming.values()) == len(coming)
    for n in inside:
        if state[n] == "added":
            register.drop(entries[n])
        else:
            register.end(str(n))
    assert not register.tokens_of
    assert not register.turns_of
    assert not register.coming
    assert not register.take_oldest(10)
