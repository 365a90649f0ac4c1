"""Replies as messages of Discord: once each, whole, within Discord's limits."""

import asyncio

import pytest
from tests.plugins.channels.discord.support import (
    Does,
    QuickChannel,
    fake_discord,
    labels,
    posted,
    repeat,
    says,
    serving,
    settings_for,
    texts,
    until,
    until_shown,
)

from palaver import Attachment, Passage, Turn
from palaver.platforms import Pairings, ParkedConversations
from palaver.testing.fakes.discord import (
    DiscordChannel,
    DiscordLimits,
    DiscordUser,
    FakeDiscord,
)
from palaver_plugins.channels.discord.platform import MAX_UPLOAD

pytestmark = pytest.mark.slow

HANDBOOK = Passage(document="d", title="Hand_book", section="Leave", number=1, text="p")
POSTS = "POST */messages"
EDITS = "PATCH */messages/*"
SUPPRESS_EMBEDS = 1 << 2
LONG = "\n\n".join(f"Paragraph {number} with 🙂 and some more words." for number in range(200))


def bodies(fake: FakeDiscord, method: str, end: str) -> list[dict[str, object]]:
    return [
        each.body or {}
        for each in fake.requests
        if each.method == method and each.path.endswith(end)
    ]


# What is sent


async def test_a_post_has_a_nonce_and_mentions_nobody_and_shows_no_previews(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    text = f"@everyone {ada.mention} https://example.com"
    async with serving(fake, skill=says(text)):
        await fake.say(room, ada, "hello", mentions_bot=True)
        await until(lambda: len(posted(fake, room)) == 1)
        (body,) = bodies(fake, "POST", "/messages")
        assert body["enforce_nonce"] is True
        assert 20 <= len(str(body["nonce"])) <= 25
        assert body["allowed_mentions"] == {"parse": []}
        (message,) = posted(fake, room)
        assert message.flags & SUPPRESS_EMBEDS
        assert not message.mentions
    assert all(each["allowed_mentions"] == {"parse": []} for each in bodies(fake, "PATCH", ""))


async def test_the_first_post_replies_to_the_message(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake):
        question = await fake.say(room, ada, "long", mentions_bot=True)
        await until(lambda: len(posted(fake, room)) > 5)
        first, *others = posted(fake, room)
        assert first.reference is not None
        assert first.reference.message_id == question.id
        assert not any(other.reference for other in others)
        assert bodies(fake, "POST", "/messages")[0]["message_reference"] == {
            "type": 0,
            "message_id": question.id,
            "channel_id": room.id,
            "guild_id": fake.guild.id,
            "fail_if_not_exists": False,
        }


async def test_a_message_that_was_deleted_is_answered(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake) as replicas:
        held = fake.faults.hang(POSTS)
        message = await fake.say(room, ada, "say it", mentions_bot=True)
        await until(lambda: held.waiting == 1)
        await fake.delete(message)
        held.release()
        await until_shown(fake, room, "You said it.")
        await replicas.until_settled()


async def test_without_the_right_to_read_the_history_a_reply_refers_to_nothing(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=Does(repeat)):
        fake.faults.refuse(160002, POSTS)
        await fake.say(room, ada, "one", mentions_bot=True)
        await until_shown(fake, room, "one")
        assert posted(fake, room)[0].reference is None


async def test_no_message_is_longer_than_2000_utf16_units(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=says(LONG)) as replicas:
        await fake.say(room, ada, "long", mentions_bot=True)
        await until(lambda: "Paragraph 199" in "".join(texts(fake, room)))
        await replicas.until_settled()
        shown = texts(fake, room)
        assert all(len(text.encode("utf-16-le")) // 2 <= 2_000 for text in shown)
        assert len(shown) < 8
        assert "\n\n".join(shown) == LONG


async def test_a_reply_in_code_that_is_longer_than_a_message(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    code = "\n".join(f"line {number} of code" for number in range(200))
    async with serving(fake, skill=says(f"```python\n{code}\n```")) as replicas:
        await fake.say(room, ada, "code", mentions_bot=True)
        await until(lambda: "line 199" in "".join(texts(fake, room)))
        await replicas.until_settled()
        for text in texts(fake, room):
            assert len(text) <= 2_000
            assert text.startswith("```python\n")
            assert text.endswith("\n```")


async def test_people_see_that_the_bot_is_typing(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    go_on = asyncio.Event()

    async def think(turn: Turn) -> None:
        await go_on.wait()
        await turn.say("done")

    async with serving(fake, skill=Does(think)):
        await fake.say(room, ada, "think", mentions_bot=True)
        await until(lambda: fake.is_typing(room))
        go_on.set()
        await until_shown(fake, room, "done")
        assert not fake.is_typing(room)


async def test_a_reply_that_shows_nothing_is_not_posted(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=says(" \n ")) as replicas:
        await fake.say(room, ada, "nothing", mentions_bot=True)
        await until(lambda: len(replicas.skill.texts) == 1)  # type: ignore[attr-defined]
        await replicas.until_settled()
        assert posted(fake, room) == []


async def test_citations_are_small_text(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async def cite(turn: Turn) -> None:
        await turn.say("Thirty days [1].")
        turn.cite(HANDBOOK)

    async with serving(fake, skill=Does(cite)):
        await fake.say(room, ada, "leave?", mentions_bot=True)
        await until_shown(fake, room, "Thirty days \\[1\\].\n\n-# \\[1\\] Hand\\_book, Leave")


# Files


def attaches(content_length: int) -> Does:
    async def attach(turn: Turn) -> None:
        import base64

        data = base64.b64encode(bytes(content_length)).decode()
        url = f"data:application/octet-stream;base64,{data}"
        turn.attach(Attachment(name="data.bin", media_type="application/octet-stream", url=url))
        await turn.say("Here.")

    return Does(attach)


async def test_a_file_that_discord_does_not_take_is_named(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=attaches(MAX_UPLOAD + 1)):
        await fake.say(room, ada, "file", mentions_bot=True)
        await until_shown(fake, room, "Here.", "data.bin is too large for Discord.")


async def test_a_file_whose_answer_is_lost_is_posted_once(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=attaches(2_000_000)) as replicas:
        await fake.say(room, ada, "file", mentions_bot=True)
        await until(lambda: len(posted(fake, room)) == 1)
        fake.faults.lose(POSTS)
        await until(lambda: len(posted(fake, room)) == 2)
        await replicas.until_settled()
        assert [len(each.attachments) for each in posted(fake, room)] == [0, 1]


# Edits


async def test_a_reply_that_is_older_than_an_hour_is_posted_again(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake) as replicas:
        await fake.say(room, ada, "hold", mentions_bot=True)
        await until_shown(fake, room, "The first half.")
        (old,) = posted(fake, room)
        fake.clock.advance(3_700)
        replicas.skill.may_continue.set()  # type: ignore[attr-defined]
        await until_shown(fake, room, "The first half. The second half.")
        await replicas.until_settled()
        (new,) = posted(fake, room)
        assert old.is_deleted
        assert labels(new) == ["👍", "👎"]


async def test_a_reply_that_somebody_deletes_stays_deleted(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake) as replicas:
        await fake.say(room, ada, "hold", mentions_bot=True)
        await until_shown(fake, room, "The first half.")
        await fake.delete(posted(fake, room)[0])
        replicas.skill.may_continue.set()  # type: ignore[attr-defined]
        await replicas.until_settled()
        assert posted(fake, room) == []
        await fake.say(room, ada, "say more", mentions_bot=True)
        await until_shown(fake, room, "You said more.")


async def test_the_last_edit_is_never_dropped() -> None:
    async with fake_discord(limits=DiscordLimits(identify_seconds=0.0)) as fake:
        ada, room = fake.add_user("Ada"), fake.add_channel("general")

        async def write(turn: Turn) -> None:
            for number in range(60):
                await turn.say(f"{number} ")
                await asyncio.sleep(0.01)

        wanted = " ".join(map(str, range(60)))
        async with serving(fake, skill=Does(write)) as replicas:
            await fake.say(room, ada, "count", mentions_bot=True)
            await until(lambda: [each.strip() for each in texts(fake, room)] == [wanted])
            await replicas.until_settled()
            assert fake.rate_limits.refused == 0


# Faults


@pytest.mark.parametrize("number", [1, 2, 4])
async def test_a_post_whose_answer_is_lost_is_not_doubled(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser, number: int
) -> None:
    """The n-th post of a long reply: with the buttons or without."""
    async with serving(fake, skill=says(LONG)) as replicas:
        await fake.say(room, ada, "long", mentions_bot=True)
        await until(lambda: len(posted(fake, room)) >= number - 1)
        fake.faults.lose(POSTS)
        await until(lambda: "Paragraph 199" in "".join(texts(fake, room)))
        await replicas.until_settled()
        assert "\n\n".join(texts(fake, room)) == LONG


async def test_lost_answers_at_random_double_nothing(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=Does(repeat)) as replicas:
        fake.faults.lose_at_random(0.3, seed=5)
        wanted = [f"message {number}" for number in range(30)]
        for text in wanted:
            await fake.say(room, ada, text, mentions_bot=True)
        await until(lambda: len(replicas.skill.texts) == 30)  # type: ignore[attr-defined]
        await replicas.until_settled()
        assert texts(fake, room) == wanted


@pytest.mark.parametrize("fault", ["502", "503", "drop", "429", "429 without Via", "shared"])
@pytest.mark.parametrize("requests", [POSTS, EDITS])
async def test_faults_that_pass(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser, fault: str, requests: str
) -> None:
    async with serving(fake) as replicas:
        if fault in ("502", "503"):
            fake.faults.answer(int(fault), requests)
        elif fault == "drop":
            fake.faults.drop(requests)
        elif fault == "shared":
            fake.faults.limit(0.01, requests, scope="shared")
        else:
            fake.faults.limit(0.01, requests, has_via=fault == "429")
        await fake.say(room, ada, "hold", mentions_bot=True)
        await until_shown(fake, room, "The first half.")
        replicas.skill.may_continue.set()  # type: ignore[attr-defined]
        await until_shown(fake, room, "The first half. The second half.")
        await replicas.until_settled()


async def test_a_post_of_another_text_is_found_and_edited(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake) as replicas:
        lost = fake.faults.lose(POSTS)
        await fake.say(room, ada, "hold", mentions_bot=True)
        await until(lambda: not lost.times)
        await replicas.stop()
        replicas.skill.may_continue.set()  # type: ignore[attr-defined]
        fake.clock.advance(600)  # the nonce is forgotten
        await replicas.start(QuickChannel(settings_for(fake)))
        await until_shown(fake, room, "The first half. The second half.")
        await replicas.until_settled()
        assert len(posted(fake, room)) == 1


async def test_a_post_that_was_deleted_before_its_id_was_known_is_not_repeated(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake) as replicas:
        lost = fake.faults.lose(POSTS)
        reading = fake.faults.hang("GET */messages")
        await fake.say(room, ada, "say it", mentions_bot=True)
        await until(lambda: reading.waiting == 1 and not lost.times)
        await fake.delete(posted(fake, room)[0])
        reading.release()
        await replicas.until_settled()
        assert posted(fake, room) == []
        await fake.say(room, ada, "say more", mentions_bot=True)
        await until_shown(fake, room, "You said more.")


# What is refused for good


async def parked(fake: FakeDiscord, room: DiscordChannel, change: object) -> str:
    """Let the bot answer after a change, and return why the conversation is parked."""
    async with serving(fake, skill=Does(repeat)) as replicas:
        ada = fake.add_user("Ada")
        held = fake.faults.hang("POST */typing")
        assert held is not None
        held.release()
        await fake.say(room, ada, "hello", mentions_bot=True)
        assert callable(change)
        change()
        parking = ParkedConversations(replicas.ledger, "discord")
        await until(lambda: _is_parked(parking))
        await replicas.until_settled()
        (found,) = await parking.list()
        return found.problem


async def _is_parked(parking: ParkedConversations) -> bool:
    return bool(await parking.list())


@pytest.mark.parametrize(
    ("rights", "problem"),
    [
        ({"may_post": False}, "may not write"),
        ({"may_view": False}, "has no access"),
    ],
)
async def test_a_channel_that_the_bot_may_not_use_is_parked(
    fake: FakeDiscord, room: DiscordChannel, rights: dict[str, bool], problem: str
) -> None:
    assert problem in await parked(fake, room, lambda: fake.restrict(room, **rights))


async def test_a_channel_that_is_deleted_is_parked(fake: FakeDiscord, room: DiscordChannel) -> None:
    assert "is deleted" in await parked(fake, room, lambda: fake.delete_channel(room))


async def test_a_person_who_has_left_is_parked(fake: FakeDiscord, ada: DiscordUser) -> None:
    direct = fake.open_direct(ada)
    async with serving(fake, skill=Does(repeat), direct_messages="open") as replicas:
        await fake.say(direct, ada, "hello")
        fake.leave(ada)
        parking = ParkedConversations(replicas.ledger, "discord")
        await until(lambda: _is_parked(parking))
        (found,) = await parking.list()
        assert "takes no direct messages" in found.problem


async def test_an_archived_thread_is_opened_by_the_reply_and_a_locked_one_is_parked(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    thread = await fake.start_thread(room, ada, "A thread")
    locked = await fake.start_thread(room, ada, "A locked thread")
    async with serving(fake, skill=Does(repeat)) as replicas:
        await fake.say(thread, ada, "hello", mentions_bot=True)
        await fake.archive(thread)
        await until_shown(fake, thread, "hello")
        assert not thread.is_archived
        await fake.say(locked, ada, "hello", mentions_bot=True)
        await fake.archive(locked, locked=True)
        parking = ParkedConversations(replicas.ledger, "discord")
        await until(lambda: _is_parked(parking))
        (found,) = await parking.list()
        assert "locked" in found.problem


async def test_a_code_for_a_stranger_is_a_silent_reply(fake: FakeDiscord, ada: DiscordUser) -> None:
    direct = fake.open_direct(ada)
    async with serving(fake) as replicas:
        await fake.say(direct, ada, "hello")
        await until(lambda: len(posted(fake, direct)) == 1)
        (request,) = await Pairings(replicas.ledger, "discord").requests()
        assert request.code in texts(fake, direct)[0]
        assert request.person == f"discord.{ada.id}"
