"""The slash command, and the buttons below replies."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import pytest
from slack_sdk.web.async_client import AsyncWebClient
from tests.plugins.channels.paying import Pays
from tests.plugins.channels.slack.slack_server import (
    FORM,
    SlackServer,
    UnreliableLedger,
    send,
    serving,
    until,
)

from palaver.testing.fakes.slack import FakeSlack
from palaver_plugins.channels.slack import actions
from palaver_plugins.channels.slack.interactions import (
    INVITE_ME,
    NOT_ALLOWED,
    NOT_POSTED,
    RECEIVED_BEFORE,
)

pytestmark = pytest.mark.slow


@pytest.fixture
async def bot() -> AsyncIterator[SlackServer]:
    async with FakeSlack() as slack, serving(slack) as opened:
        yield opened


async def command(bot: SlackServer, text: str, place: str = "") -> str:
    """Send the command; return what its author alone is shown."""
    attempt = await bot.slack.command(place or bot.slack.general, bot.slack.ada, "/palaver", text)
    assert attempt.status == 200
    return attempt.body.decode()


async def test_a_command_is_posted_and_answered_in_its_thread(bot: SlackServer) -> None:
    slack = bot.slack
    assert await command(bot, "say it now") == ""
    [post] = [message for message in slack.conversation(slack.general) if message.is_app]
    assert post.text == f"<@{slack.ada}>: say it now"
    conversation = bot.conversation(slack.general, post.ts)
    await bot.until_answered(conversation)
    [entry] = await bot.said(conversation)
    assert (entry.text, entry.person) == ("say it now", f"slack.{slack.team}.{slack.ada}")
    await slack.say(slack.general, slack.bob, "say more", thread=post.ts)
    await bot.until_answered(conversation, 2)


async def test_a_command_can_name_a_skill(bot: SlackServer) -> None:
    slack = bot.slack
    assert await command(bot, "Obeys say it") == ""
    [post] = [message for message in slack.conversation(slack.general) if message.is_app]
    conversation = bot.conversation(slack.general, post.ts)
    await bot.until_answered(conversation)
    snapshot = await bot.server.snapshot(conversation)
    assert snapshot.history[-1].text == "You said it."
    assert snapshot.history[-1].reason == "The person typed /Obeys."


async def test_a_command_in_a_direct_message_is_answered_there(bot: SlackServer) -> None:
    slack = bot.slack
    direct = slack.direct(slack.ada)
    assert await command(bot, "say it", direct) == ""
    [post] = slack.conversation(direct)
    await bot.until_answered(bot.conversation(direct, post.ts))


@pytest.mark.parametrize("text", ["", "help", "  "])
async def test_a_command_without_a_question_shows_help(bot: SlackServer, text: str) -> None:
    answer = await command(bot, text)
    assert "`/palaver your question`" in answer
    assert "`/palaver obeys` Do what a message says." in answer
    assert bot.slack.calls("chat.postMessage") == []


async def test_a_command_where_the_bot_is_no_member_says_so(bot: SlackServer) -> None:
    slack = bot.slack
    other = slack.add_channel("other", [slack.ada])
    private = slack.add_channel("private", [slack.ada], kind="group")
    assert await command(bot, "say it", other) == INVITE_ME
    assert await command(bot, "say it", private) == INVITE_ME


async def test_a_command_mentions_nobody(bot: SlackServer) -> None:
    slack = bot.slack
    await command(bot, f"say <@{slack.bob}|bob> <!channel> 1 < 2 & 3")
    [call] = slack.calls("chat.postMessage")
    said = call.arguments["text"].partition(": ")[2]
    assert said == "say @bob @channel 1 &lt; 2 &amp; 3"


async def test_a_command_that_slack_does_not_post_can_be_sent_again(bot: SlackServer) -> None:
    slack = bot.slack
    slack.faults.rate_limit("chat.postMessage")
    assert await command(bot, "say it") == NOT_POSTED
    slack.faults.server_error("chat.postMessage")
    assert await command(bot, "say it") == NOT_POSTED
    slack.faults.refuse("chat.postMessage", "is_archived")
    assert await command(bot, "say it") == "Slack answers 'is_archived'."
    assert await command(bot, "say it") == ""


async def test_a_command_is_asked_once_however_often_it_is_delivered(bot: SlackServer) -> None:
    slack = bot.slack
    assert await command(bot, "say it") == ""
    [delivery] = [each for each in slack.deliveries if each.kind == "command"]
    again = urlencode(delivery.payload).encode()
    assert (await send(bot, again, {"Content-Type": FORM}))[1] == RECEIVED_BEFORE
    assert len(slack.calls("chat.postMessage")) == 1


async def test_a_command_that_cannot_be_stored_says_so() -> None:
    ledger = UnreliableLedger()
    async with FakeSlack() as slack, serving(slack, ledger=ledger) as bot:
        ledger.failures = 1
        answer = await command(bot, "say it")
        assert answer == "Messages cannot be stored right now. Please try again in a moment."


async def test_a_command_of_a_stranger_is_refused() -> None:
    async with FakeSlack() as slack, serving(slack, groups="disabled") as bot:
        assert await command(bot, "say it") == NOT_ALLOWED
        assert slack.calls("chat.postMessage") == []


# Buttons


async def post_buttons(bot: SlackServer, root: str, *elements: dict[str, Any]) -> str:
    """Post a message with buttons in a thread, as the bot; return its ts."""
    client = AsyncWebClient(token=bot.slack.bot_token, base_url=bot.slack.api_url)
    kind = "context_actions" if elements[0]["type"] == "feedback_buttons" else "actions"
    answer = await client.chat_postMessage(
        channel=bot.slack.general,
        thread_ts=root,
        text="reply",
        blocks=[{"type": kind, "elements": list(elements)}],
    )
    return str(answer["ts"])


def button(action_id: str, value: str) -> dict[str, Any]:
    label = {"type": "plain_text", "text": "Press"}
    return {"type": "button", "text": label, "action_id": action_id, "value": value}


async def asked(bot: SlackServer) -> tuple[str, str]:
    """Let the bot ask a question; return the thread and the turn."""
    slack = bot.slack
    root = await slack.mention(slack.general, slack.ada, "ask")
    conversation = bot.conversation(slack.general, root)
    await bot.until_answered(conversation)
    return root, (await bot.server.snapshot(conversation)).history[-1].turn


async def test_a_button_answers_a_question(bot: SlackServer) -> None:
    slack = bot.slack
    root, turn = await asked(bot)
    options = [button(f"{actions.OPTION}{n}", f"option:{turn}:{n}") for n in range(2)]
    ts = await post_buttons(bot, root, *options)
    attempt = await slack.press(slack.general, ts, slack.ada, f"{actions.OPTION}1")
    assert attempt.status == 200
    conversation = bot.conversation(slack.general, root)
    assert [entry.text for entry in await bot.said(conversation)] == ["ask", "coffee"]
    await slack.press(slack.general, ts, slack.ada, f"{actions.OPTION}1")
    await bot.until_answered(conversation, 2)
    assert [entry.text for entry in await bot.said(conversation)] == ["ask", "coffee"]


async def test_a_button_approves_a_call() -> None:
    skill = Pays()
    async with FakeSlack() as slack, serving(slack, skill=skill) as bot:
        root = await slack.mention(slack.general, slack.ada, "pay Bob")
        conversation = bot.conversation(slack.general, root)
        (shown,) = await bot.until_answered(conversation)
        assert '"to": "Bob"' in shown.replace("\\", "")
        turn = (await bot.server.snapshot(conversation)).history[-1].turn
        options = [button(f"{actions.OPTION}{n}", f"option:{turn}:{n}") for n in range(2)]
        ts = await post_buttons(bot, root, *options)
        await slack.press(slack.general, ts, slack.bob, f"{actions.OPTION}0")
        assert [entry.text for entry in await bot.said(conversation)] == ["pay Bob"]
        await slack.press(slack.general, ts, slack.ada, f"{actions.OPTION}0")
        await bot.until_answered(conversation, 2)
        await slack.press(slack.general, ts, slack.ada, f"{actions.OPTION}0")
        assert skill.paid == ["Bob"]


async def test_a_menu_answers_a_question(bot: SlackServer) -> None:
    slack = bot.slack
    root, turn = await asked(bot)
    label = {"type": "plain_text", "text": "Tea"}
    menu = {
        "type": "static_select",
        "action_id": actions.OPTIONS,
        "placeholder": label,
        "options": [{"text": label, "value": f"option:{turn}:0"}],
    }
    ts = await post_buttons(bot, root, menu)
    await slack.press(slack.general, ts, slack.ada, actions.OPTIONS)
    said = await bot.said(bot.conversation(slack.general, root))
    assert [entry.text for entry in said] == ["ask", "tea"]


async def test_a_button_stops_a_reply(bot: SlackServer) -> None:
    slack = bot.slack
    root = await slack.mention(slack.general, slack.ada, "hold")
    conversation = bot.conversation(slack.general, root)
    await bot.until_answered(conversation)
    [pending] = (await bot.server.snapshot(conversation)).pending
    ts = await post_buttons(bot, root, button(actions.STOP, f"stop:{pending.turn}"))
    assert (await slack.press(slack.general, ts, slack.bob, actions.STOP)).status == 200
    await until(lambda: "stopped" in bot.board.shown(conversation)[0])


@pytest.mark.parametrize("rating", ["up", "down"])
async def test_a_reply_is_rated_by_who_has_asked(bot: SlackServer, rating: str) -> None:
    slack = bot.slack
    root = await slack.mention(slack.general, slack.ada, "say it")
    conversation = bot.conversation(slack.general, root)
    await bot.until_answered(conversation)
    turn = (await bot.server.snapshot(conversation)).history[-1].turn
    label = {"type": "plain_text", "text": "Rate"}
    ts = await post_buttons(
        bot,
        root,
        {
            "type": "feedback_buttons",
            "action_id": actions.RATE,
            "positive_button": {"text": label, "value": f"up:{turn}"},
            "negative_button": {"text": label, "value": f"down:{turn}"},
        },
    )
    await slack.press(slack.general, ts, slack.ada, actions.RATE, value=f"{rating}:{turn}")
    person = f"slack.{slack.team}.{slack.ada}"
    [feedback] = await bot.server.ledger.feedback(conversation, person)
    assert (feedback.turn, feedback.rating) == (turn, rating)


async def test_buttons_of_others_and_of_homes_do_nothing(bot: SlackServer) -> None:
    slack = bot.slack
    slack.rules.rate_limits = False
    root, turn = await asked(bot)
    ts = await post_buttons(bot, root, button("theirs", f"option:{turn}:0"))
    assert (await slack.press(slack.general, ts, slack.ada, "theirs")).status == 200
    ts = await post_buttons(bot, root, button(actions.STOP, "junk"))
    assert (await slack.press(slack.general, ts, slack.ada, actions.STOP)).status == 200
    said = await bot.said(bot.conversation(slack.general, root))
    assert [entry.text for entry in said] == ["ask"]


async def test_a_button_where_the_bot_may_not_talk_does_nothing() -> None:
    ledger = UnreliableLedger()
    async with FakeSlack() as slack:
        async with serving(slack, ledger=ledger) as bot:
            root, turn = await asked(bot)
        async with serving(slack, ledger=ledger, groups="disabled") as bot:
            ts = await post_buttons(bot, root, button(actions.OPTION + "0", f"option:{turn}:0"))
            attempt = await slack.press(slack.general, ts, slack.ada, actions.OPTION + "0")
            assert attempt.status == 200
            said = await bot.said(bot.conversation(slack.general, root))
            assert [entry.text for entry in said] == ["ask"]


async def test_slack_s_own_stop_button_stops_the_reply(bot: SlackServer) -> None:
    slack = bot.slack
    direct = slack.direct(slack.ada)
    root = await slack.say(direct, slack.ada, "hold")
    conversation = bot.conversation(direct, root)
    await bot.until_answered(conversation)
    event: dict[str, Any] = {"type": "agent_session_stopped", "channel": direct}
    event |= {"thread_ts": root, "streaming_message_ts": [], "user": slack.ada}
    assert await bot.send_event(event) == 200
    await until(lambda: "stopped" in bot.board.shown(conversation)[0])
