"""A message that comes while a turn runs: queued, merged, an interruption, or steering."""

from typing import Any, ClassVar

import pytest
from tests.server.skills_under_test import Clerk, Parrot
from tests.server.turns.test_takeover import CONVERSATION, die, replica, stored, until

from palaver import ConfigurationError, Skill, Turn
from palaver.config.settings import (
    ConcurrencyPolicySettings,
    DispatchSettings,
    RoutingSettings,
    Settings,
)
from palaver.errors import PluginLoadError
from palaver.ledger import ConcurrencyPolicies
from palaver.messages import Finished, Started
from palaver.plugins import check_skill
from palaver.testing import ChatClient, MemoryLedger, ScriptedEngine, ScriptedReply, converse
from palaver.turns import writer

pytestmark = pytest.mark.slow


def chosen(**concurrency_policy: Any) -> Settings:
    return Settings(
        routing=RoutingSettings(default="parrot", consult_engine=False),
        concurrency_policy=ConcurrencyPolicySettings(**concurrency_policy),
    )


def prompts(engine: ScriptedEngine, number: int) -> list[str]:
    """What the engine was told in its request."""
    return [message.content for message in engine.requests[number].messages]


# Merging


async def test_a_burst_becomes_one_turn() -> None:
    clock = [1000.0]
    engine = ScriptedEngine("Hello Bob.", "And on.")
    async with converse(
        Parrot,
        engine=engine,
        settings=chosen(default="merge", merge_window=5.0),
        ledger=MemoryLedger(clock=lambda: clock[0]),
    ) as chat:
        turn = await chat.send("Hello")
        clock[0] += 4
        assert await chat.send("I am Bob") == turn
        clock[0] += 4
        assert not engine.requests
        clock[0] += 1
        reply = await chat.reply(turn)
        assert reply == "Hello Bob."
        later = await chat.send("later")
        assert later != turn
        clock[0] += 5
        assert await chat.reply(later) == "And on."
    assert prompts(engine, 0) == ["Hello\n\nI am Bob"]
    assert prompts(engine, 1) == ["Hello\n\nI am Bob", "Hello Bob.", "later"]


async def test_a_typed_command_joins_no_burst() -> None:
    engine = ScriptedEngine("one", "two")
    settings = chosen(default="merge", merge_window=0.1)
    async with converse(Parrot, engine=engine, settings=settings) as chat:
        first = await chat.send("Hello")
        second = await chat.send("/parrot goodbye")
        assert [await chat.reply(first), await chat.reply(second)] == ["one", "two"]


# Interruption


@pytest.fixture
def no_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn learns of nothing by itself while it writes nothing."""
    monkeypatch.setitem(vars(writer), "MAX_HEARTBEAT_INTERVAL", 3600)


def unhurried(**concurrency_policy: Any) -> Settings:
    patient = DispatchSettings(lease=36_000)
    return chosen(**concurrency_policy).model_copy(update={"dispatch": patient})


async def test_a_message_reaches_a_turn_that_runs_here_at_once(no_heartbeat: None) -> None:
    engine = ScriptedEngine(ScriptedReply(text="one two", pause_after=1), "three")
    settings = unhurried(default="interrupt")
    async with converse(Parrot, engine=engine, settings=settings) as chat:
        turn = await chat.send("1")
        await stored(chat.server, turn, "one")
        await chat.send("2")
        assert (await chat.reply(turn)).outcome == "stopped"
    engine = ScriptedEngine(ScriptedReply(text="one two", pause_after=1), "three")
    async with converse(Guide, engine=engine, settings=unhurried()) as chat:
        turn = await chat.send("1")
        await stored(chat.server, turn, "one")
        await chat.send("2")
        assert await chat.reply(turn) == "one [2] three"


async def test_an_interruption_stops_the_turn_and_both_messages_are_answered() -> None:
    engine = ScriptedEngine(ScriptedReply(text="Paris is lovely in", pause_after=3), "Rome is too.")
    async with converse(Parrot, engine=engine, settings=chosen(default="interrupt")) as chat:
        first = await chat.send("Tell me of Paris")
        await chat.recorder.wait_for(first, text="Paris is lovely")
        second = await chat.send("I mean Rome")
        reply = await chat.reply(first)
        assert (reply, reply.outcome) == ("Paris is lovely", "stopped")
        assert await chat.reply(second) == "Rome is too."
        assert (await engine.stats()).running == 0
    assert prompts(engine, 1) == ["Tell me of Paris\n\nI mean Rome"]


async def test_an_interruption_reaches_the_replica_that_runs_the_turn() -> None:
    ledger = MemoryLedger()
    first, second = (
        ScriptedEngine(ScriptedReply(text="one two", pause_after=1)),
        ScriptedEngine("three"),
    )
    patient = DispatchSettings(lease=60)
    with_policy = chosen(default="interrupt").model_copy(update={"dispatch": patient})
    async with replica(ledger, first, Parrot, settings=with_policy) as owner:
        chat = ChatClient(owner, CONVERSATION, "alice")
        subscription = await owner.subscribe(CONVERSATION, chat.recorder)
        turn = await chat.send("1")
        await stored(owner, turn, "one")
        async with replica(ledger, second, Parrot, settings=with_policy) as other:
            await ChatClient(other, CONVERSATION, "alice").send("2")
            reply = await chat.reply(turn)
        assert (reply, reply.outcome) == ("one", "stopped")
        owner.unsubscribe(subscription)


# Steering


class Guide(Skill):
    """Go where one is told."""

    name = "guide"
    examples = ("show me around", "let us walk")
    concurrency_policy = "steer"

    async def answer(self, turn: Turn) -> None:
        await turn.stream(turn.message.text, steerable=True)
        while more := await turn.take_steering():
            await turn.say(f" [{', '.join(message.text for message in more)}] ")
            await turn.stream(more[-1].text, steerable=True)


class Deaf(Skill):
    """Never listen."""

    name = "deaf"
    examples = ("do not listen", "go straight on")
    concurrency_policy = "steer"

    async def answer(self, turn: Turn) -> None:
        await turn.stream(turn.message.text)


async def test_a_running_skill_is_steered() -> None:
    engine = ScriptedEngine(ScriptedReply(text="straight on for", pause_after=2), "left it is")
    async with converse(Guide, engine=engine) as chat:
        turn = await chat.send("go")
        await chat.recorder.wait_for(turn, text="straight on")
        assert await chat.send("left") == turn
        reply = await chat.reply(turn)
        assert (await engine.stats()).running == 0
        await chat.say("and now?")
    assert reply == "straight on [left] left it is"
    assert reply.outcome == "done"


async def test_the_end_of_a_turn_names_the_messages_that_it_took() -> None:
    engine = ScriptedEngine(ScriptedReply(text="straight on for", pause_after=2), "left it is")
    async with converse(Guide, engine=engine) as chat:
        turn = await chat.send("go", id="first")
        await chat.recorder.wait_for(turn, text="straight on")
        await chat.send("left", id="second")
        await chat.reply(turn)
        assert chat.recorder.events_of(turn, Finished)[-1].messages == ("first", "second")


async def test_the_end_of_a_turn_leaves_out_a_message_that_it_did_not_take() -> None:
    engine = ScriptedEngine(ScriptedReply(text="one", pause_after=1), "two")
    async with converse(Deaf, engine=engine) as chat:
        turn = await chat.send("first", id="m1")
        await chat.recorder.wait_for(turn, text="one")
        await chat.send("second", id="m2")
        engine.resume()
        await until(lambda: chat.recorder.turns["m2"] != turn)
        moved = chat.recorder.turns["m2"]
        await chat.reply(moved)
        assert chat.recorder.events_of(turn, Finished)[-1].messages == ("m1",)
        assert chat.recorder.events_of(moved, Finished)[-1].messages == ("m2",)


async def test_untaken_steering_becomes_the_next_turn() -> None:
    engine = ScriptedEngine(ScriptedReply(text="one", pause_after=1), "two")
    async with converse(Deaf, engine=engine) as chat:
        turn = await chat.send("first")
        await chat.recorder.wait_for(turn, text="one")
        assert await chat.send("second", id="m") == turn
        engine.resume()
        assert await chat.reply(turn) == "one"
        await until(lambda: chat.recorder.turns["m"] != turn)
        assert await chat.reply(chat.recorder.turns["m"]) == "two"
    assert prompts(engine, 1) == ["second"]


async def test_after_a_takeover_a_skill_is_steered_the_same_way() -> None:
    ledger = MemoryLedger()
    text = "left it is and on"
    first = ScriptedEngine(
        ScriptedReply(text="straight on", pause_after=2), ScriptedReply(text=text, pause_after=3)
    )
    second = ScriptedEngine(text)
    async with replica(ledger, first, Guide) as dying:
        chat = ChatClient(dying, CONVERSATION, "alice")
        subscription = await dying.subscribe(CONVERSATION, chat.recorder)
        turn = await chat.send("go")
        await chat.recorder.wait_for(turn, text="straight on")
        await chat.send("left")
        await chat.recorder.wait_for(turn, text="left it is")
        await stored(dying, turn, "left it is")
        await die(dying)
        dying.unsubscribe(subscription)
    async with replica(ledger, second, Guide) as heir:
        chat = ChatClient(heir, CONVERSATION, "alice")
        subscription = await heir.subscribe(CONVERSATION, chat.recorder)
        reply = await chat.reply(turn)
        heir.unsubscribe(subscription)
        assert chat.recorder.events_of(turn, Started)[-1].attempt == 2
    assert reply == "straight on [left] left it is and on"
    assert [request.partial for request in second.requests] == ["left it is"]
    settled = await ledger.snapshot(CONVERSATION, 10)
    assert [line.text for line in settled.history] == ["go", "left", reply]
    assert not settled.pending


class Tailor(Skill):
    """Ask for the size, and listen."""

    name = "tailor"
    examples = ("sew me a coat", "a coat please")
    concurrency_policy = "steer"

    async def answer(self, turn: Turn) -> None:
        await turn.stream("cloth", steerable=True)
        wishes = [message.text for message in await turn.take_steering()]
        size = await turn.ask("Which size?")
        wishes += [message.text for message in await turn.take_steering()]
        await turn.say(f"Size {size}: {wishes}")


async def test_steering_before_a_question_is_remembered_after_it() -> None:
    engine = ScriptedEngine(ScriptedReply(text="wool or", pause_after=1))
    async with converse(Tailor, engine=engine) as chat:
        turn = await chat.send("a coat")
        await chat.recorder.wait_for(turn, text="wool")
        await chat.send("in red")
        assert (await chat.reply(turn)).outcome == "asked"
        assert await chat.say("large") == "Size large: ['in red']"


# Which policy


@pytest.mark.parametrize(
    ("settings", "joins"),
    [
        (chosen(), True),
        (chosen(default="queue", channels={"test": "queue"}), True),
        (chosen(skills={"deaf": "queue"}), False),
    ],
)
async def test_a_skills_own_policy_yields_only_to_a_setting_for_the_skill(
    settings: Settings, joins: bool
) -> None:
    engine = ScriptedEngine(ScriptedReply(text="one", pause_after=1), "two")
    async with converse(Deaf, Parrot, engine=engine, settings=settings) as chat:
        turn = await chat.send("/deaf go")
        await chat.recorder.wait_for(turn, text="one")
        assert (await chat.send("more") == turn) is joins
        engine.resume()
        await chat.reply(turn)


@pytest.mark.parametrize(
    ("settings", "outcome"),
    [
        (chosen(default="interrupt"), "stopped"),
        (chosen(default="interrupt", channels={"test": "queue"}), "done"),
        (chosen(channels={"test": "interrupt"}), "stopped"),
        (chosen(channels={"other": "interrupt"}), "done"),
    ],
)
async def test_a_channels_policy_is_stronger_than_the_default(
    settings: Settings, outcome: str
) -> None:
    engine = ScriptedEngine(ScriptedReply(text="one", pause_after=1), "two")
    async with converse(Parrot, engine=engine, settings=settings) as chat:
        turn = await chat.send("go")
        await chat.recorder.wait_for(turn, text="one")
        await chat.send("more")
        if outcome == "done":
            engine.resume()
        assert (await chat.reply(turn)).outcome == outcome


async def test_a_policy_for_an_unknown_skill_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'nobody'"):
        async with converse(Parrot, settings=chosen(skills={"nobody": "queue"})):
            pass


def test_a_skill_with_an_unknown_policy_is_refused() -> None:
    class Odd(Parrot):
        """Have an odd policy."""

        concurrency_policy: ClassVar[Any] = "sometimes"

    with pytest.raises(PluginLoadError, match="'sometimes'"):
        check_skill(Odd)


async def test_a_queue_is_what_happens_without_a_policy() -> None:
    assert ConcurrencyPolicies().default == "queue"
    async with converse(Clerk) as chat:
        assert (await chat.say("hello")).outcome == "asked"
