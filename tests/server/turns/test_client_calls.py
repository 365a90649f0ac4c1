"""Calls of a program's tools: the turn waits for their results, on any server."""

from collections.abc import Sequence

import pytest
from tests.server.turns.test_takeover import CONVERSATION, die, replica, stored

from palaver import ProgramRequest, Skill, Turn, tool
from palaver.messages import ClientCall, ClientTool, Finished, SentMessage
from palaver.testing import ChatClient, MemoryLedger, ScriptedEngine, ScriptedReply, tool_call

pytestmark = pytest.mark.slow

TOOLS = (ClientTool(name="weather", parameters={"type": "object", "properties": {}}),)
OFFER = ProgramRequest(tools=TOOLS)


class Actor(Skill):
    """Act with a tool of the server, and those of the program."""

    name = "actor"
    examples = ("act",)
    calls_client_tools = True

    async def answer(self, turn: Turn) -> None:
        await turn.run(turn.message.text, tools=["pay", *turn.client_tools], history=turn.history)


def called(chat: ChatClient, turn: str) -> ClientCall:
    """Return the one call of a turn."""
    calls: Sequence[ClientCall] = chat.recorder.events_of(turn, Finished)[0].client_calls or ()
    (call,) = calls
    return call


def brought(call: str, text: str = "15 degrees") -> ProgramRequest:
    return ProgramRequest(tools=TOOLS, input=(SentMessage("tool", text, call=call),))


async def test_another_server_continues_after_the_result_and_repeats_no_effect() -> None:
    paid: list[int] = []

    @tool
    def pay(amount: int) -> str:
        """Pay."""
        paid.append(amount)
        return "paid"

    ledger = MemoryLedger()
    engine = ScriptedEngine(tool_call("pay", amount=5), tool_call("weather"))
    async with replica(ledger, engine, Actor, tools=(pay,)) as first:
        chat = ChatClient(first, CONVERSATION, "alice")
        subscription = await first.subscribe(CONVERSATION, chat.recorder)
        asked = await chat.say("pay 5, how warm?", program=OFFER)
        assert asked.outcome == "asked"
        call = called(chat, asked.turn)
        first.unsubscribe(subscription)
    engine = ScriptedEngine(ScriptedReply(text="It is warm.", pause_after=1))
    async with replica(ledger, engine, Actor, tools=(pay,)) as dying:
        chat = ChatClient(dying, CONVERSATION, "alice")
        subscription = await dying.subscribe(CONVERSATION, chat.recorder)
        turn = await chat.send("15 degrees", program=brought(call.id))
        await chat.recorder.wait_for(turn, text="It")
        await stored(dying, turn, "It")
        await die(dying)
        dying.unsubscribe(subscription)
    async with replica(ledger, ScriptedEngine("It is warm."), Actor, tools=(pay,)) as heir:
        chat = ChatClient(heir, CONVERSATION, "alice")
        subscription = await heir.subscribe(CONVERSATION, chat.recorder)
        reply = await chat.reply(turn)
        heir.unsubscribe(subscription)
    assert (reply, reply.outcome) == ("It is warm.", "done")
    assert paid == [5]


@pytest.mark.parametrize("wrong", ["call", "person"])
async def test_nothing_else_continues_the_work(wrong: str) -> None:
    engine = ScriptedEngine(tool_call("weather"), "Another answer.", "It is warm.")

    @tool
    def pay() -> str:
        """Pay."""
        return "paid"

    async with replica(MemoryLedger(), engine, Actor, tools=(pay,)) as server:
        alice, bob = (ChatClient(server, CONVERSATION, name) for name in ("alice", "bob"))
        subscriptions = [
            await server.subscribe(CONVERSATION, chat.recorder) for chat in (alice, bob)
        ]
        asked = await alice.say("how warm?", program=OFFER)
        call = called(alice, asked.turn)
        if wrong == "call":
            other = await alice.say("cold", program=brought("another"))
        else:
            other = await bob.say("cold", program=brought(call.id, "cold"))
        assert other == "Another answer."
        assert await alice.say("15 degrees", program=brought(call.id)) == "It is warm."
        for subscription in subscriptions:
            server.unsubscribe(subscription)
    last = engine.requests[-1].messages[-1]
    assert (last.role, "15 degrees" in last.content) == ("tool", True)
