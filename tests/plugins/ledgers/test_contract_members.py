"""Contract: who may write to a conversation is decided in the step that stores the message."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from palaver.errors import Forbidden
from palaver.ledger import ConcurrencyPolicies, Ledger, Receipt
from palaver.messages import Message, Received

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest

MEMBERS_ONLY = ConcurrencyPolicies(members_only=True)
STEER = ConcurrencyPolicies(default="steer", members_only=True)
ROUNDS = 30


async def write_at_once(
    ledgers: list[Ledger], messages: list[Message], policies: ConcurrencyPolicies = MEMBERS_ONLY
) -> list[Receipt | BaseException]:
    """Accept all messages at the same time, each at another ledger."""
    return await asyncio.gather(
        *(
            ledgers[number % len(ledgers)].accept(message, policies)
            for number, message in enumerate(messages)
        ),
        return_exceptions=True,
    )


async def assert_one_is_admitted(
    subject: "LedgerUnderTest", ledgers: list[Ledger], thread: str
) -> None:
    people = ["ada", "bob", "eve"]
    messages = [
        subject.make_message(f"from {person}", thread=thread, person=person)
        for person in people
        for _ in range(2)
    ]
    results = await write_at_once(ledgers, messages)
    admitted = {
        message.person
        for message, result in zip(messages, results, strict=True)
        if isinstance(result, Receipt)
    }
    refused = [result for result in results if isinstance(result, BaseException)]
    assert len(admitted) == 1
    assert [type(error) for error in refused] == [Forbidden] * 4
    where = messages[0].conversation
    assert await subject.ledger.members(where) == admitted
    events = [stored.event for stored in await subject.read_stream(where)]
    assert {event.person for event in events if isinstance(event, Received)} == admitted
    snapshot = await subject.ledger.snapshot(where, 10)
    assert {turn.message.person for turn in snapshot.pending} == admitted


async def test_one_of_several_strangers_at_once_is_admitted(subject: "LedgerUnderTest") -> None:
    for number in range(ROUNDS):
        await assert_one_is_admitted(subject, [subject.ledger], f"t{number}")


async def test_one_of_several_strangers_at_two_replicas_is_admitted(
    subject: "LedgerUnderTest",
) -> None:
    if not subject.url:
        pytest.skip(f"{subject.name} serves one process")
    replica = subject.build()
    await replica.start()
    try:
        for number in range(ROUNDS):
            await assert_one_is_admitted(subject, [subject.ledger, replica], f"t{number}")
    finally:
        await replica.close()


async def test_nothing_is_stored_of_a_stranger(subject: "LedgerUnderTest") -> None:
    await subject.ledger.accept(subject.make_message("from ada"), MEMBERS_ONLY)
    for policies in (MEMBERS_ONLY, STEER):
        with pytest.raises(Forbidden):
            await subject.ledger.accept(
                subject.make_message("Zanzibar", person="stranger"), policies
            )
    dump = await subject.dump()
    assert b"Zanzibar" not in dump
    assert b"stranger" not in dump
    assert (await subject.ledger.queue_depth()).queued == 1


async def test_a_strangers_refusal_comes_before_all_others(subject: "LedgerUnderTest") -> None:
    """Check that it tells neither whether an id was used nor whether the inbox is full."""
    used = subject.make_message("from ada", id="used")
    one = ConcurrencyPolicies(members_only=True, inbox_limit=1)
    await subject.ledger.accept(used, one)
    for id in ("used", "unused"):
        with pytest.raises(Forbidden):
            await subject.ledger.accept(subject.make_message("from ada", id=id, person="eve"), one)
    assert (await subject.ledger.accept(used, one)).duplicate


async def test_a_stranger_stays_refused_after_a_restart_and_a_settled_turn(
    subject: "LedgerUnderTest",
) -> None:
    await subject.ledger.accept(subject.make_message("from ada"), MEMBERS_ONLY)
    await subject.answer_turn()
    if subject.is_durable:
        await subject.reopen()
    with pytest.raises(Forbidden):
        await subject.ledger.accept(subject.make_message(person="eve"), MEMBERS_ONLY)
    assert not (await subject.ledger.accept(subject.make_message(), MEMBERS_ONLY)).duplicate


async def test_an_erasure_of_the_only_member_opens_the_conversation(
    subject: "LedgerUnderTest",
) -> None:
    for person, others in (("ada", "eve"), ("eve", "ada"), ("bob", "eve")):
        await subject.ledger.accept(subject.make_message(person=person), MEMBERS_ONLY)
        with pytest.raises(Forbidden):
            await subject.ledger.accept(subject.make_message(person=others), MEMBERS_ONLY)
        await subject.ledger.erase("acme", person)


async def test_an_erasure_of_one_of_several_members_opens_nothing(
    subject: "LedgerUnderTest",
) -> None:
    for person in ("ada", "bob"):
        await subject.accept(person=person)
    await subject.ledger.erase("acme", "ada")
    for person in ("ada", "eve"):
        with pytest.raises(Forbidden):
            await subject.ledger.accept(subject.make_message(person=person), MEMBERS_ONLY)
    await subject.ledger.accept(subject.make_message(person="bob"), MEMBERS_ONLY)


async def test_without_the_rule_anybody_is_admitted(subject: "LedgerUnderTest") -> None:
    messages = [subject.make_message(person=person) for person in ("ada", "bob", "eve")]
    results = await write_at_once([subject.ledger], messages, ConcurrencyPolicies())
    assert all(isinstance(result, Receipt) for result in results)
    for message in messages:  # a member of a group writes under either rule
        await subject.ledger.accept(subject.make_message(person=message.person), MEMBERS_ONLY)
