"""Parts of the Discord channel: names of commands, texts, errors, queues."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import discord
import pytest
from tests.plugins.channels.discord.support import fake_discord, serving, until

from palaver import LedgerUnavailable, Overloaded, TooMany
from palaver.platforms import (
    Button,
    MessageGone,
    PostingError,
    RateLimited,
    Refused,
    Unreachable,
)
from palaver_plugins.channels.discord.commands import MAX_COMMANDS, Commands
from palaver_plugins.channels.discord.controls import data_of, shortened
from palaver_plugins.channels.discord.errors import posting_error
from palaver_plugins.channels.discord.places import Place, order_of
from palaver_plugins.channels.discord.queues import Queues
from palaver_plugins.channels.discord.reading import quote, without_address

# Commands


def test_commands_have_names_and_descriptions_that_discord_takes() -> None:
    long = "a_very_long_name_of_a_skill_that_goes_on"
    skills = {
        "chat": "Talk",
        "Übersetzung": "Translate",
        "a.b/c": "",
        long: "word " * 50,
        f"{long}_and_on": "Another\nline",
        "stop": "A skill with the name of the command",
    }
    commands = Commands(skills)
    names = [command["name"] for command in commands.payload]
    assert all(re.fullmatch(r"[-_\w]{1,32}", name) for name in names)
    assert all(name == name.lower() for name in names)
    assert len(set(names)) == len(skills) + 1
    assert all(1 <= len(command["description"]) <= 100 for command in commands.payload)
    assert {commands.skill(name) for name in names if name != "stop"} == set(skills)
    assert commands.skill("stop") is None
    assert commands.skill("stop-2") == "stop"
    assert commands.skill(long[:30] + "-2") == f"{long}_and_on"


def test_no_more_commands_than_discord_takes() -> None:
    commands = Commands({f"skill{number}": "One of many" for number in range(200)})
    assert len(commands.payload) == MAX_COMMANDS


# Texts


def test_the_address_is_left_out_at_both_ends() -> None:
    mentions = ["<@1>", "<@!1>"]
    assert without_address(" <@1>, <@!1> hello <@1> there <@1>  ", mentions) == "hello <@1> there"
    assert without_address("<@1>", mentions) == ""
    assert without_address("<@1>" * 900 + "x", mentions) == "x"


def test_a_quote_is_short_and_not_empty() -> None:
    assert quote("Ada wrote", " \n ") == ""
    assert quote("Ada wrote", "a\nb") == "Ada wrote:\n> a\n> b"
    assert len(quote("Ada wrote", "x" * 5_000)) < 2_100


def test_texts_are_shortened() -> None:
    assert shortened("a\n b", 10) == "a b"
    assert shortened("x" * 20, 10) == "x" * 9 + "…"
    assert shortened("", 10) == "–"


def test_ids_sort_like_the_time() -> None:
    assert order_of(9) < order_of(10) < order_of(1 << 62)


@pytest.mark.parametrize("place", [Place(None, 5), Place(1 << 60, 7)])
def test_a_place_is_read_again(place: Place) -> None:
    from palaver import Conversation

    assert Place.of(Conversation("t", "discord", str(place))) == place


def test_a_control_tells_what_was_chosen() -> None:
    assert data_of("stop:t1|post", ()) == "stop:t1"
    assert data_of("menu|post", ("option:t1:4",)) == "option:t1:4"
    assert data_of("menu|post", ()) == ""
    assert Button("x", "y").label == "x"


# Errors


def error(status: int, code: int = 0, retry_after: str = "") -> discord.HTTPException:
    headers = {"Retry-After": retry_after} if retry_after else {}
    response = SimpleNamespace(status=status, reason="", headers=headers)
    return discord.HTTPException(cast("Any", response), {"code": code, "message": "a secret"})


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        *((error(403, code), Refused) for code in (50001, 50007, 50013, 50083, 160005)),
        (error(404, 10003), Refused),
        (error(400, 50035), Refused),
        (error(404, 10008), MessageGone),
        (error(400, 30046), MessageGone),
        (error(429), RateLimited),
        (error(500), Unreachable),
        (error(503), Unreachable),
        (error(401, 40001), Unreachable),
        (error(403), Unreachable),
    ],
)
def test_errors_are_those_of_the_kit(
    given: discord.HTTPException, kind: type[PostingError]
) -> None:
    found = posting_error(given)
    assert type(found) is kind
    assert "secret" not in str(found)


def test_the_pause_is_the_one_that_discord_wants() -> None:
    wanted = posting_error(error(429, retry_after="7"))
    assert isinstance(wanted, RateLimited)
    assert wanted.retry_after == 7.0
    unknown = posting_error(error(429))
    assert isinstance(unknown, RateLimited)
    assert unknown.retry_after >= 30.0


# Queues


class Log:
    """Handles events, as often as it is told after failures."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.refused: list[str] = []

    def handle(self, name: str, *failures: Exception) -> Callable[[], Awaitable[None]]:
        left = list(failures)

        async def handle() -> None:
            await asyncio.sleep(0)
            if left:
                raise left.pop(0)
            self.done.append(name)

        return handle

    async def refuse(self, error: TooMany) -> None:
        self.refused.append(error.public)


async def test_events_of_a_conversation_are_handled_in_the_order_of_their_ids() -> None:
    queues, log = Queues((0.001,)), Log()
    queues.hold()
    for id in (3, 1, 2):
        queues.put("a", id, log.handle(str(id)), log.refuse)
    assert queues.oldest == 1
    queues.release()
    await until(lambda: log.done == ["1", "2", "3"])
    assert queues.oldest is None
    await queues.close()


async def test_an_event_that_fails_for_now_holds_back_its_conversation_only() -> None:
    queues, log = Queues((0.001,)), Log()
    failures = (LedgerUnavailable(), Overloaded(), Unreachable("x"), RateLimited(1.0))
    queues.put("a", 1, log.handle("first", *failures * 3), log.refuse)
    queues.put("a", 2, log.handle("second"), log.refuse)
    queues.put("b", 3, log.handle("other"), log.refuse)
    await until(lambda: log.done == ["other", "first", "second"])
    await queues.close()


async def test_an_event_that_fails_for_good_is_dropped() -> None:
    queues, log = Queues((0.001,)), Log()
    queues.put("a", 1, log.handle("first", ValueError()), log.refuse)
    queues.put("a", 2, log.handle("second"), log.refuse)
    await until(lambda: log.done == ["second"])
    await queues.close()


async def test_a_person_who_sends_too_much_is_told_after_some_attempts() -> None:
    queues, log = Queues((0.001, 0.001)), Log()
    queues.put("a", 1, log.handle("patient", TooMany(), TooMany()), log.refuse)
    queues.put("a", 2, log.handle("never", *[TooMany("slow down")] * 9), log.refuse)
    queues.put("a", 3, log.handle("next"), log.refuse)
    await until(lambda: log.done == ["patient", "next"])
    assert log.refused == ["slow down"]
    await queues.close()


async def test_an_event_that_waits_is_replaced_and_removed() -> None:
    queues, log = Queues((0.001,)), Log()
    queues.hold()
    for id in (1, 2, 3):
        queues.put("a", id, log.handle(str(id)), log.refuse)
    queues.replace("a", 1, log.handle("new"))
    queues.replace("b", 1, log.handle("unknown"))
    queues.remove("a", 2)
    queues.release()
    await until(lambda: log.done == ["new", "3"])
    await queues.close()


async def test_the_queues_have_a_limit() -> None:
    queues, log = Queues((0.001,), 2), Log()
    queues.hold()
    queues.hold()
    assert queues.put("a", 1, log.handle("1"), log.refuse)
    assert queues.put("b", 2, log.handle("2"), log.refuse)
    assert not queues.put("c", 3, log.handle("3"), log.refuse)
    queues.release()
    assert log.done == []
    queues.release()
    await until(lambda: len(log.done) == 2)
    assert queues.put("c", 3, log.handle("3"), log.refuse)
    await queues.close()


async def test_a_compressed_connection() -> None:
    async with fake_discord() as fake:
        fake.gateway.compresses = True
        ada, room = fake.add_user("Ada"), fake.add_channel("general")
        async with serving(fake):
            await fake.say(room, ada, "say it", mentions_bot=True)
            await until(lambda: len(fake.conversation(room)) == 2)
