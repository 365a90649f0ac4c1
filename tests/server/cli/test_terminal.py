"""``palaver chat`` at a terminal, with a server."""

import asyncio
import re
import signal

import pytest
from tests.server.cli.terminals import COMMAND, open_terminal
from tests.server.web.live_server import TIMEOUT_SECONDS, LiveServer, eventually, open_live_server

from palaver import Denied, Skill, Turn, tool
from palaver.config.settings import ConcurrencyPolicySettings
from palaver.messages import Conversation

pytestmark = pytest.mark.slow


async def test_the_position_in_the_queue_counts_down(live_server: LiveServer) -> None:
    async with open_terminal(live_server.address) as session:
        session.type("/scripted go")
        live_server.scripted.emit("Once upon", end=False)
        await session.wait_for("Once upon")
        session.type("first")
        await session.wait_for("[1 ahead of you]")
        session.type("/scripted again")
        await session.wait_for("[2 ahead of you]")
        live_server.scripted.emit(" a time")
        await session.wait_for(" a time\n[1 ahead of you]")
        await session.wait_for("[parrot] first")
        live_server.scripted.emit("The end")
        await session.wait_for("The end\n> ")


async def test_a_message_that_the_running_turn_does_not_take_is_answered_by_the_next_turn() -> None:
    steering = ConcurrencyPolicySettings(skills={"scripted": "steer"})
    async with (
        open_live_server(concurrency_policy=steering) as live_server,
        open_terminal(live_server.address) as session,
    ):
        session.type("/scripted go")
        live_server.scripted.emit("Straight on", end=False)
        await session.wait_for("Straight on")
        session.type("left")
        await session.wait_for("[added to the running turn]")
        live_server.scripted.emit("!")
        await session.wait_for("!\n")
        await session.wait_for("[parrot] left \n> ")


async def test_a_terminal_opened_during_a_reply_shows_the_rest_of_it(
    live_server: LiveServer,
) -> None:
    async with live_server.connect("t", person="bob") as client:
        await client.send_message("/scripted go")
        live_server.scripted.emit("Once upon", end=False)
        await eventually(lambda: is_stored(live_server, "Once upon"))
        async with open_terminal(live_server.address, "--thread=t", "--person=bob") as session:
            session.type("and then?")
            await session.wait_for("[1 ahead of you]")
            live_server.scripted.emit(" a time")
            await session.wait_for("a time\n[parrot] and then? \n> ")


async def is_stored(live_server: LiveServer, text: str) -> bool:
    """Return True when the ledger has ``text``."""
    snapshot = await live_server.server.snapshot(Conversation("default", "web", "t"))
    return any(text in turn.reply for turn in snapshot.pending)


async def test_ctrl_c_stops_the_reply_and_then_ends(live_server: LiveServer) -> None:
    async with open_terminal(live_server.address) as session:
        session.type("/scripted go")
        live_server.scripted.emit("Once upon", end=False)
        await session.wait_for("Once upon")
        session.process.send_signal(signal.SIGINT)
        await session.wait_for("[stopped]\n> ")
        session.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(session.process.wait(), TIMEOUT_SECONDS) == 0


async def test_the_markdown_of_a_reply_is_shown_while_it_arrives(live_server: LiveServer) -> None:
    async with open_terminal(live_server.address) as session:
        session.type("/scripted go")
        live_server.scripted.emit("<think>hm", end=False)
        await session.wait_for("[scripted] hm")
        live_server.scripted.emit("</think>Some **bo", end=False)
        await session.wait_for("\n\nSome ")
        live_server.scripted.emit("ld** words\n\n- one\n- [x] two\n\n1. ![a](b.png)", end=False)
        await session.wait_for("bold words\n\n• one\n☑ two\n\n1. ")
        live_server.scripted.emit("\n2. [link](http://x)")
        await session.wait_for("a (b.png)\n2. link (http://x)\n> ")


async def test_a_reply_cannot_reach_the_terminal_through_its_markdown(
    live_server: LiveServer,
) -> None:
    async with open_terminal(live_server.address) as session:
        session.type("/scripted go")
        live_server.scripted.emit("\x1b]0;t\x07 **\x9b2J** `\x1b[2J`\n\n```\n\x1b[2J\n```")
        await session.wait_for(
            "[scripted] \\x1b]0;t\\x07 \\x9b2J \\x1b[2J\n\n```\n\\x1b[2J\n```\n> "
        )


async def test_why_a_skill_was_chosen_is_told_on_request(live_server: LiveServer) -> None:
    async with open_terminal(live_server.address) as session:
        session.type("/why")
        await session.wait_for("[there is no reply yet]\n> ")
        session.type("/parrot hello")
        await session.wait_for("hello \n> ")
        session.type("/why")
        await session.wait_for("[parrot: The person typed /parrot.]\n> ")


async def test_ctrl_d_ends(live_server: LiveServer) -> None:
    async with open_terminal(live_server.address) as session:
        session.press(b"\x04")
        assert await asyncio.wait_for(session.process.wait(), TIMEOUT_SECONDS) == 0


async def test_lines_of_a_file_are_answered_one_after_the_other(live_server: LiveServer) -> None:
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        f"--url={live_server.address}",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(2 * TIMEOUT_SECONDS):
        output, _ = await process.communicate(b"one\n\ntwo\n")
    assert process.returncode == 0
    replies = re.findall(r"\[parrot\] (\w+) ", re.sub(r"\x1b\[[0-9;]*m", "", output.decode()))
    assert replies == ["one", "two"]
    assert "ahead" not in output.decode()
    assert "> " not in output.decode()


async def test_a_call_is_shown_and_approved() -> None:
    paid: list[str] = []

    @tool(needs_approval=True)
    def pay(to: str) -> str:
        """Pay money."""
        paid.append(to)
        return f"paid {to}"

    class Payer(Skill):
        """Pay."""

        name = "payer"

        async def answer(self, turn: Turn) -> None:
            try:
                await turn.call_tool("pay", to=turn.message.text)
                await turn.say("\n\nThank you.")
            except Denied:
                await turn.say("Not paid.")

    async with (
        open_live_server(skills=[Payer()], tools=[pay]) as live_server,
        open_terminal(live_server.address) as session,
    ):
        session.type("/payer Bob\x1b[2J")
        await session.wait_for("May I use the tool pay with these arguments?")
        await session.wait_for('"to": "Bob\\u001b[2J"')
        await session.wait_for("Answer “Approve” or “Deny”.\n> ")
        session.type("no")
        await session.wait_for("[pay: not approved The call of the tool 'pay' was not approved.")
        await session.wait_for("]\n\nNot paid.\n> ")
        session.type("/payer Carol")
        await session.wait_for("“Deny”.\n> ")
        assert paid == []
        session.type("approve")
        await session.wait_for('[pay: begins {"to": "Carol"}]')
        await session.wait_for("[pay: done paid Carol]\n\nThank you.\n> ")
    assert paid == ["Carol"]


async def test_a_terminal_that_is_opened_later_answers_the_question() -> None:
    @tool(needs_approval=True)
    def pay() -> str:
        """Pay money."""
        return "paid"

    class Payer(Skill):
        """Pay."""

        name = "payer"

        async def answer(self, turn: Turn) -> None:
            await turn.say(await turn.call_tool("pay"))

    async with open_live_server(skills=[Payer()], tools=[pay]) as live_server:
        async with live_server.connect("t", person="bob") as client:
            await client.wait_for_reply(await client.send_message("go", skill="payer"))
        async with open_terminal(live_server.address, "--thread=t", "--person=bob") as session:
            session.type("Approve")
            await session.wait_for("[pay: done paid]")
            await session.wait_for("> ")
        snapshot = await live_server.server.snapshot(Conversation("default", "web", "t"))
    assert snapshot.history[-1].text == "paid"
