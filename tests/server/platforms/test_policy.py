"""Who may talk to a bot: the access policy as a table, and the limit of messages of bots."""

import asyncio
import dataclasses
from typing import Any

import pydantic
import pytest
from tests.server.platforms.stores import SteppedRecords
from tests.server.platforms.test_pairing import Clock

from palaver.platforms.incoming import Source
from palaver.platforms.pairing import ApprovedPerson
from palaver.platforms.policy import BOT_WINDOW, AccessPolicy, ChannelSettings, Verdict
from palaver.testing import MemoryLedger

APPROVED, LISTED, STRANGER = "U-approved", "U-listed", "U-stranger"
LISTED_ROOM, OTHER_ROOM = "C-listed", "C-other"


def source(user: str = STRANGER, room: str = "", *, is_bot: bool = False) -> Source:
    return Source(
        thread=room or f"D-{user}",
        person=f"board.{user}",
        user=user,
        room=room,
        is_direct=not room,
        is_bot=is_bot,
    )


def policy(records: Any = None, clock: Clock | None = None, **settings: Any) -> AccessPolicy:
    own = ChannelSettings(people=(LISTED,), rooms=(LISTED_ROOM,), **settings)
    return AccessPolicy(own, records or MemoryLedger(), "board", clock=clock or Clock())


DIRECT: list[tuple[str, str, Verdict]] = [
    ("pairing", APPROVED, "allowed"),
    ("pairing", LISTED, "allowed"),
    ("pairing", STRANGER, "unpaired"),
    ("allowlist", APPROVED, "refused"),
    ("allowlist", LISTED, "allowed"),
    ("allowlist", STRANGER, "refused"),
    ("open", STRANGER, "allowed"),
    ("disabled", APPROVED, "refused"),
    ("disabled", LISTED, "refused"),
    ("disabled", STRANGER, "refused"),
]
GROUPS: list[tuple[str, str, Verdict]] = [
    ("open", LISTED_ROOM, "allowed"),
    ("open", OTHER_ROOM, "allowed"),
    ("allowlist", LISTED_ROOM, "allowed"),
    ("allowlist", OTHER_ROOM, "refused"),
    ("disabled", LISTED_ROOM, "refused"),
    ("disabled", OTHER_ROOM, "refused"),
]


@pytest.mark.parametrize(("setting", "user", "verdict"), DIRECT)
async def test_direct_messages(setting: str, user: str, verdict: Verdict) -> None:
    asked = policy(direct_messages=setting)
    person = ApprovedPerson(tenant="default", person=f"board.{APPROVED}", at=1.0)
    await asked.pairings.allow(person)
    assert await asked.decide(source(user)) == verdict


@pytest.mark.parametrize(("setting", "room", "verdict"), GROUPS)
@pytest.mark.parametrize("direct", ["pairing", "disabled"])
async def test_groups(setting: str, room: str, verdict: Verdict, direct: str) -> None:
    asked = policy(groups=setting, direct_messages=direct)
    assert await asked.decide(source(room=room)) == verdict


async def test_without_settings_strangers_are_denied() -> None:
    asked = AccessPolicy(ChannelSettings(), MemoryLedger(), "board")
    assert await asked.decide(source()) == "unpaired"
    assert await asked.decide(source(is_bot=True)) == "refused"
    assert await asked.decide(source(room=OTHER_ROOM, is_bot=True)) == "refused"


@pytest.mark.parametrize(
    ("user", "room", "verdict"),
    [
        (STRANGER, OTHER_ROOM, "allowed"),
        (LISTED, "", "allowed"),
        (STRANGER, "", "refused"),  # a code would be answered by the bot, and so on
    ],
)
async def test_bots_that_are_answered(user: str, room: str, verdict: Verdict) -> None:
    assert await policy(bots="answer").decide(source(user, room, is_bot=True)) == verdict


@pytest.mark.parametrize("kind", ["direct_messages", "groups", "bots"])
def test_an_unknown_policy_is_refused(kind: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        ChannelSettings.model_validate({kind: "everybody"})


# The limit of messages of bots

ROBOT = source("B1", OTHER_ROOM, is_bot=True)


async def test_bots_have_so_many_messages_in_an_hour() -> None:
    clock = Clock()
    asked = policy(clock=clock, bots="answer", bot_turns=3)
    assert [await asked.admits_bot(ROBOT, f"m{n}") for n in range(5)] == [True] * 3 + [False] * 2
    other = source("B1", LISTED_ROOM, is_bot=True)
    assert await asked.admits_bot(other, "m0")
    clock.now += BOT_WINDOW - 1
    assert not await asked.admits_bot(ROBOT, "m5")
    clock.now += 2
    assert await asked.admits_bot(ROBOT, "m5")


async def test_all_bots_of_a_conversation_are_counted_together() -> None:
    asked = policy(bots="answer", bot_turns=1)
    assert await asked.admits_bot(ROBOT, "m0")
    assert not await asked.admits_bot(source("B2", OTHER_ROOM, is_bot=True), "m1")


async def test_bots_that_open_a_new_thread_with_every_message_are_counted() -> None:
    asked = policy(bots="answer", bot_turns=2)
    threads = [dataclasses.replace(ROBOT, thread=f"{OTHER_ROOM}.{n}") for n in range(3)]
    admitted = [await asked.admits_bot(each, f"m{n}") for n, each in enumerate(threads)]
    assert admitted == [True, True, False]
    direct = [source(f"B{n}", is_bot=True) for n in range(3)]  # of people who each talk to one
    assert all([await asked.admits_bot(each, "m") for each in direct])


async def test_a_message_that_is_delivered_again_is_counted_once() -> None:
    asked = policy(bots="answer", bot_turns=2)
    for _ in range(5):
        assert await asked.admits_bot(ROBOT, "m0")
    assert await asked.admits_bot(ROBOT, "m1")
    assert not await asked.admits_bot(ROBOT, "m2")
    assert await asked.admits_bot(ROBOT, "m0")


async def test_servers_count_together() -> None:
    records = SteppedRecords(MemoryLedger())
    servers = [policy(records, bots="answer", bot_turns=5) for _ in range(4)]
    admitted = await asyncio.gather(
        *[servers[n % 4].admits_bot(ROBOT, f"m{n % 20}") for n in range(40)]
    )
    let_through = {n % 20 for n, is_admitted in enumerate(admitted) if is_admitted}
    assert len(let_through) == 5
    assert sum(admitted) == 10
