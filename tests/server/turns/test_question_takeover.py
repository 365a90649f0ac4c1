"""A takeover keeps the decision whether a message answers a question."""

import pytest
from tests.server.skills_under_test import Painter, Parrot, Tailor
from tests.server.turns.test_takeover import CONVERSATION, die, replica, stored

from palaver import Skill, Turn
from palaver.config.settings import DispatchSettings, RoutingSettings, Settings
from palaver.testing import ChatClient, MemoryLedger, ScriptedEngine, ScriptedReply


class Guide(Skill):
    """Guide people through the town."""

    name = "guide"
    examples = ("guide me", "show me the town")

    async def answer(self, turn: Turn) -> None:
        wish = await turn.ask("Where to?")
        await turn.recall("last")
        await turn.stream(f"The way to {wish}")


def settings(threshold: float) -> Settings:
    return Settings(
        dispatch=DispatchSettings(lease=0.5),
        routing=RoutingSettings(default="parrot", threshold=threshold),
    )


@pytest.mark.parametrize(
    ("first", "second", "message", "reason"),
    [
        # The first server knows no painter, so that the message is an answer.
        ((Guide, Parrot), (Guide, Parrot, Painter), "Paint it in blue", "It asked, and this is"),
        # The second one, by its threshold, would take the message for an answer.
        ((Tailor, Parrot), (Tailor, Parrot), "repeat it after the engine", "The question was left"),
    ],
)
async def test_another_server_keeps_to_the_decision(
    first: tuple[type[Skill], ...], second: tuple[type[Skill], ...], message: str, reason: str
) -> None:
    ledger = MemoryLedger()
    engine = ScriptedEngine(ScriptedReply(text="one two", pause_after=1))
    async with replica(ledger, engine, *first, settings=settings(0.5)) as dying:
        chat = ChatClient(dying, CONVERSATION, "alice")
        subscription = await dying.subscribe(CONVERSATION, chat.recorder)
        await chat.say(f"/{first[0].name}")
        turn = await chat.send(message)
        await chat.recorder.wait_for(turn, text="one")
        await stored(dying, turn, "one")
        await die(dying)
        dying.unsubscribe(subscription)
    async with replica(ledger, ScriptedEngine("one two"), *second, settings=settings(1)) as heir:
        chat = ChatClient(heir, CONVERSATION, "alice")
        subscription = await heir.subscribe(CONVERSATION, chat.recorder)
        reply = await chat.reply(turn)
        heir.unsubscribe(subscription)
    assert (reply, reply.outcome) == ("one two", "done")
    assert reply.reason.startswith(reason)
